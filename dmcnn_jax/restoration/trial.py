"""The trial before restoring: tests on parts of the picture whether restoring helps.

Networks trained on photographs improve text, charts and drawings too, but mistake pixel art and
dithering for artifacts. A picture's table doesn't reveal its kind, but a trial does. Parts of the
decoded picture are moved by half a block, so that the file's own artifacts don't lie on their block
grid. They are compressed by the same table, restored, and compared with the parts before
compression.

Squares that fill whole blocks are an exception: JPEG keeps them almost unchanged, but the trial
would move them off the block grid. So they are counted instead.
"""

import numpy as np

from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.plane import restore_plane
from dmcnn_jax.jpeg.dct import block_coefficients, decode_unrounded
from dmcnn_jax.jpeg.reader import Component

MIN_GAIN = -0.1
"""The least gain of a trial, dB."""

MAX_SQUARES = 0.8
"""The largest share of a picture's contrast at the borders of one-coloured blocks."""

# Number of parts, and their side in blocks; with the blocks by which they are continued, a part is
# the smallest tile.
_PARTS, _SIDE, _MIRRORED = 4, 12, 2

# A JPEG's mean squared error below which the trial is not meaningful, levels².
_NEGLIGIBLE = 0.02


def describe_failed_trial(component: Component, model: Model) -> str:
    """Tests whether restoring a plane of luma helps.

    Args:
        component: the plane.
        model: the model that would restore it.

    Returns:
        The reason for leaving it as decoded, for a report; empty if it may be restored.
    """
    if measure_squares(component) > MAX_SQUARES:
        return "squares of one colour fill its blocks, which JPEG keeps as they are"
    gain = measure_trial_gain(component, model)
    if gain < MIN_GAIN:
        return f"in a trial on parts of the picture, restoring lost {-gain:.1f} dB"
    return ""


def measure_trial_gain(component: Component, model: Model) -> float:
    """Measures a model's gain on parts of a picture that are compressed again.

    Args:
        component: a plane of luma.
        model: the model.

    Returns:
        The gain in PSNR over all parts, dB; 0 if the plane is smaller than two blocks, or its
        compression error is too small to measure.
    """
    table = component.table.reshape(64)
    before = after = pixels = 0.0
    for part in _choose_parts(component):
        k = np.rint(block_coefficients(part) / table)
        k = k.reshape(part.shape[0] // 8, part.shape[1] // 8, 64).astype(np.int32)
        restored = 255 * restore_plane(model, k, component.table, project=True, mirrored=_MIRRORED)
        before += np.square(_to_levels(decode_unrounded(k, table)) - part).sum(dtype=np.float64)
        after += np.square(_to_levels(restored) - part).sum(dtype=np.float64)
        pixels += part.size
    if before <= _NEGLIGIBLE * pixels:
        return 0.0
    return float(10 * np.log10(before / max(after, 1e-9)))


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


def _choose_parts(component: Component) -> list[np.ndarray]:
    """Returns the parts of the decoded plane with the most coefficients, moved by half a block.

    Returns:
        float32 [8 · n, 8 · m] each, n and m at most `_SIDE`, whole levels.
    """
    rows, columns, _ = component.coefficients.shape
    # Only whole blocks of the picture, one of which is lost to the move.
    rows, columns = min(rows, component.height // 8), min(columns, component.width // 8)
    tall, wide = min(_SIDE + 1, rows), min(_SIDE + 1, columns)
    if tall < 2 or wide < 2:
        return []
    places = [(top, left) for top in _spread(rows, tall) for left in _spread(columns, wide)]
    k = component.coefficients
    places.sort(key=lambda p: -np.count_nonzero(k[p[0] : p[0] + tall, p[1] : p[1] + wide]))
    parts = []
    for top, left in places[:_PARTS]:
        blocks = k[top : top + tall, left : left + wide]
        parts.append(_to_levels(decode_unrounded(blocks, component.table.reshape(64))[4:-4, 4:-4]))
    return parts


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
