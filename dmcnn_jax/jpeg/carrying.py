"""Replaces the picture in a JPEG file, and keeps everything else in the file.

The result has the original's application segments and comments, byte for byte, the new picture's
tables and scans, and the original's trailer. Sizes and positions in the file are corrected in three
standard structures: the index of multi-picture files (MPF), EXIF's directories, and the picture's
length in XMP's container directory.

Limits. Positions in makers' own formats are copied without correction, and a remark says so: maker
notes that point to previews behind the picture (ExifTool lists them for Casio, Minolta, Olympus,
Pentax, Sony and others), and AFCP, which measures from the file's start. Positions measured from
the file's end, or from the data themselves, remain valid: Samsung's trailer, the videos of motion
photos, MPF inside further pictures. Descriptions of the original encoding, such as the quality in
segments of Photoshop and Ducky, are kept, and still describe the original. Only the main packet of
XMP is corrected, since it identifies its extension by an MD5 digest.
"""

import dataclasses
import itertools
import re
from collections.abc import Sequence

from dmcnn_jax.jpeg import marker_codes as codes
from dmcnn_jax.jpeg.container_lengths import find_primary_lengths, set_primary_lengths
from dmcnn_jax.jpeg.frame import ANY_SIZE, ApplicationSegment, ColorModel, Segments, color_model
from dmcnn_jax.jpeg.markers import Stream, parse
from dmcnn_jax.jpeg.metadata import XMP
from dmcnn_jax.jpeg.moved_offsets import MPF, Move, move_exif, move_mpf, names_position


@dataclasses.dataclass(frozen=True)
class CarriedFile:
    """A JPEG file whose picture was replaced.

    Attributes:
        data: the file.
        notes: remarks of one short phrase each, on contents that could not be kept or corrected.
    """

    data: bytes
    notes: tuple[str, ...]


def replace_picture(
    original: bytes, picture: bytes, *, added: Sequence[tuple[int, bytes]] = ()
) -> CarriedFile:
    """Returns a JPEG file with the picture of one file and everything else of another.

    Segments after the original's first scan are moved before it, since many programs read none
    after it. Fill bytes, and stray bytes between segments, are left out.

    The colours of a JPEG file depend on its JFIF and Adobe segments and, without them, on the
    numbers of its components. The result has the original's segments, so the caller has to write
    the picture with the original's colour space and component numbers.

    Args:
        original: a JPEG file that `markers.parse` accepts.
        picture: a JPEG file without damage, of the same size and colour space. Its own application
            segments and comments are left out.
        added: markers (0xE0..0xEF, 0xFE) and payloads of further segments, at most 65533 bytes
            each. They follow the original's segments.

    Raises:
        JpegError: a file can't be read.
        ValueError: the picture is damaged, has another size or colour space, or would be read with
            another colour space in the result; or an added segment is impossible.
    """
    old = parse(original, "original", ANY_SIZE)
    new = parse(picture, "picture", ANY_SIZE)
    _check_added(added)
    segments, late = _arrange(old, new)
    _check_picture(old, new, [*_pairs(segments), *added])
    parts = [*(codes.write_segment(*each) for each in added), new.plain[2:-2]]
    rest = b"".join([*parts, *(codes.write_segment(*each) for each in _pairs(late)), _EOI])
    old_end = len(original) - len(old.trailer)
    payloads, length_notes = _correct_lengths(segments, old_end, len(rest))
    move = Move(0, 0, old_end, _end_of_picture(payloads, len(rest)), len(old.trailer))
    payloads, offset_notes = _correct_offsets(segments, payloads, move, old.trailer)
    head = b"".join(
        codes.write_segment(s.marker, p) for s, p in zip(segments, payloads, strict=True)
    )
    return CarriedFile(
        data=b"".join([_SOI, head, rest, old.trailer]),
        notes=(*_notes(old, segments), *length_notes, *offset_notes),
    )


_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_MAX_PAYLOAD = 65_533
_MAX_ROUNDS = 5

_EXIF = b"Exif\0"
# The start of the first segment of a C2PA JUMBF box.
_CREDENTIALS = re.compile(rb"JP.{22}c2pa", re.DOTALL)
_AFCP = b"AXS!", b"AXS*"  # 12 bytes before the end
_MAX_POSITIONS = 5


def _check_added(added: Sequence[tuple[int, bytes]]) -> None:
    for marker, payload in added:
        if not (codes.APP0 <= marker <= codes.APP15 or marker == codes.COM):
            raise ValueError(
                f"an added segment has marker {marker:#x}; expected 0xe0..0xef or 0xfe"
            )
        if len(payload) > _MAX_PAYLOAD:
            raise ValueError(
                f"an added segment has {len(payload)} bytes; expected at most {_MAX_PAYLOAD}"
            )


def _arrange(old: Stream, new: Stream) -> tuple[list[ApplicationSegment], list[ApplicationSegment]]:
    """Returns the segments to write before the picture's scans, and those to write after them."""
    early = [each for each in old.segments if not each.after_scan]
    late = [each for each in old.segments if each.after_scan]
    if _color(new, _pairs(early)) == _color(new, _pairs(early + late)):
        return early + late, []
    # Decoders ignore colour information in such late segments, but would use it before the scans.
    naming_colors = (codes.APP0, codes.APP14)
    return (
        early + [each for each in late if each.marker not in naming_colors],
        [each for each in late if each.marker in naming_colors],
    )


def _check_picture(old: Stream, new: Stream, segments: Segments) -> None:
    if new.damage:
        raise ValueError(f"the new picture is damaged: {new.damage}")
    sizes = [(each.width, each.height, len(each.components)) for each in (old, new)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            "the new picture has {} x {} pixels of {} components; expected {} x {} of {}".format(
                *sizes[1], *sizes[0]
            )
        )
    color = _color(new, segments)
    if color != old.color:
        raise ValueError(
            f"the new picture would be read as {color}; expected {old.color}, as the original:"
            " write it with the original's component numbers"
        )


def _correct_lengths(
    segments: Sequence[ApplicationSegment], old_end: int, rest: int
) -> tuple[list[bytes], tuple[str, ...]]:
    """Corrects the picture's length in XMP.

    Args:
        segments: the segments to write before the picture.
        old_end: the original picture's length in bytes.
        rest: the number of bytes after the segments, up to the end of the picture.

    Returns:
        The segments' payloads, and remarks.
    """
    payloads = [each.payload for each in segments]
    packets = {
        index: each.payload[len(XMP) :]
        for index, each in enumerate(segments)
        if each.marker == codes.APP1 and each.payload.startswith(XMP)
    }
    values = {v.value for packet in packets.values() for v in find_primary_lengths(packet)} - {0}
    # The length depends on its own number of digits, unless the packet's padding compensates.
    for _ in range(_MAX_ROUNDS if old_end in values else 0):
        end = _end_of_picture(payloads, rest)
        for index, packet in packets.items():
            payloads[index] = XMP + set_primary_lengths(packet, old_end, end)
        if _end_of_picture(payloads, rest) == end:
            break
    if any(len(payload) > _MAX_PAYLOAD for payload in payloads):
        note = "the XMP has no room for the picture's new length, and gives the old one"
        return [each.payload for each in segments], (note,)
    return payloads, tuple(
        f"XMP gave the picture's length as {value} bytes, not {old_end}, and is left so"
        for value in sorted(values - {old_end})
    )


def _correct_offsets(
    segments: Sequence[ApplicationSegment], payloads: Sequence[bytes], move: Move, trailer: bytes
) -> tuple[list[bytes], tuple[str, ...]]:
    """Corrects offsets in MPF and EXIF that point behind the picture.

    Args:
        segments: the original's segments.
        payloads: payloads of these segments in the result.
        move: old and new position of the trailer; byte-order marks are filled in here.
        trailer: the bytes after the picture.

    Returns:
        The payloads, and remarks.
    """
    corrected: list[bytes] = []
    notes: tuple[str, ...] = ()
    pictures = itertools.islice(re.finditer(rb"\xff\xd8\xff", trailer), _MAX_POSITIONS)
    positions = {move.old_end + at for at in (0, *(each.start() for each in pictures)) if trailer}
    position = len(_SOI)
    for each, payload in zip(segments, payloads, strict=True):
        position += 4
        if each.marker == codes.APP2 and payload.startswith(MPF):
            marks = each.start + len(MPF), position + len(MPF)
            payload, remarks = move_mpf(payload, move.between(*marks))
            notes += remarks
        elif each.marker == codes.APP1 and payload.startswith(_EXIF):
            seen = move.between(each.start + len(_EXIF) + 1, position + len(_EXIF) + 1)
            payload = move_exif(payload, seen)
            if names_position(payload, seen, positions):
                notes += ("EXIF seems to give the old position of data behind the picture",)
        position += len(payload)
        corrected.append(payload)
    return corrected, notes


def _notes(old: Stream, segments: Sequence[ApplicationSegment]) -> tuple[str, ...]:
    """Returns remarks on parts of the original that were moved, or don't describe the result."""
    notes = []
    if moved := sum(each.after_scan for each in segments):
        notes.append(f"{_count(moved, 'segment')} after the first scan moved before it")
    if misstated := sum(each.misstated for each in old.segments):
        notes.append(f"{_count(misstated, 'segment')} of an impossible length written as empty")
    if old.stray:
        notes.append(f"{_count(old.stray, 'stray byte')} between segments left out")
    if old.unread:
        notes.append(f"{_count(old.unread, 'byte')} behind the damage left out")
    if any(s.marker == codes.APP11 and _CREDENTIALS.match(s.payload) for s in segments):
        notes.append("Content Credentials kept, but their signature doesn't match the new picture")
    if old.trailer[-12:].startswith(_AFCP):
        notes.append("positions in the AFCP trailer are those of the original file")
    return tuple(notes)


def _color(picture: Stream, segments: Segments) -> ColorModel:
    return color_model(picture.components, segments)


def _pairs(segments: Sequence[ApplicationSegment]) -> Segments:
    return [(each.marker, each.payload) for each in segments]


def _end_of_picture(payloads: Sequence[bytes], rest: int) -> int:
    """Returns the size of a picture from its segments and the number of bytes after them."""
    return len(_SOI) + sum(4 + len(payload) for payload in payloads) + rest


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"
