"""Reads and writes 16-bit PNG files, which Pillow does not write in colour."""

import struct
import zlib

import numpy as np
from PIL import PngImagePlugin

from dmcnn_jax.images.metadata import ROWS, XMP_KEYWORD, decode_comment


def write_png16(file, pixels, metadata):
    """PNG of 16 bits, which Pillow can't write in colour: the chunks by Pillow, the rest by zlib.

    PNG (ISO/IEC 15948) holds rows of big-endian samples, each with the number of the filter that
    made it easier to compress: the difference to the pixel at the left, or to the one above.
    """
    height, width = pixels.shape[:2]
    color_type = 2 if pixels.ndim == 3 else 0

    def chunk(kind, data):
        PngImagePlugin.putchunk(file, kind, data)

    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">2I5B", width, height, 16, color_type, 0, 0, 0))
    if metadata.icc:
        chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc))
    if metadata.resolution:
        per_metre = (round(dots / 0.0254) for dots in metadata.resolution)
        chunk(b"pHYs", struct.pack(">2IB", *per_metre, 1))
    if metadata.exif:
        chunk(b"eXIf", metadata.exif[6:])
    for comment in metadata.comments:
        chunk(b"iTXt", b"Comment\0\0\0\0\0" + decode_comment(comment).encode())
    if metadata.xmp:
        chunk(b"iTXt", XMP_KEYWORD.encode() + b"\0\0\0\0\0" + metadata.xmp)
    size = 6 if pixels.ndim == 3 else 2  # bytes to a pixel
    above = np.zeros(width * size, np.uint8)
    compressor = zlib.compressobj(4, strategy=zlib.Z_FILTERED)
    for top in range(0, height, ROWS):
        part = np.ascontiguousarray(pixels[top : top + ROWS], ">u2")
        rows = part.view(np.uint8).reshape(len(part), -1)
        left = np.concatenate([np.zeros((len(rows), size), np.uint8), rows[:, :-size]], axis=1)
        up = np.concatenate([above[None], rows[:-1]])
        filtered = np.stack([rows - left, rows - up])
        # The usual guess at which compresses better: the smaller sum of signed differences.
        cost = np.abs(filtered.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
        choice = cost.argmin(axis=0)
        best = np.where(choice[:, None] == 0, filtered[0], filtered[1])
        lines = np.concatenate([(choice + 1).astype(np.uint8)[:, None], best], axis=1)
        above = rows[-1]
        if data := compressor.compress(lines.tobytes()):
            chunk(b"IDAT", data)
    chunk(b"IDAT", compressor.flush())
    chunk(b"IEND", b"")


def read_png16(data, name):
    """Returns the pixels of a 16-bit PNG file, uint16 [height, width] or [height, width, 3]."""
    width, height, _, color_type, _, _, interlaced = struct.unpack_from(">2I5B", data, 16)
    if interlaced:
        raise ValueError(f"{name}: an interlaced PNG of 16 bits, which is not supported")
    size = 6 if color_type == 2 else 2
    stream, position = [], 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IDAT":
            stream.append(data[position + 8 : position + 8 + length])
        position += 12 + length
    try:
        lines = np.frombuffer(zlib.decompress(b"".join(stream)), np.uint8)
        lines = lines.reshape(height, 1 + width * size)
    except (zlib.error, ValueError) as error:
        raise ValueError(f"{name}: a damaged PNG file ({error})") from None
    rows = np.zeros((height + 1, width, size), np.uint8)
    for y, line in enumerate(lines):
        rows[y + 1] = _unfilter(line[0], line[1:].reshape(width, size), rows[y])
    pixels = rows[1:].reshape(height, -1).view(">u2").astype(np.uint16)
    return pixels.reshape((height, width, 3) if color_type == 2 else (height, width))


def _unfilter(kind, line, above):
    """A row of a PNG file: uint8 [width, bytes to a pixel]."""
    if kind == 0:
        return line
    if kind == 1:
        return np.cumsum(line, axis=0, dtype=np.uint8)
    if kind == 2:
        return line + above
    row = np.zeros((len(line) + 1, line.shape[1]), int)
    up = np.concatenate([np.zeros((1, line.shape[1]), int), above])
    for x in range(1, len(row)):
        left, corner = row[x - 1], up[x - 1]
        if kind == 3:
            guess = (left + up[x]) // 2
        else:
            to_left, to_up = np.abs(up[x] - corner), np.abs(left - corner)
            to_corner = np.abs(left + up[x] - 2 * corner)
            nearer_up = np.where(to_up <= to_corner, up[x], corner)
            guess = np.where((to_left <= to_up) & (to_left <= to_corner), left, nearer_up)
        row[x] = (line[x - 1] + guess) % 256
    return row[1:].astype(np.uint8)
