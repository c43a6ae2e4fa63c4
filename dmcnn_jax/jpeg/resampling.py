"""Chroma subsampling by name, and upsampling as libjpeg does it."""

from collections.abc import Sequence

import numpy as np
import scipy.linalg

SUBSAMPLING_FACTORS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}
"""Image rows and columns for each chroma sample, by the names that encoders use."""


def upsample(plane: np.ndarray, factors: tuple[int, int]) -> np.ndarray:
    """Brings a subsampled plane to full size as libjpeg does.

    Its "fancy upsampling" by two is a triangle filter: a new sample is 3/4 of the nearer old one
    plus 1/4 of the other, along either axis, and at the border the old sample itself. By other
    factors, or in planes of at most two columns, samples are repeated.

    Args:
        plane: [height, width], uint8 (libjpeg's integer arithmetic) or floating point (exact).
        factors: rows and columns of the result for each sample.

    Returns:
        [factors[0] * height, factors[1] * width] of the plane's dtype.
    """
    down, across = factors
    narrow = plane.shape[1] <= 2
    if factors == (1, 1):
        return plane
    if factors == (1, 2) and not narrow:
        return _scale(_double(_wide(plane), 1), 1, 4, (1, 2), plane.dtype)
    if factors == (2, 1):
        return _scale(_double(_wide(plane), 0), 0, 4, (1, 2), plane.dtype)
    if factors == (2, 2) and not narrow:
        return _scale(_double(_double(_wide(plane), 0), 1), 1, 16, (8, 7), plane.dtype)
    return plane.repeat(down, axis=0).repeat(across, axis=1)


def upsample_rows(plane: np.ndarray, factors: tuple[int, int], top: int, bottom: int) -> np.ndarray:
    """Returns some rows of `upsample`'s result, computed from the plane rows that they need.

    Args:
        plane: as in `upsample`.
        factors: as in `upsample`.
        top: the first row of the result to return.
        bottom: the row after the last.

    Returns:
        [bottom - top, factors[1] * width] of the plane's dtype.
    """
    down = factors[0]
    first, last = max(0, top // down - 1), min(len(plane), -(-bottom // down) + 1)
    return upsample(plane[first:last], factors)[top - first * down : bottom - first * down]


def average_samples(plane: np.ndarray, factors: tuple[int, int]) -> np.ndarray:
    """Returns a plane averaged over samples, as in encoders; repeats its border to whole samples.

    Args:
        plane: [height, width].
        factors: rows and columns to a sample.

    Returns:
        float32 [ceil(height / factors[0]), ceil(width / factors[1])].
    """
    down, across = factors
    if factors == (1, 1):
        return plane
    padded = np.pad(plane, ((0, -plane.shape[0] % down), (0, -plane.shape[1] % across)), "edge")
    cells = padded.reshape(padded.shape[0] // down, down, padded.shape[1] // across, across)
    return cells.mean(axis=(1, 3), dtype=np.float32)


def fit_samples(plane: np.ndarray, factors: tuple[int, int]) -> np.ndarray:
    """Returns the samples whose `upsample` is nearest to a plane at full size.

    This is the least squares solution along each axis. If `upsample` is a triangle filter U, the
    solution is (UᵀU)⁻¹Uᵀ, where UᵀU is tridiagonal; if it repeats samples, their average.

    Args:
        plane: [height, width], floating point; its border is repeated to whole samples.
        factors: rows and columns to a sample.

    Returns:
        float32 [ceil(height / factors[0]), ceil(width / factors[1])].
    """
    down, across = factors
    narrow = plane.shape[1] <= 2 * across
    if factors not in ((1, 2), (2, 1), (2, 2)) or (across == 2 and narrow):
        return average_samples(plane, factors)
    padded = np.pad(plane, ((0, -plane.shape[0] % down), (0, -plane.shape[1] % across)), "edge")
    if down == 2:
        padded = _fit_axis(padded)
    if across == 2:
        padded = _fit_axis(padded.T).T
    return np.ascontiguousarray(padded, np.float32)


def _fit_axis(plane: np.ndarray) -> np.ndarray:
    """Returns (UᵀU)⁻¹Uᵀ along the first axis, where U is the triangle filter of `upsample`."""
    even, odd = plane[0::2], plane[1::2]
    projected = np.float32(0.75) * (even + odd)  # Uᵀ
    projected[0] += 0.25 * even[0]
    projected[:-1] += 0.25 * even[1:]
    projected[1:] += 0.25 * odd[:-1]
    projected[-1] += 0.25 * odd[-1]
    count = len(projected)
    if count == 1:
        return projected / 2
    diagonals = np.zeros((2, count), np.float32)  # diagonals of UᵀU: the upper one and the main one
    diagonals[0, 1:] = 0.375
    diagonals[1] = 1.25
    diagonals[1, 0] += 0.375
    diagonals[1, -1] += 0.375
    return scipy.linalg.solveh_banded(diagonals, projected, overwrite_b=True, check_finite=False)


def _wide(plane: np.ndarray) -> np.ndarray:
    return plane.astype(np.uint16) if plane.dtype == np.uint8 else plane


def _double(plane: np.ndarray, axis: int) -> np.ndarray:
    """Returns twice as many samples along an axis, scaled by 4."""
    edge = [(1, 1) if a == axis else (0, 0) for a in range(2)]
    padded = np.pad(plane, edge, mode="edge")
    count = plane.shape[axis]
    before, after = padded.take(range(count), axis), padded.take(range(2, count + 2), axis)
    pairs = np.stack([3 * plane + before, 3 * plane + after], axis=axis + 1)
    shape = list(plane.shape)
    shape[axis] *= 2
    return pairs.reshape(shape)


def _scale(
    sums: np.ndarray, axis: int, divisor: int, biases: Sequence[int], dtype: np.dtype
) -> np.ndarray:
    """Divides; integers after adding a bias that alternates along an axis, which cancels out."""
    if dtype != np.uint8:
        return sums / np.asarray(divisor, dtype)
    bias = np.resize(np.array(biases, np.uint16), sums.shape[axis])
    return ((sums + (bias if axis == 1 else bias[:, None])) // divisor).astype(np.uint8)
