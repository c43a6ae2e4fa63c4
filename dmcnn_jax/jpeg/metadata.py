"""Reads the metadata of JPEG files: EXIF, colour profile, XMP, IPTC, resolution and comments.

Metadata is in application segments of at most 64 kB each, so larger items are split over several.
Since the image can be decoded without metadata, malformed items are left out, with a remark.
"""

import dataclasses
import struct

from dmcnn_jax.jpeg.attachments import Attachment, find_attachments
from dmcnn_jax.jpeg.frame import Segments
from dmcnn_jax.jpeg.marker_codes import APP0, APP1, APP2, APP13, COM

Resolution = tuple[float, float]

# The prefixes of segments with XMP, its extension, and Photoshop's resources.
XMP = b"http://ns.adobe.com/xap/1.0/\0"
EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
PHOTOSHOP = b"Photoshop 3.0\0"


@dataclasses.dataclass(frozen=True)
class Metadata:
    r"""Metadata to carry over to the restored image.

    Attributes:
        exif: EXIF data with its header ``Exif\0\0``, as Pillow's ``save(exif=...)`` takes it.
        orientation: EXIF's, 1 to 8; 1 (upright) if it is missing or invalid.
        icc: ICC colour profile.
        xmp: the main XMP packet.
        resolution: pixels per inch, horizontal and vertical.
        comments: bytes as in the file, of unknown encoding.
        extended_xmp: the parts of an XMP packet beyond 64 kB, as in the file: payloads of segments,
            each with a GUID of 32 bytes, the total length and the part's offset.
        photoshop: Photoshop's image resources, which hold IPTC data (captions, copyright).
        attachments: the file's other contents, which `carrying.replace_picture` keeps and other
            outputs don't.
    """

    exif: bytes | None = None
    orientation: int = 1
    icc: bytes | None = None
    xmp: bytes | None = None
    resolution: Resolution | None = None
    comments: tuple[bytes, ...] = ()
    extended_xmp: tuple[bytes, ...] = ()
    photoshop: bytes | None = None
    attachments: tuple[Attachment, ...] = ()


def collect(
    segments: Segments, trailer: bytes = b"", unread: int = 0
) -> tuple[Metadata, tuple[str, ...]]:
    """Collects the metadata in a file's application segments.

    Args:
        segments: markers and payloads, in the file's order.
        trailer: the bytes after the end marker.
        unread: the number of bytes after the trailer.

    Returns:
        The metadata, and remarks on items that were left out.
    """
    notes: list[str] = []
    exif = _exif(segments, notes)
    tags = _tiff_tags(exif[6:]) if exif else {}
    orientation = tags.get(_ORIENTATION, 1)
    metadata = Metadata(
        exif=exif,
        orientation=int(orientation) if orientation in range(1, 9) else 1,
        icc=_icc(segments, notes),
        xmp=_first(segments, APP1, XMP),
        resolution=_plausible(_jfif_resolution(segments) or _tiff_resolution(tags), notes),
        comments=tuple(payload for marker, payload in segments if marker == COM),
        extended_xmp=_all(segments, APP1, EXTENDED_XMP),
        photoshop=b"".join(_all(segments, APP13, PHOTOSHOP)) or None,
        attachments=find_attachments(segments, trailer, unread),
    )
    return metadata, tuple(notes)


_EXIF = b"Exif\0"  # and a byte of padding, 0 in most files
_ICC = b"ICC_PROFILE\0"
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}

_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x112, 0x11A, 0x11B, 0x128
_INCH, _CENTIMETRE = 2, 3
_SHORT, _LONG, _RATIONAL = 3, 4, 5


def _first(segments: Segments, marker: int, prefix: bytes) -> bytes | None:
    """Returns the first payload of a marker that begins with a prefix, without the prefix."""
    return next(iter(_all(segments, marker, prefix)), None)


def _all(segments: Segments, marker: int, prefix: bytes) -> tuple[bytes, ...]:
    """Returns the payloads of a marker that begin with a prefix, without the prefix."""
    return tuple(
        payload[len(prefix) :]
        for each, payload in segments
        if each == marker and payload.startswith(prefix)
    )


def _exif(segments: Segments, notes: list[str]) -> bytes | None:
    pieces = [
        payload[len(_EXIF) + 1 :]
        for marker, payload in segments
        if marker == APP1 and payload.startswith(_EXIF) and len(payload) > len(_EXIF)
    ]
    # EXIF over 64 kB continues in the next segment; but some programs write all of EXIF twice.
    continued = [p for p in pieces[1:] if not p.startswith((b"II*\0", b"MM\0*"))]
    if not pieces:
        return None
    tiff = b"".join([pieces[0], *continued])
    if not _is_tiff(tiff):
        notes.append("malformed EXIF data are left out")
        return None
    return b"Exif\0\0" + tiff


def _is_tiff(data: bytes) -> bool:
    """Returns whether data begins like a TIFF structure whose first directory has entries."""
    order = _BYTE_ORDERS.get(data[:4])
    if order is None or len(data) < 8:
        return False
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    return start >= 8 and any(data[start : start + 2])


def _icc(segments: Segments, notes: list[str]) -> bytes | None:
    pieces: dict[int, bytes] = {}
    counts: set[int] = set()
    for marker, payload in segments:
        if marker == APP2 and payload.startswith(_ICC) and len(payload) >= len(_ICC) + 2:
            number, count = payload[len(_ICC) : len(_ICC) + 2]
            pieces.setdefault(number, payload[len(_ICC) + 2 :])
            counts.add(count)
    if not pieces:
        return None
    numbers = sorted(pieces)
    if len(counts) > 1 or numbers != list(range(1, max(counts) + 1)):
        notes.append(f"the colour profile is incomplete ({len(pieces)} of {max(counts)} parts)")
        return None
    return b"".join(pieces[number] for number in numbers)


def _jfif_resolution(segments: Segments) -> Resolution | None:
    payload = _first(segments, APP0, b"JFIF\0")
    if payload is None or len(payload) < 7:
        return None
    unit, x, y = struct.unpack_from(">2xBHH", payload)
    # With unit 0, the numbers only give the aspect ratio of a pixel.
    inches = {1: 1.0, 2: 2.54}.get(unit)
    return (x * inches, y * inches) if inches and x and y else None


def _plausible(resolution: Resolution | None, notes: list[str]) -> Resolution | None:
    # Output formats can't store other resolutions.
    if resolution and not all(0.01 <= dots < 65535.5 for dots in resolution):
        notes.append("an implausible resolution is left out")
        return None
    return resolution


def _tiff_resolution(tags: dict[int, float]) -> Resolution | None:
    scales: dict[float, float] = {_INCH: 1.0, _CENTIMETRE: 2.54}
    inches = scales.get(tags.get(_RESOLUTION_UNIT, _INCH))
    x = tags.get(_X_RESOLUTION)
    y = tags.get(_Y_RESOLUTION, x)
    return (x * inches, y * inches) if inches and x and y else None


def _tiff_tags(tiff: bytes) -> dict[int, float]:
    """Returns the valid single-number tags in the first directory of a TIFF structure."""
    tags: dict[int, float] = {}
    order = _BYTE_ORDERS.get(tiff[:4])
    if order is None:
        return tags
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(f"{order}HHI", tiff, entry)
            if number != 1:
                continue
            if kind == _SHORT:
                (tags[tag],) = struct.unpack_from(f"{order}H", tiff, entry + 8)
            elif kind == _LONG:
                (tags[tag],) = struct.unpack_from(f"{order}I", tiff, entry + 8)
            elif kind == _RATIONAL:
                (offset,) = struct.unpack_from(f"{order}I", tiff, entry + 8)
                numerator, denominator = struct.unpack_from(f"{order}II", tiff, offset)
                tags[tag] = numerator / denominator if denominator else 0.0
    except struct.error:
        pass  # cut off: keep the preceding tags
    return tags
