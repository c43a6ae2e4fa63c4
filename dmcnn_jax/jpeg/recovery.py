"""Recovers the original JPEG file from a restored one, bit for bit.

Each coefficient n · Q' of a restored file lies strictly inside the interval of the original's k ·
Q, so that k = round(n · Q' / Q): the restored file determines all of the original's coefficients.
It also keeps the original's segments and trailer. It lacks the original's tables and headers, and
the coding of its scans. These are its recipe (`recipe.py`).

Recipes exist for sequential files only. In progressive scans, encoders choose where bands end, and
the restored file doesn't reveal their choice.
"""

import dataclasses
import hashlib
import itertools
import zlib
from collections.abc import Sequence

import numpy as np

from dmcnn_jax.jpeg import entropy, markers, reader
from dmcnn_jax.jpeg import marker_codes as codes
from dmcnn_jax.jpeg.errors import JpegError, MalformedError
from dmcnn_jax.jpeg.file_layout import Piece, ScanHeader, divide, read_scan_header
from dmcnn_jax.jpeg.huffman_encoder import CodedPlane, encode_scan, fill_units, make_code
from dmcnn_jax.jpeg.recipe import VERSION, Part, ScanRecipe, pack, size_limit, split_recipe, unpack


def make_recipe(
    original: bytes, restored: bytes, *, max_pixels: int = reader.MAX_PIXELS
) -> bytes | None:
    """Returns the recipe that recovers the original file from a restored one.

    Args:
        original: the original JPEG file.
        restored: the restored file, without a recipe of its own.
        max_pixels: the largest width * height to accept.

    Returns:
        The recipe; None if the original can't be rebuilt exactly, which is tested by rebuilding it.
    """
    try:
        picture = reader.read(restored, max_pixels=max_pixels)
        recipe = pack(original, _describe(original, picture))
        rebuilt = recover_original(restored, recipe, max_pixels=max_pixels)
        return recipe if rebuilt == original else None
    except (ValueError, LookupError, MalformedError, entropy.EntropyError):
        return None


def recover_original(
    restored: bytes,
    recipe: bytes | None = None,
    *,
    max_pixels: int = reader.MAX_PIXELS,
    name: str | None = None,
) -> bytes:
    """Returns the original of a restored file, bit for bit.

    Args:
        restored: the restored file.
        recipe: the result of `make_recipe` for this file; None: the recipe inside the file.
        max_pixels: the largest width * height to accept.
        name: the restored file's name, for errors; None: errors name no file.

    Raises:
        JpegError: the file holds no recipe, can't be read, or was changed since it was restored.
    """
    if recipe is None:
        restored, recipe = split_recipe(restored)
    if recipe is None:
        raise _error(name, "it doesn't hold its original; look for a kept copy")
    if recipe[:1] != bytes((VERSION,)):
        raise _error(
            name,
            f"it holds its original in format {recipe[:1].hex()}, expected {VERSION:02}: install a"
            " newer version of dmcnn_jax",
        )
    try:
        parts = unpack(recipe, len(restored))
        picture = reader.read(restored, max_pixels=max_pixels, name=name)
        original = _rebuild(picture, parts)
    except JpegError:
        raise
    except _MALFORMED as error:
        raise _error(name, _CHANGED) from error
    if hashlib.sha256(original).digest() != recipe[1:33]:
        raise _error(name, _CHANGED)
    return original


_CHANGED = (
    "the original can't be rebuilt: the file was changed since it was restored; look for a copy"
    " that was kept"
)

# Errors that a forged recipe can cause.
_MALFORMED = (
    MalformedError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,
    zlib.error,
)

# Shorter ranges take more bytes in a recipe than the literal bytes.
_MIN_RANGE = 12

# More differing bytes than this mean that the scan was coded differently.
_MAX_PATCHES = 100


def _describe(original: bytes, picture: reader.JpegFile) -> list[Part]:
    """Returns the parts that give an original, from its restored file.

    Raises:
        ValueError, LookupError: a scan's data can't be reproduced.
        MalformedError, EntropyError: the original can't be read.
    """
    restored = picture.data
    theirs = list(divide(restored))
    exact = {restored[p.start : p.end]: p for p in theirs if p.kind != "data"}
    alike: dict[tuple[str, int], list[Piece]] = {}
    for piece in theirs:
        alike.setdefault((piece.kind, piece.marker), []).append(piece)
    counts: dict[int, int] = {}
    parts: list[Part] = []
    for piece in divide(original):
        content = original[piece.start : piece.end]
        number = counts[piece.marker] = counts.get(piece.marker, -1) + 1
        if piece.kind == "data":
            header = read_scan_header(original[: piece.start])
            parts += _describe_scan(content, header, original, picture)
        elif content in exact:
            parts.append((exact[content].start, len(content)))
        else:
            same = alike.get((piece.kind, piece.marker), [])
            parts += _compare(content, restored, same[number : number + 1])
    return _join(parts, restored)


def _describe_scan(
    content: bytes, header: ScanHeader, original: bytes, picture: reader.JpegFile
) -> list[Part]:
    """Returns the parts that give a scan's data.

    Raises:
        ValueError, LookupError: there are none.
    """
    tries = [ScanRecipe()]
    if header.restart_interval:
        tries.append(ScanRecipe(padding=0))
    for recipe in tries:
        if parts := _try_scan(content, header, picture, recipe):
            return parts
    filler = _read_filler(original, header, picture)
    for recipe in tries if filler else ():
        recipe = dataclasses.replace(recipe, filler=filler)
        if parts := _try_scan(content, header, picture, recipe):
            return parts
    raise ValueError("the scan's data can't be reproduced")


def _try_scan(
    content: bytes, header: ScanHeader, picture: reader.JpegFile, recipe: ScanRecipe
) -> list[Part]:
    """Returns the parts that give a scan's data, if a recipe gives almost all of the data."""
    coded = np.frombuffer(_code_scan(header, picture, recipe), np.uint8)
    wanted = np.frombuffer(content, np.uint8)
    if len(coded) > len(wanted):
        return []
    wrong = np.flatnonzero(coded != wanted[: len(coded)])
    if len(wrong) > _MAX_PATCHES:
        return []
    patches = tuple((int(i), int(wanted[i])) for i in wrong)
    return [dataclasses.replace(recipe, patches=patches), content[len(coded) :]]


def _code_scan(header: ScanHeader, picture: reader.JpegFile, recipe: ScanRecipe) -> bytes:
    """Returns the data of an original's scan, from the restored file."""
    if not header.sequential:
        raise ValueError("progressive scans can't be reproduced")
    planes = _fill_planes(header, picture)
    position = 0
    filler = np.frombuffer(recipe.filler, "<i2")
    for plane, added in planes if recipe.filler else ():
        count = 64 * int(added.sum())
        plane[added] += filler[position : position + count].reshape(-1, 64)
        position += count
    alone = len(planes) == 1
    coded = bytearray(
        encode_scan(
            [
                CodedPlane(
                    coefficients=plane,
                    vertical=1 if alone else tables.vertical,
                    horizontal=1 if alone else tables.horizontal,
                    dc=make_code(*tables.dc),
                    ac=make_code(*tables.ac),
                )
                for (plane, _), tables in zip(planes, header.components, strict=True)
            ],
            restart_interval=header.restart_interval,
            padding=recipe.padding,
        )
    )
    for position, value in recipe.patches:
        coded[position] = value
    return bytes(coded)


def _fill_planes(
    header: ScanHeader, picture: reader.JpegFile
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the coefficients of a scan's components, and which blocks only pad units."""
    by_id = {c.id: c for c in picture.components}
    planes = []
    for tables in header.components:
        plane = _requantise(by_id[tables.id], tables.quantisation)
        rows, columns, _ = plane.shape
        if len(header.components) > 1:
            plane = fill_units(plane, tables.vertical, tables.horizontal)
        added = np.ones(plane.shape[:2], bool)
        added[:rows, :columns] = False
        planes.append((plane, added))
    return planes


def _requantise(component: reader.Component, table: np.ndarray) -> np.ndarray:
    """Returns k = round(n · Q' / Q), int16 [rows, columns, 64]; halves don't occur."""
    n, new = component.coefficients, component.table.reshape(64).astype(np.int64)
    old = table.reshape(64).astype(np.int64)
    k = np.empty(n.shape, np.int16)
    for row in range(len(n)):
        k[row] = (2 * n[row] * new + old) // (2 * old)
    return k


def _read_filler(original: bytes, header: ScanHeader, picture: reader.JpegFile) -> bytes:
    """Returns `ScanRecipe.filler` of an original's only scan; empty if it can't be read."""
    stream = markers.parse(original, "original", picture.height * picture.width)
    if stream.scans > 1 or len(header.components) == 1:
        return b""
    # In a picture of whole units, these blocks belong to the picture.
    planes = _fill_planes(header, picture)
    tall = 8 * max(t.vertical for t in header.components)
    wide = 8 * max(t.horizontal for t in header.components)
    size = b"".join(
        (side + -side % unit).to_bytes(2, "big")
        for side, unit in ((stream.height, tall), (stream.width, wide))
    )
    frame = next(p for p in divide(stream.plain) if p.marker in codes.SUPPORTED_FRAMES)
    enlarged = stream.plain[: frame.start + 5] + size + stream.plain[frame.start + 9 :]
    whole, _ = entropy.decode(enlarged, [plane.shape[:2] for plane, _ in planes])
    by_id = {c.id: k for c, k in zip(stream.components, whole, strict=True)}
    parts = []
    for (plane, added), tables in zip(planes, header.components, strict=True):
        parts.append((by_id[tables.id][added] - plane[added]).astype("<i2").tobytes())
    return b"".join(parts)


def _compare(content: bytes, restored: bytes, alike: Sequence[Piece]) -> list[Part]:
    """Returns the parts that give a segment, by its similarity to one in the restored file."""
    if not alike or alike[0].end - alike[0].start != len(content):
        return [content]
    start, end = alike[0].start, alike[0].end
    equal = np.frombuffer(content, np.uint8) == np.frombuffer(restored[start:end], np.uint8)
    bounds = [0, *(np.flatnonzero(np.diff(equal)) + 1).tolist(), len(content)]
    return [(start + a, b - a) if equal[a] else content[a:b] for a, b in itertools.pairwise(bounds)]


def _join(parts: Sequence[Part], restored: bytes) -> list[Part]:
    """Joins adjacent ranges and bytes; replaces short ranges by their bytes."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, tuple) and isinstance(last, tuple) and sum(last) == part[0]:
            joined[-1] = (last[0], last[1] + part[1])
        else:
            joined.append(part)
    result: list[Part] = []
    for part in joined:
        if isinstance(part, tuple) and part[1] < _MIN_RANGE:
            part = restored[part[0] : sum(part)]
        if isinstance(part, bytes) and result and isinstance(result[-1], bytes):
            result[-1] += part
        elif part != b"":
            result.append(part)
    return result


def _rebuild(picture: reader.JpegFile, parts: Sequence[Part]) -> bytes:
    """Returns an original.

    Args:
        picture: the restored file.
        parts: of its recipe.

    Raises:
        ValueError, LookupError: the parts don't belong to the restored file.
    """
    rebuilt = bytearray()
    # Limits a forged recipe's work: in a sequential file, each component is in one scan.
    if sum(isinstance(part, ScanRecipe) for part in parts) > len(picture.components):
        raise ValueError("more scans than components")
    for part in parts:
        if isinstance(part, ScanRecipe):
            rebuilt += _code_scan(read_scan_header(bytes(rebuilt)), picture, part)
        elif isinstance(part, tuple):
            rebuilt += picture.data[part[0] : sum(part)]
        else:
            rebuilt += part
        if len(rebuilt) > size_limit(len(picture.data)):
            raise ValueError("such a large original is impossible")
    return bytes(rebuilt)


def _error(name: str | None, reason: str) -> JpegError:
    return JpegError(reason if name is None else f"{name}: {reason}")
