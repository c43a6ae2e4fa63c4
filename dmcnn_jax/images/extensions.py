"""Extensions of file names, apart from `formats` so that commands can plan without JAX."""

JPEG_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif")
"""Extensions of JPEG files, in lower case."""

LOSSLESS_EXTENSIONS = (".png", ".webp", ".bmp", ".tif", ".tiff")
"""Extensions of files that may store the pixels of a decoded JPEG file, in lower case."""
