"""Divides a JPEG file into its segments, the data of its scans, and all other bytes."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from dmcnn_jax.jpeg import marker_codes as codes
from dmcnn_jax.jpeg.table_segments import read_quantisation_tables


class Piece(NamedTuple):
    """A piece of a file.

    Attributes:
        kind: "segment", from its marker to its end; "data", the entropy-coded data of a scan;
            "other": bytes between segments, and after the picture.
        marker: of a segment; 0 for other pieces.
        start, end: positions in the file.
    """

    kind: Literal["segment", "data", "other"]
    marker: int
    start: int
    end: int


class ScanTables(NamedTuple):
    """The tables and factors on which a component's data in a scan depend.

    Attributes:
        id: the component's number.
        vertical, horizontal: its sampling factors.
        quantisation: its table, int32 [8, 8], natural order.
        dc, ac: its Huffman tables: the numbers of codes of each length, and the symbols.
    """

    id: int
    vertical: int
    horizontal: int
    quantisation: np.ndarray
    dc: tuple[bytes, bytes]
    ac: tuple[bytes, bytes]


@dataclasses.dataclass(frozen=True)
class ScanHeader:
    """The properties of a scan, from the segments before its data.

    Attributes:
        sequential: whether it is a scan of a sequential file.
        components: in the scan.
        restart_interval: units between restart markers; 0: no markers.
    """

    sequential: bool
    components: tuple[ScanTables, ...]
    restart_interval: int


def divide(data: bytes) -> Iterator[Piece]:
    """Yields the pieces of a file that `markers.parse` accepts; together they are the file."""
    yield Piece("segment", codes.SOI, 0, 2)
    position = 2
    while found := _MARKER.search(data, position):
        marker, end = found[1][0], found.end()
        if found.start() > position:
            yield Piece("other", 0, position, found.start())
        if marker not in (codes.SOI, codes.EOI, *codes.WITHOUT_SEGMENT):
            end += max(2, int.from_bytes(data[end : end + 2], "big"))
        position = min(end, len(data))
        yield Piece("segment", marker, found.start(), position)
        if marker in (codes.SOI, codes.EOI):
            break
        if marker == codes.SOS:
            stop = codes.END_OF_SCAN.search(data, position)
            end = stop.start() if stop else len(data)
            yield Piece("data", 0, position, end)
            position = end
    if position < len(data):
        yield Piece("other", 0, position, len(data))


def read_scan_header(data: bytes) -> ScanHeader:
    """Returns a scan's properties from the part of a file that ends with its header.

    Args:
        data: the file's bytes before the data of the scan.

    Raises:
        ValueError: the bytes don't end with a scan header, or a header is malformed.
        LookupError: the header refers to a table or component that isn't defined.
    """
    huffman = dict(_TYPICAL)
    quantisation: dict[int, np.ndarray] = {}
    frame, interval, marker, payload = b"", 0, 0, b""
    sequential = False
    for piece in divide(data):
        if piece.kind != "segment":
            continue
        marker, payload = piece.marker, data[piece.start + 4 : piece.end]
        if marker == codes.DQT:
            quantisation |= read_quantisation_tables(payload)
        elif marker == codes.DHT:
            huffman |= _read_codes(payload)
        elif marker == codes.DRI:
            interval = int.from_bytes(payload, "big")
        elif marker in codes.SUPPORTED_FRAMES:
            frame, sequential = payload, marker != codes.PROGRESSIVE
    if marker != codes.SOS:
        raise ValueError("the data doesn't follow a scan header")
    if not 1 <= payload[0] <= 4:
        raise ValueError(f"a scan of {payload[0]} components; expected 1 to 4")
    by_id = {frame[i]: frame[i + 1 : i + 3] for i in range(6, 6 + 3 * frame[5], 3)}
    components = []
    for number, slots in zip(payload[1 : 1 + 2 * payload[0] : 2], payload[2::2], strict=False):
        factors, table = by_id[number]
        if not (1 <= factors & 15 <= 4 and 1 <= factors >> 4 <= 4):
            raise ValueError(f"sampling factors {factors:#x}; expected 1 to 4 each")
        components.append(
            ScanTables(
                id=number,
                vertical=factors & 15,
                horizontal=factors >> 4,
                quantisation=quantisation[table],
                dc=huffman[0, slots >> 4],
                ac=huffman[1, slots & 15],
            )
        )
    return ScanHeader(sequential, tuple(components), interval)


TYPICAL_SEGMENTS = bytes.fromhex(
    # Tables K.3, K.5, K.4 and K.6, in the order in which libjpeg writes them.
    "ffc4001f00" "00010501010101010100000000000000" "000102030405060708090a0b"
    "ffc400b510" "0002010303020403050504040000017d"
    "01020300041105122131410613516107227114328191a1082342b1c11552d1f0"
    "243362728209" "0a161718191a25262728292a3435363738393a43444546474849"
    "4a535455565758595a636465666768696a737475767778797a83848586878889"
    "8a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5"
    "c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8"
    "f9fa"
    "ffc4001f01" "00030101010101010101010000000000" "000102030405060708090a0b"
    "ffc400b511" "00020102040403040705040400010277"
    "00010203110405213106124151076171132232810814" "4291a1b1c109233352f0"
    "156272d10a162434e125f11718191a262728292a35363738393a434445464748"
    "494a535455565758595a636465666768696a737475767778797a828384858687"
    "88898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3"
    "c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8"
    "f9fa"
)  # fmt: skip
"""The typical Huffman tables of T.81 (annex K), as four segments."""


# As in `markers`: any number of 0xFF may precede a marker.
_MARKER = re.compile(rb"\xff([\x01-\xfe])")


def _read_codes(payload: bytes) -> dict[tuple[int, int], tuple[bytes, bytes]]:
    """Returns the Huffman tables of a segment, by class (0 DC, 1 AC) and slot."""
    tables = {}
    while payload:
        size = 17 + sum(payload[1:17])
        tables[payload[0] >> 4, payload[0] & 15] = payload[1:17], payload[17:size]
        payload = payload[size:]
    return tables


# Frames of motion JPEG omit these tables. Without headers, the segments are one segment's content.
_TYPICAL = _read_codes(re.sub(rb"\xff\xc4\0[\x1f\xb5]", b"", TYPICAL_SEGMENTS))
