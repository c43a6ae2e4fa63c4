"""Errors in JPEG files."""


class JpegError(ValueError):
    """A JPEG file that can't be restored. The message is one line: file, reason, way out."""


class TooLargeError(JpegError):
    """A JPEG file with more pixels than its reader accepts."""


class MalformedError(Exception):
    """A malformed JPEG stream; the message does not name the file."""


class OversizedError(MalformedError):
    """A JPEG stream with more pixels than its reader accepts."""
