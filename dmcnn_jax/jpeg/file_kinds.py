"""Recognises files that are not JPEG files by their first bytes, to name them in errors."""

import re

# The first bytes of other kinds of files.
_OTHER_KINDS = (
    (rb"\x89PNG\r\n\x1a\n", "a PNG image"),
    (rb"GIF8", "a GIF image"),
    (rb"RIFF....WEBP", "a WebP image"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "a TIFF or raw image"),
    (rb"BM", "a BMP image"),
    (rb"....ftyp(heic|heix|mif1|msf1|avif|avis)", "a HEIF or AVIF image"),
    (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL image"),
    (rb"%PDF", "a PDF document"),
    (rb"\s*<", "a text or web page"),
)


def describe_other(head: bytes) -> str | None:
    """Describes a file that does not begin like a JPEG file.

    Args:
        head: the first bytes of the file, at least 12 if the file is that long.

    Returns:
        A few words, or None if it begins like a JPEG file.
    """
    if head[:2] == b"\xff\xd8":
        return None
    if not head:
        return "an empty file"
    for pattern, kind in _OTHER_KINDS:
        if re.match(pattern, head, re.DOTALL):
            return kind
    return f"a file that begins with {head[:4].hex(' ')}"
