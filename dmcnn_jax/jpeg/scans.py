"""Scan headers of JPEG files (T.81, B.2.3), and whether a scan's data can be complete."""

import dataclasses
import itertools
import math
import re
from typing import NamedTuple

from dmcnn_jax.jpeg.errors import MalformedError
from dmcnn_jax.jpeg.frame import Frame, FrameComponent
from dmcnn_jax.jpeg.table_segments import HuffmanTables

# T.81's limit (B.2.3) on the blocks of an interleaved unit.
_MAX_BLOCKS_IN_MCU = 10

_RESTART = re.compile(rb"\xff([\xd0-\xd7])")


class ScanComponent(NamedTuple):
    """A component in a scan, and the slots of its Huffman tables."""

    component: FrameComponent
    dc: int
    ac: int


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """A scan header.

    Attributes:
        selected: the components in the scan.
        first, last: its coefficients, zigzag positions (Ss and Se in T.81).
        high: the lowest bit sent before, 0 if none was (Ah).
        low: the lowest bit that it sends (Al).
    """

    selected: tuple[ScanComponent, ...]
    first: int
    last: int
    high: int
    low: int

    @property
    def interleaved(self) -> bool:
        """Whether blocks of several components alternate."""
        return len(self.selected) > 1


def read_scan(payload: bytes, frame: Frame) -> Scan:
    """Reads a scan header.

    Args:
        payload: of the scan header's segment.
        frame: of the file.

    Returns:
        The scan; of a sequential file always with all coefficients and bits.

    Raises:
        MalformedError: the header is malformed, or refers to components that are not in the frame.
    """
    count = payload[0] if payload else 0
    if not 1 <= count <= 4 or len(payload) != 4 + 2 * count:
        raise MalformedError("a scan header is malformed")
    by_id = {c.id: c for c in frame.components}
    selected: list[ScanComponent] = []
    for number, slots in zip(payload[1 : 1 + 2 * count : 2], payload[2::2], strict=False):
        if number not in by_id:
            raise MalformedError(f"a scan names component {number}, which the image doesn't have")
        component = by_id.pop(number)
        # libjpeg doesn't find components that come later than in the frame (T.81 forbids that).
        if frame.components.index(component) < len(selected):
            raise MalformedError(
                "a scan's components are out of the frame's order, which libjpeg can't decode"
                " either; a program that shows the picture can save it again"
            )
        selected.append(ScanComponent(component, slots >> 4, slots & 15))
    scan = Scan(tuple(selected), payload[-3], payload[-2], payload[-1] >> 4, payload[-1] & 15)
    if scan.interleaved and _blocks_in_mcu(scan) > _MAX_BLOCKS_IN_MCU:
        raise MalformedError(f"a scan interleaves over {_MAX_BLOCKS_IN_MCU} blocks")
    if not frame.progressive:
        # Sequential files often have other values there, which decoders ignore.
        scan = dataclasses.replace(scan, first=0, last=63, high=0, low=0)
    return scan


def record_scan(scan: Scan, *, progressive: bool, huffman: HuffmanTables) -> None:
    """Checks a scan against those before it, and records in its components which bits it sends.

    Args:
        scan: the next scan of the file.
        progressive: whether the file is progressive.
        huffman: the tables defined so far.

    Raises:
        MalformedError: coefficients come twice or out of order, or a Huffman table is missing.
    """
    if progressive:
        _record_progressive(scan, huffman)
    else:
        _record_sequential(scan, huffman)


def split_surplus_restarts(
    scan: Scan, frame: Frame, entropy: bytes, interval: int
) -> tuple[bytes, bytes]:
    """Splits a scan's data before its first surplus restart marker.

    By then, decoders either have all blocks, or meet the marker too early and miss the rest.

    Args:
        scan: the scan.
        frame: of the file.
        entropy: the scan's data.
        interval: MCUs between restart markers, 0 for none.

    Returns:
        The data up to that marker, and the data from it on; empty if there is none.
    """
    expected = _count_intervals(scan, frame, interval) - 1
    surplus = next(itertools.islice(_RESTART.finditer(entropy), expected, None), None)
    end = surplus.start() if surplus else len(entropy)
    return entropy[:end], entropy[end:]


def restart_damage(scan: Scan, frame: Frame, entropy: bytes, interval: int) -> str | None:
    """Compares restart markers with the number of MCUs.

    Args:
        scan: the scan.
        frame: of the file.
        entropy: the scan's data, without surplus markers.
        interval: MCUs between restart markers, 0 for none.

    Returns:
        The fault, or None.
    """
    expected = _count_intervals(scan, frame, interval) - 1
    markers = b"".join(_RESTART.findall(entropy))
    if markers == (bytes(range(0xD0, 0xD8)) * (expected // 8 + 1))[:expected]:
        return None
    return f"{len(markers)} restart markers; expected {expected} in order"


def available_share(scan: Scan, frame: Frame, entropy: bytes, huffman: HuffmanTables) -> float:
    """Returns the data's length as a share of the least length that the scan's blocks can take.

    Args:
        scan: the scan, checked by `record_scan`.
        frame: of the file.
        entropy: the scan's data.
        huffman: the tables defined so far.
    """
    mcus = _count_mcus(scan, frame)
    least = 0.0  # bits
    for component, dc, ac in scan.selected:
        blocks = mcus * (component.horizontal * component.vertical if scan.interleaved else 1)
        if not frame.progressive:
            # The typical tables' shortest codes have 2 bits.
            least += blocks * (huffman.get((0, dc), 2) + huffman.get((1, ac), 2))
        elif scan.first == 0:
            least += blocks * (1 if scan.high else huffman[0, dc])
        else:
            # One code can end the band in up to 32767 blocks.
            least += math.ceil(blocks / 32767) * huffman[1, ac]
    return 8 * data_bytes(entropy) / least


def count_blocks(scan: Scan, frame: Frame) -> int:
    """Returns the number of blocks in a scan, including those that pad interleaved units."""
    return _count_mcus(scan, frame) * (_blocks_in_mcu(scan) if scan.interleaved else 1)


def data_bytes(entropy: bytes) -> int:
    """Returns the number of bytes of a scan's data, without restart markers."""
    return len(entropy) - 2 * count_restarts(entropy)


def count_restarts(entropy: bytes) -> int:
    """Returns the number of restart markers in a scan's data."""
    return len(_RESTART.findall(entropy))


def _record_sequential(scan: Scan, huffman: HuffmanTables) -> None:
    for component, dc, ac in scan.selected:
        if component.sent[0] == 0:
            raise MalformedError(f"component {component.id} comes twice")
        component.sent = [0] * 64
        # Frames of motion JPEG omit the tables that T.81 gives as typical, in slots 0 and 1.
        if (
            dc > 3
            or ac > 3
            or any(slot > 1 and (kind, slot) not in huffman for kind, slot in ((0, dc), (1, ac)))
        ):
            raise MalformedError(f"a Huffman table ({dc} or {ac}) is missing")


def _record_progressive(scan: Scan, huffman: HuffmanTables) -> None:
    """Records a progressive scan; bits come once, highest first, DC before AC (annex G)."""
    first, last, high, low = scan.first, scan.last, scan.high, scan.low
    name = f"a progressive scan ({first} to {last}, bits {high} to {low})"
    if not (
        (first == last == 0 or (1 <= first <= last <= 63 and not scan.interleaved))
        and low <= 13
        and (high == 0 or low == high - 1)
    ):
        raise MalformedError(f"{name} is impossible")
    for component, dc, ac in scan.selected:
        if first and component.sent[0] < 0:
            raise MalformedError(f"{name} comes before the DC scan of component {component.id}")
        if any(bit != (high or -1) for bit in component.sent[first : last + 1]):
            raise MalformedError(f"{name} does not continue those before it")
        component.sent[first : last + 1] = [low] * (last + 1 - first)
        table = (1, ac) if first else (0, dc)
        if table not in huffman and (first or not high):
            raise MalformedError(f"Huffman table {table[1]} is missing")


def _count_mcus(scan: Scan, frame: Frame) -> int:
    """Returns the number of MCUs: single blocks, or units of interleaved ones."""
    if not scan.interleaved:
        component = scan.selected[0].component
        return component.rows * component.columns
    across = -(-frame.width // (8 * frame.max_horizontal))
    return across * -(-frame.height // (8 * frame.max_vertical))


def _count_intervals(scan: Scan, frame: Frame, interval: int) -> int:
    """Returns the number of intervals between a scan's restart markers; 1 without markers."""
    return -(-_count_mcus(scan, frame) // interval) if interval else 1


def _blocks_in_mcu(scan: Scan) -> int:
    return sum(c.horizontal * c.vertical for c, _, _ in scan.selected)
