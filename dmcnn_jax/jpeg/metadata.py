"""What a JPEG file says of its image beside the pixels: orientation, colour profile, and the like.

It travels in application segments, each of at most 64 kB, so that larger pieces come in several.
Nothing in here is needed to decode the image: what is malformed is left out, and said.
"""

import dataclasses
import struct


@dataclasses.dataclass(frozen=True)
class Metadata:
    r"""What to hand on to the restored image.

    Attributes:
        exif: EXIF data with its header ``Exif\0\0``, as Pillow's ``save(exif=...)`` takes it.
        orientation: EXIF's, 1 to 8; 1 (upright) without or if it makes no sense.
        icc: ICC colour profile.
        xmp: the main XMP packet.
        resolution: pixels per inch, horizontal and vertical.
        comments: as they are in the file, in no particular encoding.
    """

    exif: bytes | None = None
    orientation: int = 1
    icc: bytes | None = None
    xmp: bytes | None = None
    resolution: tuple[float, float] | None = None
    comments: tuple[bytes, ...] = ()


def collect(segments: list[tuple[int, bytes]]) -> tuple[Metadata, tuple[str, ...]]:
    """Puts together what the application segments of a file hold.

    Args:
        segments: markers and payloads, in the file's order.

    Returns:
        The metadata, and remarks on what was left out.
    """
    notes = []
    exif = _exif(segments)
    tags = _tiff_tags(exif[6:]) if exif else {}
    orientation = tags.get(_ORIENTATION)
    metadata = Metadata(
        exif=exif,
        orientation=orientation if orientation in range(1, 9) else 1,
        icc=_icc(segments, notes),
        xmp=_first(segments, _APP1, _XMP),
        resolution=_plausible(_jfif_resolution(segments) or _tiff_resolution(tags), notes),
        comments=tuple(payload for marker, payload in segments if marker == _COM),
    )
    if _first(segments, _APP1, _EXTENDED_XMP) is not None:
        notes.append("extended XMP is left out")
    if _first(segments, _APP13, b"Photoshop 3.0\0") is not None:
        notes.append("IPTC data (captions, copyright) are left out")
    return metadata, tuple(notes)


_APP0, _APP1, _APP2, _APP13, _COM = 0xE0, 0xE1, 0xE2, 0xED, 0xFE
_EXIF = b"Exif\0"  # and a byte of padding, 0 in most files
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_ICC = b"ICC_PROFILE\0"

_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x112, 0x11A, 0x11B, 0x128
_INCH, _CENTIMETRE = 2, 3
_SHORT, _LONG, _RATIONAL = 3, 4, 5


def _first(segments, marker, prefix):
    for each, payload in segments:
        if each == marker and payload.startswith(prefix):
            return payload[len(prefix) :]
    return None


def _exif(segments):
    pieces = [
        payload[len(_EXIF) + 1 :]
        for marker, payload in segments
        if marker == _APP1 and payload.startswith(_EXIF) and len(payload) > len(_EXIF)
    ]
    # Over 64 kB goes on in the next segment, but some programs write the whole twice.
    continued = [p for p in pieces[1:] if not p.startswith((b"II*\0", b"MM\0*"))]
    return b"".join([b"Exif\0\0", pieces[0], *continued]) if pieces else None


def _icc(segments, notes):
    pieces, counts = {}, set()
    for marker, payload in segments:
        if marker == _APP2 and payload.startswith(_ICC) and len(payload) >= len(_ICC) + 2:
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


def _jfif_resolution(segments):
    payload = _first(segments, _APP0, b"JFIF\0")
    if payload is None or len(payload) < 7:
        return None
    unit, x, y = struct.unpack_from(">2xBHH", payload)
    # Unit 0 gives the shape of a pixel only.
    inches = {1: 1.0, 2: 2.54}.get(unit)
    return (x * inches, y * inches) if inches and x and y else None


def _plausible(resolution, notes):
    # Formats that are written hold no more.
    if resolution and not all(0.01 <= dots < 65535.5 for dots in resolution):
        notes.append("a resolution that makes no sense is left out")
        return None
    return resolution


def _tiff_resolution(tags):
    inches = {_INCH: 1.0, _CENTIMETRE: 2.54}.get(tags.get(_RESOLUTION_UNIT, _INCH))
    x = tags.get(_X_RESOLUTION)
    y = tags.get(_Y_RESOLUTION, x)
    return (x * inches, y * inches) if inches and x and y else None


def _tiff_tags(tiff):
    """The single numbers of the first directory of a TIFF structure, as far as they make sense."""
    tags = {}
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
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
        pass  # cut off: what came before is as good as any
    return tags
