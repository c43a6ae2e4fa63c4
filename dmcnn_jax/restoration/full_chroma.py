"""Rounds chroma at full size such that its averages stay inside a file's intervals."""

import functools

import numpy as np

from dmcnn_jax.jpeg.finer_table import round_coefficients
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.jpeg.resampling import average_samples
from dmcnn_jax.restoration.bands import BAND, BASIS, from_blocks, map_bands, to_blocks, transform


def round_full_chroma(
    plane: np.ndarray, component: Component, height: int, width: int, table: np.ndarray
) -> np.ndarray:
    """Rounds a plane at full size to coefficients.

    An encoder averages chroma over the pixels of a sample before transforming it. No bound on the
    coefficients at full size keeps those averages inside the file's intervals. So where averages
    lie outside, the plane is corrected by the difference and rounded again.

    Args:
        plane: the plane at full size, float32, whole blocks, levels 0 to 255.
        component: the file's component, subsampled.
        height: of the picture, pixels.
        width: of the picture, pixels.
        table: Q', integers [8, 8].

    Returns:
        int16 [rows, columns, 64]. Averages lie inside the intervals, except for a few if the table
        is too coarse, and for blocks that extend beyond the picture.
    """
    down = component.subsampling[0]
    result = np.empty((plane.shape[0] // 8, plane.shape[1] // 8, 64), np.int16)

    def band(top: int) -> None:
        first, last = 8 * down * top, 8 * down * (top + BAND)
        size = height - first, width
        result[first // 8 : last // 8] = _round_band(plane[first:last], component, top, size, table)

    map_bands(band, range(0, component.coefficients.shape[0], BAND))
    return result


_MAX_CORRECTIONS = 8

# Corrections aim this far inside an interval, as a share of the written step; the next rounding
# mostly moves an average by less.
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
        int32 [rows, columns, 64].
    """
    (down, across), steps = component.subsampling, table.reshape(64)
    rows, columns = full.shape[0] // 8, full.shape[1] // 8
    x = transform(full)
    n = round_coefficients(x, steps, None, steps).reshape(rows, columns, 64)
    # Blocks of the component that lie completely in the picture, and the full-size blocks that they
    # average.
    height, width = min(size[0] // (8 * down), BAND), size[1] // (8 * across)
    inner = slice(0, down * height), slice(0, across * width)
    k = component.coefficients[top : top + height, :width].reshape(-1, 64)

    def group(blocks: np.ndarray) -> np.ndarray:
        cells = blocks.reshape(rows, columns, 64)[inner]
        cells = cells.reshape(height, down, width, across, 64).swapaxes(1, 2)
        return cells.reshape(len(k), down * across * 64)

    rounded = _correct(group(x), group(n), k, component, steps)
    cells = rounded.reshape(height, width, down, across, 64).swapaxes(1, 2)
    n[inner] = cells.reshape(down * height, across * width, 64)
    return n


def _correct(
    wanted: np.ndarray, n: np.ndarray, k: np.ndarray, component: Component, steps: np.ndarray
) -> np.ndarray:
    """Rounds groups of blocks again until their averages lie inside the intervals.

    Args:
        wanted: coefficients of the blocks that each block of the component averages, float32
            [blocks, count * 64].
        n: these coefficients, rounded, in steps.
        k: the component's coefficients, integers [blocks, 64].
        component: of the file.
        steps: Q', integers [64].

    Returns:
        int32 [blocks, count * 64].
    """
    averaging = _averaging(component.subsampling)
    count = averaging.shape[1] // 64
    all_steps = np.tile(steps, count)
    q = component.table.reshape(64).astype(np.float32)
    center, reach = k * q, q / 2
    target = reach - np.minimum(np.float32(_INSET * steps.max()), reach / 2)
    left = np.arange(len(k))  # blocks whose averages may lie outside
    for _ in range(_MAX_CORRECTIONS):
        x = (n[left] * all_steps.astype(np.float32)) @ averaging.T
        outside = np.abs(x - center[left]) >= reach - np.float32(1e-3)
        unsettled = outside.any(axis=1)
        left, x, outside = left[unsettled], x[unsettled], outside[unsettled]
        if not len(left):
            break
        nearest = np.clip(x, center[left] - target, center[left] + target)
        # Repeating samples is the adjoint of averaging them, up to a factor.
        wanted[left] -= np.where(outside, x - nearest, 0) @ (count * averaging)
        n[left] = round_coefficients(wanted[left], all_steps, None, all_steps)
    return n


@functools.lru_cache
def _averaging(factors: tuple[int, int]) -> np.ndarray:
    """Returns the matrix from blocks' coefficients to those of their average.

    Args:
        factors: rows and columns to a sample.

    Returns:
        float32 [64, factors[0] * factors[1] * 64]; blocks in rows.
    """
    down, across = factors
    units = np.eye(down * across * 64, dtype=np.float32)
    matrix = []
    for unit in units:
        plane = from_blocks(unit.reshape(-1, 64) @ BASIS, across)
        matrix.append(to_blocks(average_samples(plane, factors))[0] @ BASIS.T)
    return np.stack(matrix, axis=1)
