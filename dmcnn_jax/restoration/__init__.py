"""One JPEG file to one restored picture: model selection, colour, rounding, verification."""
