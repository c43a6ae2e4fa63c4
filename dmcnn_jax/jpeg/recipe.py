"""Recipes: the few hundred bytes that a restored JPEG file lacks to rebuild its original.

- a byte, the version of the format
- SHA-256 of the original
- a line of JSON and bytes, deflated

The JSON is a list of parts, whose concatenation is the original. A number stands for that many of
the bytes after the line; [start, length] for a range of the restored file; an object for the data
of a scan, coded again (`ScanRecipe`).

A restored file can hold its recipe, in APP9 segments of "dmcnn_jax original", a zero byte, the
segment's index and the number of segments, one byte each, and a part of the recipe. Positions of
ranges are counted without these segments.
"""

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Sequence
from typing import Any

from dmcnn_jax.jpeg import marker_codes as codes
from dmcnn_jax.jpeg.file_layout import TYPICAL_SEGMENTS, divide

VERSION = 1
"""The version of the format, a recipe's first byte."""


@dataclasses.dataclass(frozen=True)
class ScanRecipe:
    """The differences between a scan's data and the data that libjpeg would write.

    Attributes:
        padding: the bit that pads the last byte before a marker.
        filler: differences of the coefficients in blocks that pad interleaved units from those of
            `fill_units`, int16, little-endian; empty: no differences.
        patches: positions and values of single bytes that differ.
    """

    padding: int = 1
    filler: bytes = b""
    patches: tuple[tuple[int, int], ...] = ()


# Literal bytes, a range of the restored file, or the data of a scan.
Part = bytes | tuple[int, int] | ScanRecipe


def pack(original: bytes, parts: Sequence[Part]) -> bytes:
    """Returns a recipe."""
    content: list[Any] = []
    blobs: list[bytes] = []
    for part in parts:
        if isinstance(part, bytes):
            content.append(len(part))
            blobs.append(part)
        elif isinstance(part, tuple):
            content.append(part)
        else:
            fields = {
                "zeros": 1 - part.padding,
                "filler": len(part.filler),
                "patches": part.patches,
            }
            content.append({name: value for name, value in fields.items() if value})
            blobs.append(part.filler)
    body = json.dumps(content, separators=(",", ":")).encode() + b"\n" + b"".join(blobs)
    packer = zlib.compressobj(9, wbits=-15, zdict=TYPICAL_SEGMENTS)
    digest = hashlib.sha256(original).digest()
    return bytes((VERSION,)) + digest + packer.compress(body) + packer.flush()


def unpack(recipe: bytes, size: int) -> list[Part]:
    """Returns the parts in a recipe.

    Args:
        recipe: what `pack` returned.
        size: size of the restored file, which limits that of the result.

    Raises:
        ValueError, LookupError, TypeError, zlib.error: it is malformed.
    """
    unpacker = zlib.decompressobj(-15, zdict=TYPICAL_SEGMENTS)
    body = unpacker.decompress(recipe[33:], size_limit(size))
    length = body.find(b"\n", 0, _MAX_LINE)
    if length < 0:
        raise ValueError(f"no line of at most {_MAX_LINE} bytes")
    line, rest = body[:length], memoryview(body)[length + 1 :]
    parts: list[Part] = []
    position = 0
    for each in json.loads(line):
        if isinstance(each, list):
            start, length = map(int, each)
            if start < 0 or length < 0:
                raise ValueError("a range that begins before the file")
            parts.append((start, length))
            continue
        taken = int(each if isinstance(each, int) else each.get("filler", 0))
        if not 0 <= taken <= len(rest) - position:  # otherwise endless parts could overlap
            raise ValueError("bytes outside the recipe")
        blob = bytes(rest[position : position + taken])
        position += taken
        if isinstance(each, int):
            parts.append(blob)
        else:
            patches = tuple((int(i), int(value)) for i, value in each.get("patches", ()))
            parts.append(ScanRecipe(0 if each.get("zeros") else 1, blob, patches))
    return parts


def size_limit(size: int) -> int:
    """Returns the largest size of an original for a restored file's size, in bytes."""
    return _MIN_LIMIT + _MAX_GROWTH * size


def make_segments(recipe: bytes) -> list[tuple[int, bytes]]:
    """Returns markers and payloads of the segments that hold a recipe in a restored file."""
    parts = [recipe[i : i + _MAX_PART] for i in range(0, len(recipe), _MAX_PART)]
    return [
        (codes.APP9, _IDENTIFIER + bytes((index, len(parts))) + part)
        for index, part in enumerate(parts)
    ]


def is_recipe(marker: int, payload: bytes) -> bool:
    """Returns whether a segment holds a recipe, or a part of one."""
    return marker == codes.APP9 and payload.startswith(_IDENTIFIER)


def split_recipe(restored: bytes) -> tuple[bytes, bytes | None]:
    """Returns a restored file without its recipe, and the recipe; None if there is none."""
    start = 4 + len(_IDENTIFIER)
    own = [
        piece
        for piece in divide(restored)
        if piece.marker == codes.APP9
        and restored.startswith(_IDENTIFIER, piece.start + 4)
        and piece.end >= piece.start + start + 2
    ]
    # A file that was restored twice holds two recipes, of which the last is its own.
    own = own[-restored[own[-1].start + start + 1] :] if own else []
    plain, recipe, position = [], [], 0
    for piece in own:
        plain.append(restored[position : piece.start])
        recipe.append(restored[piece.start + start + 2 : piece.end])
        position = piece.end
    return b"".join([*plain, restored[position:]]), b"".join(recipe) if own else None


_IDENTIFIER = b"dmcnn_jax original\0"
_MAX_PART = 65_533 - len(_IDENTIFIER) - 2

# No original exceeds its restored file by this much; a forged recipe could claim it.
_MAX_GROWTH, _MIN_LIMIT = 64, 1 << 20

# Parts take memory out of proportion to their deflated text.
_MAX_LINE = 1 << 20
