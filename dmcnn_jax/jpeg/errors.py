"""Errors in JPEG files."""


class JpegError(ValueError):
    """A JPEG file that can't be restored. The message is one line: file, reason, way out."""


class MalformedError(Exception):
    """What is wrong with a JPEG stream, without the name of the file."""
