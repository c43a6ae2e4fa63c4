"""Rounds chroma at full size such that its averages stay inside a file's intervals."""

import numpy as np

from dmcnn_jax.jpeg.finer_table import round_coefficients
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.jpeg.resampling import average_samples
from dmcnn_jax.restoration.bands import BAND, BASIS, from_blocks, map_bands, to_blocks


def round_full_chroma(
    plane: np.ndarray, component: Component, height: int, width: int, table: np.ndarray
) -> np.ndarray:
    """Rounds a plane at full size to coefficients.

    An encoder averages chroma over the pixels of a sample before it transforms it. No bound on the
    coefficients at full size keeps those averages inside the file's intervals. So where they lie
    outside, the plane is moved back by as much, and rounded again.

    Args:
        plane: at full size, float32, whole blocks, levels 0 to 255.
        component: of the file, subsampled.
        height: of the picture, pixels.
        width: of the picture, pixels.
        table: Q', integers [8, 8].

    Returns:
        int16 [rows, columns, 64]. Averages lie inside the intervals, but for a few where the table
        is too coarse for it, and for blocks that reach beyond the picture.
    """
    down = component.subsampling[0]
    columns = plane.shape[1] // 8
    result = np.empty((plane.shape[0] // 8, columns, 64), np.int16)

    def band(top: int) -> None:
        first, last = 8 * down * top, 8 * down * (top + BAND)
        n = _round_band(plane[first:last], component, top, (height - first, width), table)
        result[first // 8 : last // 8] = n.reshape(-1, columns, 64)

    map_bands(band, range(0, component.coefficients.shape[0], BAND))
    return result


def pad_to_blocks(plane: np.ndarray) -> np.ndarray:
    """Repeats the border of a plane to whole blocks."""
    return np.pad(plane, ((0, -plane.shape[0] % 8), (0, -plane.shape[1] % 8)), mode="edge")


def transform(plane: np.ndarray) -> np.ndarray:
    """Returns the coefficients of a plane in whole blocks: float32 [blocks, 64]."""
    return (to_blocks(plane) - np.float32(128)) @ BASIS.T


_MAX_CORRECTIONS = 8

# Corrections aim this far inside an interval, as a share of the step that is written: the next
# rounding moves an average by less, mostly.
_INSET = 0.25


def _round_band(
    full: np.ndarray, component: Component, top: int, size: tuple[int, int], table: np.ndarray
) -> np.ndarray:
    """Rounds a band of a plane at full size.

    Args:
        full: the band.
        component: of the file.
        top: the component's first row of blocks in the band.
        size: of the picture from the band's first row on, pixels.
        table: Q', integers [8, 8].

    Returns:
        int32 [blocks, 64].
    """
    steps = table.reshape(64)
    down, across = component.subsampling
    k = component.coefficients[top : top + BAND]
    q = component.table.reshape(64).astype(np.float32)
    center, reach = k.reshape(-1, 64) * q, q / 2
    target = reach - np.minimum(np.float32(_INSET * steps.max()), reach / 2)
    whole = np.zeros(k.shape[:2], bool)
    whole[: max(0, size[0] // (8 * down)), : size[1] // (8 * across)] = True
    wanted = transform(full)
    n = round_coefficients(wanted, steps, None, steps)
    for _ in range(_MAX_CORRECTIONS):
        decoded = from_blocks((n * steps.astype(np.float32)) @ BASIS, full.shape[1] // 8)
        picture = decoded[: size[0], : size[1]] + np.float32(128)
        x = transform(pad_to_blocks(average_samples(picture, component.subsampling)))
        outside = (np.abs(x - center) >= reach - np.float32(1e-3)) & whole.reshape(-1, 1)
        if not outside.any():
            break
        excess = np.where(outside, x - np.clip(x, center - target, center + target), 0)
        samples = from_blocks(excess @ BASIS, k.shape[1])
        moved = samples.repeat(down, axis=0).repeat(across, axis=1)
        wanted = wanted - to_blocks(moved[: full.shape[0], : full.shape[1]]) @ BASIS.T
        n = round_coefficients(wanted, steps, None, steps)
    return n
