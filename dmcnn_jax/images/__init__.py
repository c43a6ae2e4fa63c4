"""Colour conversion, quality metrics, and image file formats."""
