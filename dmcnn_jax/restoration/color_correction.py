"""Keeps the mean colour of the decoded file, within the file's quantisation intervals."""

import concurrent.futures
import math
import os
from collections.abc import Sequence

import numpy as np

from dmcnn_jax.images import color
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.jpeg.resampling import upsample_rows
from dmcnn_jax.restoration.coefficient_check import BAND
from dmcnn_jax.restoration.decoding import band_tops
from dmcnn_jax.restoration.rounding import chroma_offsets


def keep_mean(
    plane: np.ndarray,
    component: Component,
    height: int,
    width: int,
    *,
    project: bool = True,
    movable: np.ndarray | None = None,
) -> None:
    """Gives a restored plane the mean that the file says, so that colours don't shift.

    Coarse tables round away what a network then guesses, and its guesses lean to one side. Of a
    whole picture, the mean of the blocks as the file holds them is the better estimate. All blocks
    move by one amount, as far as each may.

    Args:
        plane: float32, levels 0 to 255, whole blocks of the component, at full size or at its own.
            Changed in place.
        component: of the file.
        height: of the picture, in samples of the plane; what lies beyond doesn't count.
        width: of the picture, likewise.
        project: whether blocks stay within the intervals of their DC coefficients.
        movable: bool [rows, columns]: which blocks may move; None: all.
    """
    blocks = _Blocks(plane, component, height, width, project=project, movable=movable)
    said = np.clip(blocks.said, 0, 255)
    blocks.move(np.average(said - blocks.means, weights=blocks.weights))


def keep_colors(
    planes: Sequence[np.ndarray],
    components: Sequence[Component],
    height: int,
    width: int,
    reference: np.ndarray,
    *,
    project: Sequence[bool],
    movable: Sequence[np.ndarray | None] | None = None,
) -> None:
    """Leads a picture's mean colour to where the decoded file has its own, if it is far from it.

    Planes that have the mean that the file says (`keep_mean`) make a picture that need not: what is
    beyond the gamut is cut off, and of what libjpeg decodes, which overshoots at every edge, more
    is cut off than of a restored picture. Mostly the restored one is the nearer to the original
    for that, so that nothing is done up to `TOLERANCE`. Beyond that, each plane moves by one amount
    in all of its blocks, as far as each may, at most by `_MOST`.

    Args:
        planes: float32, levels 0 to 255, whole blocks of the components: Y, Cb and Cr, or one; at
            full size, or at their own, to be upsampled. Changed in place.
        components: of the file, whose planes these are.
        height: of the picture.
        width: of the picture.
        reference: the mean of each channel to keep to, float64 [3], or [1] of one plane.
        project: for each plane, whether blocks stay within the intervals of their DC coefficients.
        movable: for each plane, which blocks may move, as of `keep_mean`.
    """
    views, steps, blocks = [], [], []
    movable = movable or [None] * len(planes)
    for plane, component, *options in zip(planes, components, project, movable, strict=True):
        full = plane.size == component.coefficients.size * math.prod(component.subsampling)
        size = (height, width) if full else (component.height, component.width)
        views.append(plane[: size[0], : size[1]])
        steps.append((1, 1) if full else component.subsampling)
        part = _Blocks(plane, component, *size, project=options[0], movable=options[1])
        part.bound(_MOST)
        blocks.append(part)
    target = None
    for _ in range(_TURNS):
        means, free = _channel_means(views, steps, height, width)
        if target is None:
            target = np.clip(means, reference - TOLERANCE, reference + TOLERANCE)
        off = means - target
        if np.abs(off).max() < 0.005:
            break
        # What is at an end of the range doesn't follow.
        wanted = -off / np.maximum(free, 0.1)
        if len(planes) == 3:
            wanted = color.rgb_to_ycbcr(wanted, "full") - (0, 128, 128)
        for part, mean in zip(blocks, wanted, strict=True):
            part.move(mean)


TOLERANCE = 0.15
"""How far, in levels, the mean of a channel of a restored picture may be from the decoded file's
before it is moved. Rounding moves it by some hundredths more."""


_MOST = 2.0  # levels: the most that a block moves for the sake of the picture's mean colour.


_TURNS = 8


def _channel_means(planes, steps, height, width):
    """Of the picture that planes make, the mean of each channel, and the share within the range."""

    def band(top):
        bottom = min(top + 8 * BAND, height)
        y = upsample_rows(planes[0], steps[0], top, bottom)[:, :width]
        sums = []
        for offset in chroma_offsets(planes[1:], steps[1:], top, bottom, y.shape):
            levels = y + offset[:, :width]
            clipped = np.clip(levels, 0, 255)
            inside = np.count_nonzero(clipped == levels)
            sums.append((clipped.sum(dtype=np.float64), inside))
        return np.array(sums).T

    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        sums = sum(pool.map(band, band_tops(height)))
    return sums / (height * width)


class _Blocks:
    """The blocks of a plane, which move as wholes, each within bounds.

    Args:
        plane: float32, levels 0 to 255, whole blocks of the component.
        component: of the file.
        height: of the picture, in samples of the plane; what lies beyond doesn't count.
        width: of the picture, likewise.
        project: whether blocks stay within the intervals of their DC coefficients.
        movable: bool [rows, columns], which blocks may move; None: all.
    """

    def __init__(self, plane, component, height, width, *, project, movable):
        rows, columns, _ = component.coefficients.shape
        self.cell = plane.shape[0] // rows, plane.shape[1] // columns
        self.bands = [plane[self.cell[0] * row : self.cell[0] * (row + 1)] for row in range(rows)]
        self.weights = np.outer(
            _inside(height, self.cell[0], rows), _inside(width, self.cell[1], columns)
        )
        cells = [band.reshape(self.cell[0], columns, self.cell[1]) for band in self.bands]
        self.means = np.stack([cell.mean(axis=(0, 2)) for cell in cells])
        # A block's mean is an eighth of its DC coefficient.
        q = float(component.table[0, 0])
        self.said = component.coefficients[..., 0] * (q / 8) + 128
        self.lower, self.upper = (np.full(self.means.shape, end) for end in (-np.inf, np.inf))
        if project:
            reach = (q / 2 - 0.01) / 8
            self.lower = np.minimum(self.said - reach - self.means, 0)
            self.upper = np.maximum(self.said + reach - self.means, 0)
        if movable is not None:
            self.lower, self.upper = np.where(movable, (self.lower, self.upper), 0)

    def bound(self, most):
        """No block is to move further than so many levels."""
        self.lower = np.maximum(self.lower, -most)
        self.upper = np.minimum(self.upper, most)

    def move(self, mean):
        """Moves all by one amount, as far as each may, so that the picture's mean moves as told."""
        shift = _common_shift(self.lower, self.upper, self.weights, mean)
        for band, row in zip(self.bands, shift, strict=True):
            band += np.repeat(row, self.cell[1])
        self.lower, self.upper = self.lower - shift, self.upper - shift


def _inside(size: int, cell: int, number: int) -> np.ndarray:
    """How many pixels each of a number of cells holds of a picture, float64 [number]."""
    return np.clip(size - cell * np.arange(number), 0, cell).astype(np.float64)


def _common_shift(lower, upper, weights, mean):
    """The one shift, clipped to each block's bounds, whose weighted mean is as wanted, or nearest.

    The mean grows with the shift, and the shift is found by halving.
    """
    low, high = -16.0, 16.0
    for _ in range(40):
        shift = (low + high) / 2
        too_low = np.average(np.clip(shift, lower, upper), weights=weights) < mean
        low, high = (shift, high) if too_low else (low, shift)
    return np.clip((low + high) / 2, lower, upper).astype(np.float32)
