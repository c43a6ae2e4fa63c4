"""Corrects offsets into the trailer after a picture, when the picture's size changes.

Two standard structures have such offsets: the index of a multi-picture file (MPF, CIPA DC-007), and
EXIF's directories (TIFF 6.0). Both measure offsets from their own byte-order mark.
"""

import dataclasses
import struct
from collections.abc import Iterable, Iterator

MPF = b"MPF\0"

_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_MP_ENTRIES = 0xB002
_STRIP_OFFSETS, _SUB_IFDS, _THUMBNAIL_OFFSET = 0x111, 0x14A, 0x201
_LONG, _IFD = 4, 13
_MAX_DIRECTORIES = 20


@dataclasses.dataclass(frozen=True)
class Move:
    """The old and new positions of a structure and the trailer.

    Attributes:
        old_mark, new_mark: positions of the structure's byte-order mark.
        old_end, new_end: positions of the first byte after the picture.
        trailer: the number of bytes after the picture.
    """

    old_mark: int
    new_mark: int
    old_end: int
    new_end: int
    trailer: int

    def between(self, old_mark: int, new_mark: int) -> "Move":
        """Returns the move of the same trailer relative to other marks."""
        return dataclasses.replace(self, old_mark=old_mark, new_mark=new_mark)

    def is_inside(self, offset: int) -> bool:
        """Returns whether an old offset from the mark points into the trailer."""
        return self.old_end <= self.old_mark + offset < self.old_end + self.trailer

    def offset(self, offset: int) -> int:
        """Returns the new value of an offset that points into the trailer."""
        return offset + self.old_mark - self.old_end + self.new_end - self.new_mark


def move_mpf(payload: bytes, move: Move) -> tuple[bytes, tuple[str, ...]]:
    """Corrects the sizes and offsets of an MPF segment (CIPA DC-007, 5.2.3.3).

    Args:
        payload: of the segment.
        move: where the segment's byte-order mark and the trailer were and are.

    Returns:
        The payload, and remarks on invalid entries, which are kept unchanged.
    """
    tiff, notes = bytearray(payload[len(MPF) :]), []
    order = _BYTE_ORDERS.get(bytes(tiff[:4]))
    entries = _find_mp_entries(bytes(tiff), order) if order else None
    if order is None or entries is None:
        return payload, ("an index of further pictures (MPF) is unreadable and kept unchanged",)
    for number, at in enumerate(entries, 1):
        size, offset = struct.unpack_from(f"{order}II", tiff, at + 4)
        moved = None
        if offset == 0 and number > 1 and not size:
            continue  # an unused entry
        if offset == 0:
            # Some writers count the padding before the next picture.
            if move.old_end <= size <= move.old_end + move.trailer:
                moved = size + move.new_end - move.old_end, 0
        elif move.is_inside(offset):
            moved = size, move.offset(offset)
        if moved is None or not all(0 <= value < 2**32 for value in moved):
            notes.append(f"entry {number} of the index of further pictures (MPF) points nowhere")
        else:
            struct.pack_into(f"{order}II", tiff, at + 4, *moved)
    return MPF + bytes(tiff), tuple(notes)


def move_exif(payload: bytes, move: Move) -> bytes:
    """Corrects offsets in EXIF's directories that point behind the picture.

    Thumbnails are nearly always inside the segment; their offsets don't change. Offsets in maker
    notes are not corrected; `names_position` finds them.

    Args:
        payload: of the segment, with its header of 6 bytes.
        move: where the segment's byte-order mark and the trailer were and are.
    """
    header, tiff = payload[:6], bytearray(payload[6:])
    order = _BYTE_ORDERS.get(bytes(tiff[:4]))
    if order is None or len(tiff) < 8:
        return payload
    for tag, at in _long_entries(bytes(tiff), order):
        (offset,) = struct.unpack_from(f"{order}I", tiff, at)
        if tag in (_STRIP_OFFSETS, _THUMBNAIL_OFFSET) and move.is_inside(offset):
            moved = move.offset(offset)
            if 0 <= moved < 2**32:
                struct.pack_into(f"{order}I", tiff, at, moved)
    return header + bytes(tiff)


def names_position(payload: bytes, move: Move, positions: Iterable[int]) -> bool:
    """Returns whether EXIF seems to hold an outdated position behind the picture.

    Maker notes have no common format, so the function searches for the numbers themselves, in
    either byte order, measured from the byte-order mark or from the file's start.

    Args:
        payload: of the segment, corrected.
        move: where the segment's byte-order mark and the trailer were and are.
        positions: positions of the parts that the original file has behind the picture.
    """
    offsets = {each - mark for each in positions for mark in (0, move.old_mark)}
    numbers = [struct.pack(f"{order}I", each) for each in offsets for order in "<>" if each < 2**32]
    return move.old_end != move.new_end and any(number in payload for number in numbers)


def _find_mp_entries(tiff: bytes, order: str) -> range | None:
    """Returns the position of an index's entries of 16 bytes; None if the index is malformed."""
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, size, value = struct.unpack_from(f"{order}HHII", tiff, at)
            if tag == _MP_ENTRIES and value + size <= len(tiff):
                return range(value, value + size - 15, 16)
    except struct.error:
        pass
    return None


def _long_entries(tiff: bytes, order: str) -> Iterator[tuple[int, int]]:
    """Yields the single-number tags in all directories of a TIFF, with the numbers' positions."""
    (first,) = struct.unpack_from(f"{order}I", tiff, 4)
    waiting, seen = [first], set[int]()
    while waiting and len(seen) < _MAX_DIRECTORIES:
        start = waiting.pop()
        if start in seen or not 8 <= start <= len(tiff) - 2:
            continue
        seen.add(start)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        end = start + 2 + 12 * count
        for at in range(start + 2, min(end, len(tiff) - 11), 12):
            tag, kind, number, value = struct.unpack_from(f"{order}HHII", tiff, at)
            if kind not in (_LONG, _IFD):
                continue
            if number == 1:
                yield tag, at + 8
            numbers = at + 8 if number == 1 else value
            if tag == _SUB_IFDS and numbers + 4 * number <= len(tiff):
                waiting += struct.unpack_from(f"{order}{number}I", tiff, numbers)
        if end + 4 <= len(tiff):
            waiting += struct.unpack_from(f"{order}I", tiff, end)
