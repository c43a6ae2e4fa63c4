"""The trial before restoring: tests on parts of the picture whether restoring helps.

Networks improve what they were trained on, but may mistake other kinds of pictures for artifacts. A
picture's table doesn't reveal its kind, but a trial does. Parts of the decoded picture are moved by
half a block, so that the file's own artifacts don't lie on their block grid. They are compressed by
the same tables, restored, and compared with the parts before compression.

Squares that fill whole blocks are an exception: JPEG keeps them almost unchanged, unless it
subsamples them, but the trial would move them off the block grid. So they are counted instead.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.photo import restore_photo
from dmcnn_jax.inference.plane import restore_plane
from dmcnn_jax.jpeg.dct import block_coefficients, decode_unrounded
from dmcnn_jax.jpeg.reader import Component

MIN_GAIN = -0.1
"""The least gain of a trial in luma, dB."""

MIN_CHROMA_GAIN = -0.4
"""The least gain of a trial in chroma, dB. A small loss in parts is often a gain in the picture."""

MAX_SQUARES = 0.8
"""The largest share of a picture's contrast at the borders of one-coloured blocks."""

# Number of parts, and their side in blocks of luma; with the blocks by which they are continued, a
# part is the smallest tile.
_PARTS, _SIDE, _MIRRORED = 4, 12, 2

# A JPEG's mean squared error below which the trial is not meaningful, levels².
_NEGLIGIBLE = 0.02


class Reasons(NamedTuple):
    """Reasons for leaving planes as decoded, for a report; empty if they may be restored.

    Attributes:
        luma: the reason for luma.
        chroma: the reason for Cb and Cr.
    """

    luma: str = ""
    chroma: str = ""


def find_reasons_against(components: Sequence[Component], model: Model) -> Reasons:
    """Tests whether restoring planes helps.

    Args:
        components: a plane of luma; or Y, Cb and Cr.
        model: the model that would restore them, for Y, Cb and Cr a `PhotoNet`.
    """
    if measure_squares(components[0]) > MAX_SQUARES:
        reason = "squares of one colour fill its blocks, which JPEG keeps as they are"
        return Reasons(reason, "" if _has_subsampled_chroma(components) else reason)
    luma, chroma = measure_trial_gains(components, model)
    lost = "in a trial on parts of the picture, restoring lost {:.1f} dB"
    if luma < MIN_GAIN:
        return Reasons(lost.format(-luma), lost.format(-luma))
    return Reasons(chroma=lost.format(-chroma) if chroma < MIN_CHROMA_GAIN else "")


def measure_trial_gains(components: Sequence[Component], model: Model) -> tuple[float, float]:
    """Measures a model's gain on parts of a picture that are compressed again.

    Args:
        components: as in `find_reasons_against`.
        model: as in `find_reasons_against`.

    Returns:
        The gains in PSNR of luma and of chroma over all parts, dB. 0 if a plane is smaller than two
        blocks, or its compression error is too small to measure, and of subsampled chroma: its
        network also upsamples it, which gains more than the trial could see.
    """
    measured = components[:1] if _has_subsampled_chroma(components) else components
    before, after, pixels = np.zeros((3, len(components)))
    for part in _choose_parts(components):
        k = [_compress(plane, c.table) for plane, c in zip(part, components, strict=True)]
        restored = _restore(model, k, components)
        for i, component in enumerate(measured):
            decoded = decode_unrounded(k[i], component.table.reshape(64))
            before[i] += np.square(_to_levels(decoded) - part[i]).sum(dtype=np.float64)
            after[i] += np.square(_to_levels(restored[i]) - part[i]).sum(dtype=np.float64)
            pixels[i] += part[i].size

    def gain(planes: slice) -> float:
        if before[planes].sum() <= _NEGLIGIBLE * pixels[planes].sum():
            return 0.0
        return float(10 * np.log10(before[planes].sum() / max(after[planes].sum(), 1e-9)))

    return gain(slice(0, 1)), gain(slice(1, None))


def _has_subsampled_chroma(components: Sequence[Component]) -> bool:
    return components[-1].subsampling != components[0].subsampling


def _compress(plane: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Compresses a plane of whole blocks, levels [8h, 8w], to coefficients, int32 [h, w, 64]."""
    k = np.rint(block_coefficients(plane) / table.reshape(64))
    return k.reshape(plane.shape[0] // 8, plane.shape[1] // 8, 64).astype(np.int32)


def _restore(
    model: Model, coefficients: Sequence[np.ndarray], components: Sequence[Component]
) -> Sequence[np.ndarray]:
    """Restores planes that have the components' tables: levels, chroma brought to full size."""
    if len(components) == 1:
        (k,), (component,) = coefficients, components
        plane = restore_plane(model, k, component.table, project=True, mirrored=_MIRRORED)
        return [255 * plane]
    subsampling = components[1].subsampling
    return list(
        restore_photo(
            model,
            coefficients,
            [component.table for component in components],
            subsampling,
            project=True,
            mirrored=max(1, _MIRRORED // max(subsampling)),
        )
    )


def measure_squares(component: Component) -> float:
    """Returns the share of a plane's contrast at the borders of one-coloured blocks.

    The contrast is the sum of squared differences of neighbouring pixels. A border counts if both
    of its blocks have one colour each, and their difference is larger than a smooth ramp's could
    be: the lowest AC coefficient of a ramp that rises by d from block to block is 2.28 d (the sum
    of x over its basis function), and is quantised to zero only up to half a step.

    Args:
        component: the plane.

    Returns:
        From 0 to 1; 0 for a plane without contrast.
    """
    k, table = component.coefficients, component.table.reshape(64).astype(np.float64)
    flat: np.ndarray = ~np.any(k[..., 1:], axis=-1)
    levels = k[..., 0] * (table[0] / 8)
    largest = 1.5 * max(table[1], table[8]) / 2 / 2.28
    squares = total = 0.0
    for axis in (0, 1):
        jumps = np.diff(levels, axis=axis)
        both = np.logical_and(*_neighbours(flat, axis)) & (np.abs(jumps) > largest)
        squares += 8 * np.square(jumps[both]).sum()
    # Processed in bands of blocks that overlap by one row of pixels, to bound memory.
    last_row = None
    for first in range(0, len(k), 64):
        band = decode_unrounded(k[first : first + 64], table)
        if last_row is not None:
            band = np.concatenate([last_row, band])
        total += sum(np.square(np.diff(band, axis=axis)).sum(dtype=np.float64) for axis in (0, 1))
        last_row = band[-1:]
    return float(squares / total) if total else 0.0


def _choose_parts(components: Sequence[Component]) -> list[list[np.ndarray]]:
    """Returns the parts of the decoded planes with the most coefficients, moved by half a block.

    Returns:
        For each part, its planes: whole levels, float32 [8 · n, 8 · m], for luma n and m at most
        `_SIDE`. Subsampled chroma is moved by as much of the picture as luma.
    """
    luma, down, across = components[0], 1, 1
    if len(components) > 1:
        down, across = components[1].subsampling
    # Only whole blocks of the picture, one of which is lost to the move; in units of a block of
    # chroma.
    rows, columns, _ = luma.coefficients.shape
    rows, columns = min(rows, luma.height // 8) // down, min(columns, luma.width // 8) // across
    tall, wide = min(_SIDE // down + 1, rows), min(_SIDE // across + 1, columns)
    if tall < 2 or wide < 2:
        return []

    def blocks(component: Component, top: int, left: int) -> np.ndarray:
        y, x = (down, across) if component is luma else (1, 1)
        extent = slice(y * top, y * (top + tall)), slice(x * left, x * (left + wide))
        return component.coefficients[extent]

    def part(top: int, left: int) -> list[np.ndarray]:
        planes = []
        for component in components:
            k = blocks(component, top, left)
            plane = _to_levels(decode_unrounded(k, component.table.reshape(64)))
            y, x = (1, 1) if component is luma else (down, across)
            height, width = 8 * (tall - 1) * down // y, 8 * (wide - 1) * across // x
            planes.append(plane[4 // y :, 4 // x :][:height, :width])
        return planes

    places = [(top, left) for top in _spread(rows, tall) for left in _spread(columns, wide)]
    places.sort(key=lambda place: -sum(np.count_nonzero(blocks(c, *place)) for c in components))
    return [part(*place) for place in places[:_PARTS]]


def _spread(size: int, side: int) -> np.ndarray:
    """Returns the starts of at most 16 windows spread over an axis."""
    return np.unique(np.linspace(0, size - side, min(16, max(1, size // side))).astype(int))


def _neighbours(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values before and after each border along an axis."""
    count = values.shape[axis]
    return values.take(range(count - 1), axis), values.take(range(1, count), axis)


def _to_levels(plane: np.ndarray) -> np.ndarray:
    """Rounds and clips a plane to whole levels."""
    return np.clip(np.rint(plane), 0, 255)
