"""Checks whether a restored JPEG file is unchanged, by its certificate and its original.

Only parses markers and compares bytes; decodes nothing.
"""

from dmcnn_jax.jpeg.carrying import replace_picture
from dmcnn_jax.jpeg.certificate import Certificate, find_certificate, is_certificate
from dmcnn_jax.jpeg.errors import JpegError
from dmcnn_jax.jpeg.frame import ANY_SIZE, Segments
from dmcnn_jax.jpeg.markers import parse
from dmcnn_jax.jpeg.recipe import is_recipe


def read_certificate(data: bytes) -> Certificate | None:
    """Returns the certificate of a file; None if it has none, or one for another picture.

    Args:
        data: any file.
    """
    try:
        stream = parse(data, "restored", ANY_SIZE)
    except JpegError:
        return None
    return find_certificate(stream.applications, stream.plain)


def is_as_written(restored: bytes, original: bytes) -> bool:
    """Returns whether a restored file still has its original's metadata and other contents.

    Putting its picture into the original again must give the same bytes.

    Args:
        restored: a file with a certificate.
        original: the file that it was restored from.
    """
    try:
        stream = parse(restored, "restored", ANY_SIZE)
        carried = _own(parse(original, "original", ANY_SIZE).applications)
        added = _own(stream.applications)[len(carried) :]
        return replace_picture(original, stream.plain, added=added).data == restored
    except ValueError:  # a JpegError is one
        return False


def _own(segments: Segments) -> Segments:
    """Returns the segments that this package adds."""
    return [each for each in segments if is_certificate(*each) or is_recipe(*each)]
