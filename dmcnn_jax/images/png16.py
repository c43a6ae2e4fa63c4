"""Reads and writes 16-bit PNG files; Pillow keeps only the upper 8 bits of colours.

PNG (ISO/IEC 15948) filters bytes, not samples: a filtered byte is the difference from a prediction
by the corresponding bytes of neighbouring pixels. So the upper bytes of a 16-bit picture and its
lower bytes are each an 8-bit picture, filtered row by row in the same way. Pillow decodes both, in
C.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np
from PIL import Image, PngImagePlugin

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Rows filtered and compressed at a time.
_ROWS = 256

# Channels of each colour type: gray, RGB, gray and alpha, RGB and alpha.
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}


def is_png16(head: bytes) -> bool:
    """Returns whether a file is a PNG file of 16 bits, judging by its first 33 bytes."""
    return head.startswith(SIGNATURE) and head[24:25] == b"\x10" and head[25] in _CHANNELS


def read_png16(data: bytes, name: str) -> np.ndarray:
    """Returns the pixels of a 16-bit PNG file, without transparency.

    Args:
        data: the file.
        name: the file's name, for errors.

    Returns:
        uint16 [height, width] or [height, width, 3].

    Raises:
        ValueError: if the file is damaged.
    """
    width, height, _, color_type, _, _, interlaced = struct.unpack_from(">2I5B", data, 16)
    channels = _CHANNELS[color_type]
    sizes = list(_pass_sizes(width, height)) if interlaced else [(width, height)]
    length = sum(rows * (1 + 2 * channels * columns) for columns, rows in sizes)
    compressed = b"".join(payload for kind, payload in _chunks(data) if kind == b"IDAT")
    try:
        decompressor = zlib.decompressobj()
        # Expands hardly more data than the header announces. zlib verifies the checksum only at the
        # end of the data, which needs one more byte.
        raw = decompressor.decompress(compressed, length + 1)
    except zlib.error as error:
        raise ValueError(f"{name}: a damaged PNG file ({error})") from None
    if len(raw) != length or not decompressor.eof:
        raise ValueError(f"{name}: a damaged PNG file; expected {length} bytes of filtered pixels")
    upper, lower = (
        _decode_8_bits(_every_second_byte(raw, sizes, channels, first), data[16:29])
        for first in (0, 1)
    )
    pixels = upper.astype(np.uint16) << 8 | lower
    if channels > 2:
        return pixels[..., :3]
    return pixels if channels == 1 else pixels[..., 0]


def write_png16(file: IO[bytes], pixels: np.ndarray, header: bytes) -> None:
    """Writes a 16-bit PNG file.

    Each row is filtered by the difference from the pixel to the left or above, whichever is
    expected to compress better. Memory is bounded by a band of rows.

    Args:
        file: open for writing in binary.
        pixels: uint16 [height, width] or [height, width, 3].
        header: an 8-bit PNG file of any picture, whose metadata chunks are copied.
    """
    height, width = pixels.shape[:2]
    color_type = 2 if pixels.ndim == 3 else 0
    file.write(SIGNATURE)
    _put(file, b"IHDR", struct.pack(">2I5B", width, height, 16, color_type, 0, 0, 0))
    for kind, payload in _chunks(header):
        if kind not in (b"IHDR", b"IDAT", b"IEND"):
            _put(file, kind, payload)
    compressor = zlib.compressobj(4, strategy=zlib.Z_FILTERED)
    above = np.zeros(pixels[0].size * 2, np.uint8)
    for top in range(0, height, _ROWS):
        band = np.ascontiguousarray(pixels[top : top + _ROWS], ">u2")
        rows = band.view(np.uint8).reshape(len(band), -1)
        if data := compressor.compress(_filter_rows(rows, above, 2 * _CHANNELS[color_type])):
            _put(file, b"IDAT", data)
        above = rows[-1]
    _put(file, b"IDAT", compressor.flush())
    _put(file, b"IEND", b"")


def _pass_sizes(width: int, height: int) -> Iterator[tuple[int, int]]:
    """Yields columns and rows of the seven passes of an interlaced picture (Adam7)."""
    origins = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
    for left, top, across, down in (*origins, (0, 1, 1, 2)):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            yield columns, rows


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the types and payloads of a PNG file's chunks."""
    position = len(SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, data[position + 8 : position + 8 + length]
        position += 12 + length


def _every_second_byte(
    raw: bytes, sizes: list[tuple[int, int]], channels: int, first: int
) -> bytes:
    """Returns the upper (first = 0) or lower (first = 1) bytes of filtered rows of 16-bit samples.

    Each row begins with the number of its filter, which is kept.
    """
    parts, position = [], 0
    for columns, rows in sizes:
        stride = 1 + 2 * channels * columns
        lines = np.frombuffer(raw, np.uint8, rows * stride, position).reshape(rows, stride)
        position += lines.size
        halves = np.empty((rows, 1 + channels * columns), np.uint8)
        halves[:, 0], halves[:, 1:] = lines[:, 0], lines[:, 1 + first :: 2]
        parts.append(halves.tobytes())
    return b"".join(parts)


def _decode_8_bits(filtered: bytes, header: bytes) -> np.ndarray:
    """Returns the pixels of filtered 8-bit rows: uint8 [height, width] or [..., channels].

    Args:
        filtered: the rows, uncompressed.
        header: the 13 bytes of the 16-bit file's IHDR.
    """
    file = io.BytesIO()
    file.write(SIGNATURE)
    _put(file, b"IHDR", header[:8] + b"\x08" + header[9:])
    _put(file, b"IDAT", zlib.compress(filtered, 0))
    _put(file, b"IEND", b"")
    file.seek(0)
    with Image.open(file) as image:
        return np.asarray(image)


def _filter_rows(rows: np.ndarray, above: np.ndarray, size: int) -> bytes:
    """Returns rows filtered as PNG does, each with the number of its filter.

    Args:
        rows: uint8 [rows, bytes].
        above: the row before the first, uint8 [bytes].
        size: bytes to a pixel.
    """
    left = np.concatenate([np.zeros((len(rows), size), np.uint8), rows[:, :-size]], axis=1)
    up = np.concatenate([above[None], rows[:-1]])
    filtered = np.stack([rows - left, rows - up])
    # The usual heuristic for compressibility: the smaller sum of signed differences.
    cost = np.abs(filtered.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
    choice = cost.argmin(axis=0)
    best = np.where(choice[:, None] == 0, filtered[0], filtered[1])
    return np.concatenate([(choice + 1).astype(np.uint8)[:, None], best], axis=1).tobytes()


def _put(file: IO[bytes], kind: bytes, payload: bytes) -> None:
    PngImagePlugin.putchunk(file, kind, payload)
