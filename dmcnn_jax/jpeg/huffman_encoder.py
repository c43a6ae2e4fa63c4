"""Codes quantised coefficients as the data of a sequential scan (ITU-T T.81, F.1.2), in NumPy.

The data of any encoder are reproduced bit for bit from its coefficients, Huffman tables, restart
interval and padding, since a sequential scan leaves it no other choice.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dmcnn_jax.jpeg.tables import ZIGZAG


class HuffmanCode(NamedTuple):
    """The codes of a Huffman table.

    Attributes:
        codes: by symbol, uint32 [256], right-aligned.
        lengths: in bits, by symbol, uint8 [256]; 0: the symbol has no code.
    """

    codes: np.ndarray
    lengths: np.ndarray


class CodedPlane(NamedTuple):
    """A component in a scan.

    Attributes:
        coefficients: integers [rows, columns, 64], natural order, with the blocks that pad
            interleaved units.
        vertical, horizontal: rows and columns of its blocks in a unit; 1 and 1 if it is the only
            component.
        dc: the code of its DC differences.
        ac: the code of its AC coefficients.
    """

    coefficients: np.ndarray
    vertical: int
    horizontal: int
    dc: HuffmanCode
    ac: HuffmanCode


def make_code(counts: bytes, symbols: bytes) -> HuffmanCode:
    """Returns the codes of a table as files define it (T.81, annex C).

    Args:
        counts: the number of codes of each length from 1 to 16 (BITS).
        symbols: in the order of their codes (HUFFVAL).
    """
    codes, lengths = np.zeros(256, np.uint32), np.zeros(256, np.uint8)
    code = position = 0
    for length, count in enumerate(counts, 1):
        for symbol in symbols[position : position + count]:
            codes[symbol], lengths[symbol] = code, length
            code += 1
        position += count
        code <<= 1
    return HuffmanCode(codes, lengths)


def fill_units(coefficients: np.ndarray, vertical: int, horizontal: int) -> np.ndarray:
    """Adds the blocks that pad interleaved units, as libjpeg does.

    Their AC coefficients are zero. Their DC coefficient is that of the preceding block in the unit,
    which costs fewest bits.

    Args:
        coefficients: integers [rows, columns, 64].
        vertical: rows of blocks in a unit.
        horizontal: columns of blocks in a unit.

    Returns:
        [rows, columns, 64], with both rounded up to whole units.
    """
    rows, columns, _ = coefficients.shape
    below, beside = -rows % vertical, -columns % horizontal
    if not below and not beside:
        return coefficients
    filled = np.pad(coefficients, ((0, below), (0, beside), (0, 0)))
    filled[:rows, columns:, 0] = coefficients[:, -1:, 0]
    before = filled[rows - 1, horizontal - 1 :: horizontal, 0]
    filled[rows:, :, 0] = np.repeat(before, horizontal)
    return filled


def encode_scan(
    planes: Sequence[CodedPlane], *, restart_interval: int = 0, padding: int = 1
) -> bytes:
    """Codes the data of a sequential scan.

    Args:
        planes: its components, with equal numbers of units.
        restart_interval: units between restart markers; 0: no markers.
        padding: the bit, 0 or 1, that pads the last byte before a marker.

    Returns:
        The data, with a zero byte after each 0xFF, and restart markers.

    Raises:
        ValueError: a coefficient has no code in its table.
    """
    writer = _BitWriter(padding)
    predictions = [0] * len(planes)
    parts = []
    done = restarts = 0  # units, markers
    total = _count_units(planes[0])
    interval = restart_interval or total
    for blocks in _unit_bands(planes):
        count = len(blocks)
        units = np.arange(done, done + count)
        starts = units % interval == 0
        ends = (units + 1) % interval == 0
        done += count
        ends[-1] |= done == total
        differences = _predict(blocks, planes, starts, predictions)
        events = _code_blocks(blocks, differences, planes, ends)
        for data, is_end in writer.write(events):
            parts.append(data.replace(b"\xff", b"\xff\0"))
            if is_end and restarts < (total - 1) // interval:
                parts.append(bytes((0xFF, 0xD0 + restarts % 8)))
                restarts += 1
    return b"".join(parts)


class _Events(NamedTuple):
    """Bits to write.

    Attributes:
        values: uint64, right-aligned.
        lengths: in bits, 0 to 32, int64.
        ends: indices of the events that pad a byte; their lengths are not yet known.
    """

    values: np.ndarray
    lengths: np.ndarray
    ends: np.ndarray


# Approximate number of blocks coded at a time; they take 100 bytes for each nonzero coefficient.
_BAND_BLOCKS = 16384

_ZERO_RUN, _END_OF_BLOCK = 0xF0, 0x00

# Magnitude -> its number of bits, F.1.2.1.
_SIZES = np.array([n.bit_length() for n in range(1 << 16)], np.uint8)


def _count_units(plane: CodedPlane) -> int:
    rows, columns, _ = plane.coefficients.shape
    return (rows // plane.vertical) * (columns // plane.horizontal)


def _unit_bands(planes: Sequence[CodedPlane]) -> Iterator[np.ndarray]:
    """Yields units in their order: int32 [units, blocks of a unit, 64], zigzag order."""
    rows = planes[0].coefficients.shape[0] // planes[0].vertical
    columns = planes[0].coefficients.shape[1] // planes[0].horizontal
    step = max(1, _BAND_BLOCKS // (columns * sum(p.vertical * p.horizontal for p in planes)))
    for top in range(0, rows, step):
        parts = []
        for coefficients, v, h, _, _ in planes:
            part = coefficients[v * top : v * (top + step)]
            part = part.reshape(-1, v, columns, h, 64).swapaxes(1, 2)
            parts.append(part.reshape(-1, v * h, 64))
        yield np.concatenate(parts, 1)[..., ZIGZAG].astype(np.int32)


def _predict(
    blocks: np.ndarray, planes: Sequence[CodedPlane], starts: np.ndarray, predictions: list[int]
) -> np.ndarray:
    """Returns the differences of DC coefficients from the preceding ones (F.1.1.5.1).

    Args:
        blocks: as `_unit_bands` yields them.
        planes: the components.
        starts: which units begin an interval, bool [units].
        predictions: the last DC coefficient of each plane, updated in place.

    Returns:
        int32 [units, blocks of a unit].
    """
    differences = np.empty(blocks.shape[:2], np.int32)
    first = 0
    for index, plane in enumerate(planes):
        last = first + plane.vertical * plane.horizontal
        dc = blocks[:, first:last, 0]
        before = np.append(predictions[index], dc.ravel()[:-1]).reshape(dc.shape)
        before[starts, 0] = 0
        differences[:, first:last] = dc - before
        predictions[index] = int(dc[-1, -1])
        first = last
    return differences


def _code_blocks(
    blocks: np.ndarray, differences: np.ndarray, planes: Sequence[CodedPlane], ends: np.ndarray
) -> _Events:
    """Returns the bits of units, without those that pad bytes (F.1.2).

    Args:
        blocks: as `_unit_bands` yields them.
        differences: of DC coefficients, int32 [units, blocks of a unit].
        planes: the components.
        ends: which units end an interval, bool [units].
    """
    in_unit = [i for i, p in enumerate(planes) for _ in range(p.vertical * p.horizontal)]
    plane = np.tile(np.array(in_unit), len(blocks))  # of each block
    dc_codes, dc_lengths = _stack([p.dc for p in planes])
    ac_codes, ac_lengths = _stack([p.ac for p in planes])

    # The nonzero coefficients, in order.
    ac = np.ascontiguousarray(blocks.reshape(-1, 64)[:, 1:])
    flat = np.flatnonzero(ac)
    block, position = np.divmod(flat, 63)
    value = ac.ravel()[flat]
    follows = np.append(False, block[1:] == block[:-1])[: len(flat)]
    before = np.where(follows, np.append(-1, position[:-1])[: len(flat)], -1)
    zero_runs, run = np.divmod(position - before - 1, 16)

    # The order of events: DC, then runs of 16 zeros and coefficients, end of block, padding.
    unfinished = ac[:, 62] == 0
    closing = np.zeros((len(blocks), len(in_unit)), bool)
    closing[:, -1] = ends
    after = unfinished + closing.ravel().astype(np.int64)
    others = np.arange(len(ac)) + np.cumsum(after) - after  # events before a block, without AC
    ac_place = np.arange(len(flat)) + np.cumsum(zero_runs) + others[block] + 1
    ac_events = np.bincount(block, 1 + zero_runs, len(ac)).astype(np.int64)
    dc_place = others + np.cumsum(ac_events) - ac_events
    end_place = dc_place + 1 + ac_events
    values = np.zeros(len(ac) + int(ac_events.sum() + after.sum()), np.uint64)
    lengths = np.zeros(len(values), np.int64)

    size, bits = _magnitude(differences.ravel())
    lengths[dc_place] = dc_lengths[plane, size] + size
    values[dc_place] = dc_codes[plane, size] << size | bits
    _check(dc_lengths[plane, size], "DC")
    size, bits = _magnitude(value)
    symbol, owner = run << 4 | size, plane[block]
    lengths[ac_place] = ac_lengths[owner, symbol] + size
    values[ac_place] = ac_codes[owner, symbol] << size | bits
    _check(ac_lengths[owner, symbol], "AC")
    single = [(ac_place[zero_runs >= k] - k, owner[zero_runs >= k], _ZERO_RUN) for k in (1, 2, 3)]
    single.append((end_place[unfinished], plane[unfinished], _END_OF_BLOCK))
    for place, owner, symbol in single:
        lengths[place] = ac_lengths[owner, symbol]
        values[place] = ac_codes[owner, symbol]
        _check(ac_lengths[owner, symbol], "AC")
    padded = closing.ravel()
    return _Events(values, lengths, (end_place + unfinished)[padded])


def _stack(codes: Sequence[HuffmanCode]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the codes and lengths of several tables, int64 [tables, 256]."""
    return (
        np.stack([c.codes for c in codes]).astype(np.int64),
        np.stack([c.lengths for c in codes]).astype(np.int64),
    )


def _magnitude(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of bits of values, and these bits (F.1.2.1), int64.

    Raises:
        ValueError: a value needs more than 16 bits.
    """
    magnitudes = np.abs(values.astype(np.int64))
    if magnitudes.max(initial=0) >= len(_SIZES):
        raise ValueError(f"a DC difference of {magnitudes.max()}; expected at most 65535")
    sizes = _SIZES[magnitudes].astype(np.int64)
    return sizes, np.where(values < 0, (1 << sizes) - 1 - magnitudes, magnitudes)


def _check(lengths: np.ndarray, kind: str) -> None:
    if not lengths.all():
        raise ValueError(f"a coefficient has no code in its {kind} Huffman table")


class _BitWriter:
    """A writer that joins bits to bytes, band by band."""

    def __init__(self, padding: int) -> None:
        self.padding = padding
        self.rest = 0  # bits that don't fill a byte yet, right-aligned
        self.rest_length = 0

    def write(self, events: _Events) -> Iterator[tuple[bytes, bool]]:
        """Yields the bytes up to each end of an interval, with True; then the others."""
        values = np.append(np.uint64(self.rest), events.values)
        lengths = np.append(self.rest_length, events.lengths)
        ends = events.ends + 1
        reached = np.cumsum(lengths)[ends]
        missing = -np.diff(reached, prepend=0) % 8
        lengths[ends] = missing
        if self.padding:
            values[ends] = (1 << missing) - 1
        stops = np.cumsum(lengths)
        total = int(stops[-1])
        data = _join(values, stops - lengths, lengths, total)
        start = 0
        for stop in (stops[ends] // 8).tolist():
            yield data[start:stop], True
            start = stop
        self.rest_length = total % 8
        self.rest = data[total // 8] >> 8 - self.rest_length if self.rest_length else 0
        yield data[start : total // 8], False


def _join(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray, total: int) -> bytes:
    """Returns values as a sequence of bits, padded with zeros.

    Args:
        values: uint64, right-aligned.
        starts: the position of each in bits.
        lengths: of each in bits, 0 to 32.
        total: the number of bits.
    """
    word, offset = np.divmod(starts, 32)
    spread = values << (64 - offset - lengths).astype(np.uint64)
    # A shift by 64 is undefined; such values have no bits.
    spread[lengths == 0] = 0
    size = total // 32 + 2
    # No two values share a bit, so the words are sums, which float64 represents exactly.
    words = np.bincount(word, (spread >> np.uint64(32)).astype(np.float64), size)
    words[1:] += np.bincount(word, (spread & np.uint64(0xFFFFFFFF)).astype(np.float64), size)[:-1]
    return words.astype(np.uint32).astype(">u4").tobytes()
