"""Carries the metadata of a JPEG file over to other formats."""

from PIL import Image


def to_exif(metadata):
    """Returns a Pillow EXIF object that holds a file's EXIF data, XMP and comments."""
    exif = Image.Exif()
    exif.load(metadata.exif or b"")
    for tag in _STORAGE.intersection(exif):
        del exif[tag]
    if metadata.xmp:
        exif[XMP] = metadata.xmp
    if metadata.comments:
        exif.setdefault(DESCRIPTION, decode_comment(b"\n".join(metadata.comments)))
    return exif


def decode_comment(comment):
    """A comment in a JPEG file has no particular encoding."""
    try:
        return comment.decode()
    except UnicodeDecodeError:
        return comment.decode("latin-1")


XMP_KEYWORD = "XML:com.adobe.xmp"


# Rows of a 16-bit picture compressed at a time.
ROWS = 256


# Tags of TIFF 6.0, and of its supplements on XMP and colour profiles.
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS = 256, 257, 258, 259, 262, 273


SAMPLES, ROWS_PER_STRIP, COUNTS, X_RESOLUTION, Y_RESOLUTION = 277, 278, 279, 282, 283


PLANAR, UNIT, PREDICTOR, XMP, ICC, DESCRIPTION = 284, 296, 317, 700, 34675, 270


DEFLATE, DIFFERENCES, INCH = 8, 2, 2


# All tags of TIFF 6.0 that say how pixels are stored. In EXIF data they are of another file.
_STORAGE = frozenset(
    {254, 255, 262, 263, 264, 265, 266, 273, 284, 290, 291, 292, 293, 297, 301, 330, 332, 347}
    | {*range(256, 260), *range(277, 282), *range(317, 326), *range(338, 344), *range(512, 522)}
    | {*range(529, 533)}
)
