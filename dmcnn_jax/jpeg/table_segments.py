"""Quantisation and Huffman tables as JPEG files define them (T.81, B.2.4)."""

import numpy as np

from dmcnn_jax.jpeg.errors import MalformedError
from dmcnn_jax.jpeg.tables import ZIGZAG

# By class (0 DC, 1 AC) and slot: length of the shortest code, in bits.
HuffmanTables = dict[tuple[int, int], int]


def read_quantisation_tables(payload: bytes) -> dict[int, np.ndarray]:
    """Reads a DQT segment.

    Returns:
        int32 [8, 8], natural order, read-only, by slot 0..3.

    Raises:
        MalformedError: the segment is malformed, or a quantisation step is zero.
    """
    tables = {}
    rest = payload
    while rest:
        precision, slot = rest[0] >> 4, rest[0] & 15
        size = 128 if precision else 64
        if precision > 1 or slot > 3 or len(rest) < 1 + size:
            raise MalformedError("a quantisation table segment is malformed")
        entries = np.frombuffer(rest[1 : 1 + size], ">u2" if precision else "u1")
        if not entries.all():
            raise MalformedError(
                f"quantisation table {slot} has a zero step; expected 1 to"
                f" {65535 if precision else 255}"
            )
        table = np.empty(64, np.int32)
        table[ZIGZAG] = entries
        table.flags.writeable = False
        tables[slot] = table.reshape(8, 8)
        rest = rest[1 + size :]
    return tables


def read_huffman_tables(payload: bytes) -> HuffmanTables:
    """Reads a DHT segment.

    Returns:
        The length of each table's shortest code.

    Raises:
        MalformedError: the segment is malformed, or its codes are impossible.
    """
    tables = {}
    rest = payload
    while rest:
        kind, slot = rest[0] >> 4, rest[0] & 15
        counts = rest[1:17]
        symbols = rest[17 : 17 + sum(counts)]
        if kind > 1 or slot > 3 or len(counts) < 16 or len(symbols) < sum(counts):
            raise MalformedError("a Huffman table segment is malformed")
        code = 0
        for length, count in enumerate(counts, 1):
            code = 2 * code + count
            if count and code >= 1 << length:
                raise MalformedError("a Huffman table has more codes than fit")
        if len(symbols) > 256 or (kind == 0 and max(symbols, default=0) > 15):
            raise MalformedError("a Huffman table has undefined symbols")
        tables[kind, slot] = next((i for i, count in enumerate(counts, 1) if count), 1)
        rest = rest[17 + len(symbols) :]
    return tables
