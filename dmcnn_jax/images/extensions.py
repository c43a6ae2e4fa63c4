"""Extensions of file names, apart from `formats` so that commands can plan without JAX."""

JPEG_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif")
"""Extensions of JPEG files, in lower case."""
