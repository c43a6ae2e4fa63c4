"""Keeps the mean colour of the decoded file, within the file's quantisation intervals."""

import math
from collections.abc import Sequence

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.images import color
from dmcnn_jax.jpeg.projection import INTERVAL_INSET
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.jpeg.resampling import upsample_rows
from dmcnn_jax.restoration.bands import BAND, band_tops, chroma_offsets, map_bands
from dmcnn_jax.restoration.decoding import decoded_mean

TOLERANCE = 0.15
"""Levels by which the mean of a channel may differ from the decoded file's. Rounding the picture to
pixels adds a few hundredths."""


def match_dc_mean(
    plane: np.ndarray,
    component: Component,
    height: int,
    width: int,
    *,
    project: bool = True,
    movable: np.ndarray | None = None,
) -> None:
    """Shifts a restored plane until its mean is that of the file's DC coefficients.

    If a coarse table rounds coefficients to zero, a network's estimates are biased, and over a
    whole picture the mean of the dequantised blocks is the better estimate. All blocks are shifted
    by the same amount, limited by each block's bounds.

    Args:
        plane: float32, levels 0 to 255, whole blocks of the component, at full size or at its own.
            Changed in place.
        component: of the file.
        height: of the picture, in samples of the plane; samples beyond it don't count.
        width: of the picture, in samples of the plane.
        project: whether blocks stay within the intervals of their DC coefficients.
        movable: bool [rows, columns]: which blocks may be shifted; None: all.
    """
    blocks = _ShiftableBlocks(plane, component, height, width, project=project, movable=movable)
    target = np.clip(blocks.dc_means, 0, 255)
    blocks.shift(np.average(target - blocks.means, weights=blocks.weights))


def match_mean_color(
    planes: Sequence[np.ndarray],
    components: Sequence[Component],
    height: int,
    width: int,
    reference: np.ndarray,
    *,
    project: Sequence[bool],
    movable: Sequence[np.ndarray | None] | None = None,
) -> None:
    """Shifts planes until the picture's channel means are within `TOLERANCE` of the decoded file's.

    Planes whose own means match (`match_dc_mean`) can still give a picture whose channel means
    don't: values outside the gamut are clipped, and libjpeg's decoding, which overshoots at edges,
    is clipped more than a restored picture. Small differences are kept, since the restored mean is
    usually nearer to the original's. Beyond the tolerance, all blocks of a plane are shifted by one
    amount, limited by each block's bounds and by `_MAX_SHIFT`.

    Args:
        planes: float32, levels 0 to 255, whole blocks of the components: Y, Cb and Cr, or one; at
            full size, or at their own, to be upsampled. Changed in place.
        components: the file's components, in the order of the planes.
        height: of the picture.
        width: of the picture.
        reference: the mean of each channel of the decoded file, float64 [3], or [1] for one plane.
        project: for each plane, whether blocks stay within the intervals of their DC coefficients.
        movable: for each plane, which blocks may be shifted, as in `match_dc_mean`.
    """
    views, subsampling, blocks = [], [], []
    for plane, component, bounded, which in zip(
        planes, components, project, movable or [None] * len(planes), strict=True
    ):
        full = plane.size == component.coefficients.size * math.prod(component.subsampling)
        size = (height, width) if full else (component.height, component.width)
        views.append(plane[: size[0], : size[1]])
        subsampling.append((1, 1) if full else component.subsampling)
        part = _ShiftableBlocks(plane, component, *size, project=bounded, movable=which)
        part.limit(_MAX_SHIFT)
        blocks.append(part)
    target = None
    for _ in range(_MAX_ITERATIONS):
        means, in_range = _channel_means(views, subsampling, height, width)
        if target is None:
            target = np.clip(means, reference - TOLERANCE, reference + TOLERANCE)
        error = means - target
        if np.abs(error).max() < 0.005:
            break
        # Clipped pixels don't follow a shift, so the others have to shift further.
        wanted = -error / np.maximum(in_range, 0.1)
        if len(planes) == 3:
            wanted = color.rgb_to_ycbcr(wanted, "full") - (0, 128, 128)
        for part, mean in zip(blocks, wanted, strict=True):
            part.shift(mean)


def match_file_color(
    file: jpeg.JpegFile,
    luma: Sequence[np.ndarray],
    chroma: Sequence[np.ndarray],
    *,
    project: bool,
    prior: bool,
) -> None:
    """Applies `match_mean_color` to the restored planes of a file.

    Args:
        file: the file.
        luma: the Y plane, or R, G and B, which are matched separately; changed in place.
        chroma: Cb and Cr, or none; changed in place.
        project: whether blocks stay within the intervals of their DC coefficients.
        prior: whether luma was restored by an earlier save's table, so that this file's intervals
            don't bound it.
    """
    size, reference = (file.height, file.width), decoded_mean(file)
    bound = project and not prior
    if file.color == "rgb":
        for plane, component, mean in zip(luma, file.components, reference, strict=True):
            match_mean_color([plane], [component], *size, mean[None], project=[bound])
        return
    match_mean_color(
        [*luma, *chroma],
        file.components,
        *size,
        reference,
        project=[bound, *[project] * len(chroma)],
        movable=[None, *blocks_with_color(file.components[1:])],
    )


def blocks_with_color(components: Sequence[Component]) -> list[np.ndarray]:
    """Returns the blocks of Cb and Cr that may be shifted; gray blocks stay gray.

    Args:
        components: the file's chroma, or none.

    Returns:
        For each plane, bool [rows, columns]. If both planes have the same number of blocks, blocks
        with colour in either plane.
    """
    colored = [np.any(component.coefficients, axis=-1) for component in components]
    if len({blocks.shape for blocks in colored}) == 1:
        return [np.logical_or.reduce(colored)] * len(colored)
    return colored


# Largest shift of a block, in levels, to match the picture's mean colour.
_MAX_SHIFT = 2.0

_MAX_ITERATIONS = 8


def _channel_means(
    planes: Sequence[np.ndarray], subsampling: Sequence[tuple[int, int]], height: int, width: int
) -> np.ndarray:
    """Returns the mean of each channel, and its share of unclipped pixels: float64 [2, channels].

    Args:
        planes: Y, Cb and Cr, or one; float32, levels 0 to 255, without the padding of blocks.
        subsampling: rows and columns of the picture to a sample, for each plane.
        height: of the picture.
        width: of the picture.
    """

    def band(top: int) -> np.ndarray:
        bottom = min(top + 8 * BAND, height)
        y = upsample_rows(planes[0], subsampling[0], top, bottom)[:, :width]
        sums = []
        for offset in chroma_offsets(planes[1:], subsampling[1:], top, bottom, width):
            levels = y + offset[:, :width]
            clipped = np.clip(levels, 0, 255)
            unclipped = np.count_nonzero(clipped == levels)
            sums.append((clipped.sum(dtype=np.float64), unclipped))
        return np.array(sums).T

    total = np.zeros((2, len(planes)))
    for sums in map_bands(band, band_tops(height)):
        total += sums
    return total / (height * width)


class _ShiftableBlocks:
    """The blocks of a plane, each of which can be shifted as a whole, within bounds.

    Arguments as in `match_dc_mean`.

    Attributes:
        means: the mean of each block: float32 [rows, columns], levels.
        dc_means: the means from the file's DC coefficients, float64 [rows, columns].
        weights: pixels of each block that lie in the picture, float64 [rows, columns].
    """

    def __init__(
        self,
        plane: np.ndarray,
        component: Component,
        height: int,
        width: int,
        *,
        project: bool,
        movable: np.ndarray | None,
    ) -> None:
        rows, columns, _ = component.coefficients.shape
        tall, wide = plane.shape[0] // rows, plane.shape[1] // columns
        self._block_width = wide
        self._bands = [plane[tall * row : tall * (row + 1)] for row in range(rows)]
        self.weights = np.outer(
            _pixels_inside(height, tall, rows), _pixels_inside(width, wide, columns)
        )
        blocks = [band.reshape(tall, columns, wide) for band in self._bands]
        self.means = np.stack([band.mean(axis=(0, 2)) for band in blocks])
        # A block's mean is an eighth of its DC coefficient.
        q = float(component.table[0, 0])
        self.dc_means = component.coefficients[..., 0] * (q / 8) + 128
        self._lower, self._upper = (np.full(self.means.shape, end) for end in (-np.inf, np.inf))
        if project:
            reach = (q / 2 - INTERVAL_INSET) / 8
            self._lower = np.minimum(self.dc_means - reach - self.means, 0)
            self._upper = np.maximum(self.dc_means + reach - self.means, 0)
        if movable is not None:
            self._lower, self._upper = np.where(movable, (self._lower, self._upper), 0)

    def limit(self, most: float) -> None:
        """Limits the further shift of every block to a number of levels."""
        self._lower = np.maximum(self._lower, -most)
        self._upper = np.minimum(self._upper, most)

    def shift(self, mean: float) -> None:
        """Shifts all blocks by one amount, limited by their bounds, to move the plane's mean.

        Args:
            mean: intended change of the mean, levels. If bounds prevent it, the mean changes as far
                as possible.
        """
        shift = _find_common_shift(self._lower, self._upper, self.weights, mean)
        for band, row in zip(self._bands, shift, strict=True):
            band += np.repeat(row, self._block_width)
        self._lower, self._upper = self._lower - shift, self._upper - shift


def _pixels_inside(size: int, block: int, number: int) -> np.ndarray:
    """Returns how many pixels of each block lie in the picture along an axis: float64 [number].

    Args:
        size: of the picture.
        block: pixels of a block.
        number: of blocks.
    """
    return np.clip(size - block * np.arange(number), 0, block).astype(np.float64)


def _find_common_shift(
    lower: np.ndarray, upper: np.ndarray, weights: np.ndarray, mean: float
) -> np.ndarray:
    """Returns a common shift, clipped to each block's bounds, with a given weighted mean.

    The mean grows with the shift, which is found by bisection between -16 and 16 levels.

    Args:
        lower: bounds of each block, levels, at most 0.
        upper: bounds of each block, levels, at least 0.
        weights: of each block.
        mean: the mean; the nearest possible one is used if bounds prevent it.

    Returns:
        float32, of the shape of the bounds.
    """
    low, high = -16.0, 16.0
    for _ in range(40):
        shift = (low + high) / 2
        too_low = np.average(np.clip(shift, lower, upper), weights=weights) < mean
        low, high = (shift, high) if too_low else (low, shift)
    return np.clip((low + high) / 2, lower, upper).astype(np.float32)
