"""Errors in JPEG files."""


class JpegError(ValueError):
    """A JPEG file that can't be restored. The message is one line: file, reason, way out."""


class MalformedError(Exception):
    """A malformed JPEG stream; the message does not name the file."""
