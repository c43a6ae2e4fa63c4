"""Upsampling of subsampled planes, as libjpeg does it."""

import numpy as np


def upsample(plane: np.ndarray, step: tuple[int, int]) -> np.ndarray:
    """Brings a subsampled plane to full size as libjpeg does.

    Its "fancy upsampling" by two is a triangle filter: a new sample is 3/4 of the nearer old one
    and 1/4 of the other, along either axis; at the border the sample itself. By other factors, or
    two columns and less, samples are repeated.

    Args:
        plane: [height, width], uint8 (libjpeg's integer arithmetic) or floating point (exact).
        step: rows and columns of the result to a sample.

    Returns:
        [step[0] * height, step[1] * width] of the plane's dtype.
    """
    down, across = step
    narrow = plane.shape[1] <= 2
    if step == (1, 1):
        return plane
    if step == (1, 2) and not narrow:
        return _scale(_double(_wide(plane), 1), 1, 4, (1, 2), plane.dtype)
    if step == (2, 1):
        return _scale(_double(_wide(plane), 0), 0, 4, (1, 2), plane.dtype)
    if step == (2, 2) and not narrow:
        return _scale(_double(_double(_wide(plane), 0), 1), 1, 16, (8, 7), plane.dtype)
    return plane.repeat(down, axis=0).repeat(across, axis=1)


def _wide(plane):
    return plane.astype(np.uint16) if plane.dtype == np.uint8 else plane


def _double(plane, axis):
    """Twice as many samples along an axis, times 4."""
    edge = [(1, 1) if a == axis else (0, 0) for a in range(2)]
    padded = np.pad(plane, edge, mode="edge")
    count = plane.shape[axis]
    before, after = padded.take(range(count), axis), padded.take(range(2, count + 2), axis)
    pairs = np.stack([3 * plane + before, 3 * plane + after], axis=axis + 1)
    shape = list(plane.shape)
    shape[axis] *= 2
    return pairs.reshape(shape)


def _scale(sums, axis, divisor, biases, dtype):
    """Divides; in integers, with a bias that alternates along an axis, lest rounding shift."""
    if dtype != np.uint8:
        return sums / np.asarray(divisor, dtype)
    bias = np.resize(np.array(biases, np.uint16), sums.shape[axis])
    return ((sums + (bias if axis == 1 else bias[:, None])) // divisor).astype(np.uint8)


def upsample_rows(plane: np.ndarray, step: tuple[int, int], top: int, bottom: int) -> np.ndarray:
    """A part of what `upsample` makes, from those rows of the plane that it depends on.

    Args:
        plane: as of `upsample`.
        step: as of `upsample`.
        top: the first row wanted, of the result.
        bottom: the row after the last.

    Returns:
        [bottom - top, step[1] * width] of the plane's dtype.
    """
    down = step[0]
    first, last = max(0, top // down - 1), min(len(plane), -(-bottom // down) + 1)
    return upsample(plane[first:last], step)[top - first * down : bottom - first * down]
