"""Files that were compressed twice: finds the grid and the table of a prior, coarser compression.

A picture that is compressed again at a higher quality keeps the artifacts of the prior compression.
They lie on a block grid that cropping may have moved, and come from a table that the file no longer
holds, but they can be detected.

On the prior grid, and on no other, DCT coefficients lie near multiples of the prior quantisation
steps, as far as the second compression and rounding to whole pixels let them (Fridrich and Lukáš,
2003, on histograms of coefficients; Bianchi and Piva, 2012, on moved grids).

All 64 grids and all qualities of the standard table are tried on a sample of the picture. For a
coefficient x that a prior quantisation step q would not have set to zero, cos(2π x / q) is 1 at a
multiple of q, and averages zero or less over the smooth, falling densities of natural pictures. The
noise of the second compression, of variance σ², reduces it by exp(-2π² σ² / q²). Weighted by that,
the sum over all frequencies yields two numbers: its deviation from chance, in standard deviations,
and its share of what a prior compression would yield. The share hardly depends on the picture: it
is near 1 if there was one, and below 0.3 on other grids and in files that were compressed once.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from dmcnn_jax.jpeg.dct import BASIS_IMAGES, from_blocks, to_blocks
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.jpeg.tables import quality_table

_BASIS = BASIS_IMAGES.reshape(64, 64)

# Thresholds of detection: standard deviations from chance, and the share of what is expected.
_MIN_DEVIATION, _MIN_SHARE = 12.0, 0.5

# A prior compression can be detected only after a gentle one: the file's mean quantisation step is
# at most this, as from about quality 65 on.
_MAX_MEAN_STEP = 40.0

# A prior compression matters up to this quality, and if its mean quantisation step was larger than
# the file's by this factor.
_MAX_QUALITY, _MIN_COARSENESS = 90, 1.3

# Frequencies used: those with v + u < 8. Beyond, a prior compression has left little but zeros.
_FREQUENCIES = np.array([8 * v + u for v in range(8) for u in range(8 - v)])

# Histograms of absolute coefficients: the width of a bin in grey levels, and the number of bins.
_BIN, _BINS = 0.5, 2048

# The sample: the number of windows, and their side in blocks. Moved grids use one block less.
_WINDOWS, _SIDE = 6, 33

# Nearly flat blocks may be many and the same: less variation is ignored, in grey levels of a
# block's AC coefficients.
_FLAT = 10.0

# Random numbers that hash a block's coefficients, to find equal blocks.
_HASH_KEYS = np.random.default_rng(0).integers(1, 2**40, len(_FREQUENCIES))

REQUANTIZED_ROWS = 32
"""Rows of blocks that `requantize` handles at a time."""

# Iterations in which `requantize` extrapolates cut blocks.
_ITERATIONS = 5


@dataclasses.dataclass(frozen=True, eq=False)
class PriorCompression:
    """A compression of a picture before that of its file.

    Attributes:
        quality: of its standard luma table, 1 to 100.
        table: that table, int32 [8, 8].
        left, top: where its first whole block begins, in pixels from the corner, 0 to 7.
        share: the evidence, as a share of what such a compression yields: about 1 if it was
            detected; any value, or NaN, if it was given by the caller.
    """

    quality: int
    table: np.ndarray
    left: int
    top: int
    share: float

    @property
    def margins(self) -> tuple[int, int]:
        """Rows and columns by which the prior blocks extend beyond the picture, above and left."""
        return -self.top % 8, -self.left % 8


def find_prior_compression(
    component: Component, *, quality: int | None = None, grid: tuple[int, int] | None = None
) -> PriorCompression | None:
    """Looks for a prior, coarser compression in the luma plane of a file.

    Args:
        component: the plane, at full size.
        quality: the prior quality, 1 to 100, if it is known. Then only the grid is looked for.
        grid: where the prior blocks begin, columns and rows from the corner, if that is known.

    Returns:
        The prior compression, or None if none is detected. With a given quality never None: if no
        grid is detected, the file's own is assumed.

    Raises:
        ValueError: the quality or grid is out of range.
    """
    if grid is not None and not all(0 <= offset <= 7 for offset in grid):
        raise ValueError(f"grid is {grid}; expected two offsets from 0 to 7, columns and rows")
    if quality is not None:
        table = quality_table(int(quality))
        if grid is not None:
            return PriorCompression(quality, table, *grid, share=float("nan"))
    tables = _candidates()
    candidate = _worthwhile(component) if quality is None else np.arange(1, 101) == quality
    if not candidate.any():
        return None
    deviations, shares = _scores(_histograms(component), component)
    deviations = np.where(candidate, deviations, -np.inf)
    if grid is not None:
        only = 8 * grid[1] + grid[0]
        deviations[np.arange(64) != only] = -np.inf
    place, index = (int(i) for i in np.unravel_index(deviations.argmax(), deviations.shape))
    found = deviations[place, index] >= _MIN_DEVIATION and shares[place, index] >= _MIN_SHARE
    if quality is not None:
        place = place if found else 0
    elif found:
        index = _coarsest(deviations[place], tables, index)
    else:
        return None
    top, left = divmod(place, 8)
    quality = index + 1
    return PriorCompression(quality, quality_table(quality), left, top, float(shares[place, index]))


def requantize(component: Component, prior: PriorCompression) -> np.ndarray:
    """Recovers the coefficients of the prior compression, as far as possible.

    The plane is decoded without rounding, cut into blocks on the prior grid, and quantised by the
    prior table. Where the border cuts a block, the missing pixels are extrapolated: alternately,
    the block is quantised, and its missing pixels are taken from the quantised coefficients.

    Args:
        component: the plane in the file.
        prior: its prior compression.

    Returns:
        int16 [rows, columns, 64]. The picture begins `prior.margins` from their corner.
    """
    above, before = prior.margins
    rows = -(-(component.height + above) // 8)
    columns = -(-(component.width + before) // 8)
    table = prior.table.reshape(64).astype(np.float32)
    coefficients = np.empty((rows, columns, 64), np.int16)
    for first in range(0, rows, REQUANTIZED_ROWS):
        last = min(first + REQUANTIZED_ROWS, rows)
        top, bottom = 8 * first - above, 8 * last - above
        inner = _rows(component, max(top, 0), min(bottom, component.height))
        pad = (
            (max(-top, 0), max(bottom - component.height, 0)),
            (before, 8 * columns - before - component.width),
        )
        blocks = to_blocks(np.pad(inner, pad, mode="edge")).reshape(-1, 64) - 128
        k = np.rint(blocks @ _BASIS.T / table)
        known = to_blocks(np.pad(np.ones(inner.shape, bool), pad)).reshape(-1, 64)
        cut = np.flatnonzero(~known.all(axis=1))
        for _ in range(_ITERATIONS if len(cut) else 0):
            guess = np.where(known[cut], blocks[cut], (k[cut] * table) @ _BASIS)
            k[cut] = np.rint(guess @ _BASIS.T / table)
        coefficients[first:last] = np.clip(k, -32768, 32767).reshape(last - first, columns, 64)
    return coefficients


@functools.cache
def _candidates() -> np.ndarray:
    """Returns the luma tables of all qualities: int32 [100, 64]."""
    return quality_table(np.arange(1, 101)).reshape(-1, 64)


def _worthwhile(component: Component) -> np.ndarray:
    """Returns which prior qualities could be detected and would matter: bool [100]."""
    own = component.table.mean()
    coarser = _candidates().mean(axis=1) >= _MIN_COARSENESS * own
    return coarser & (np.arange(1, 101) <= _MAX_QUALITY) & (own <= _MAX_MEAN_STEP)


def _histograms(component: Component) -> np.ndarray:
    """Returns histograms of absolute coefficients: float32 [64 grids, frequencies, bins]."""
    counts = np.zeros((64, len(_FREQUENCIES), _BINS + 1), np.float32)
    base = np.arange(len(_FREQUENCIES), dtype=np.int32) * (_BINS + 1)
    for window in _sample(component):
        for grid in range(64):
            x = _distinct_coefficients(window, *divmod(grid, 8))
            bins = np.minimum(np.rint(np.abs(x) / _BIN).astype(np.int32), _BINS) + base
            counts[grid] += np.bincount(bins.ravel(), minlength=counts[grid].size).reshape(
                counts[grid].shape
            )
    return counts[..., :_BINS]


def _distinct_coefficients(window: np.ndarray, top: int, left: int) -> np.ndarray:
    """Returns coefficients of the blocks on a moved grid: float32 [blocks, frequencies].

    Blocks that say nothing are left out: clipped, flat and repeated ones.
    """
    part = window[top:, left:]
    part = part[: part.shape[0] // 8 * 8, : part.shape[1] // 8 * 8]
    if not part.size:
        return np.empty((0, len(_FREQUENCIES)), np.float32)
    blocks = to_blocks(part).reshape(-1, 64)
    # Clipping of pixels has changed the coefficients.
    blocks = blocks[(blocks.min(axis=1) > 0.5) & (blocks.max(axis=1) < 254.5)]
    x = (blocks - 128) @ np.ascontiguousarray(_BASIS[_FREQUENCIES].T)
    x = x[np.square(x[:, 1:]).sum(axis=1) > _FLAT**2]
    # Drawings repeat themselves: equal blocks are no more evidence than one of them.
    _, different = np.unique(np.rint(x / 2).astype(np.int64) @ _HASH_KEYS, return_index=True)
    return x[different]


def _sample(component: Component) -> Iterator[np.ndarray]:
    """Yields windows of the decoded plane, unrounded: those with the most coefficients."""
    height, width, _ = component.coefficients.shape
    tall, wide = min(_SIDE, height), min(_SIDE, width)
    tops = np.unique(np.linspace(0, height - tall, max(1, height // _SIDE)).astype(int))
    lefts = np.unique(np.linspace(0, width - wide, max(1, width // _SIDE)).astype(int))
    places = [(top, left) for top in tops for left in lefts]
    # In large pictures, 400 windows are enough to choose from.
    places = places[:: -(-len(places) // 400)]
    table = component.table.reshape(64).astype(np.float32)

    def part(place: tuple[int, int]) -> np.ndarray:
        top, left = place
        return component.coefficients[top : top + tall, left : left + wide]

    places.sort(key=lambda place: -np.count_nonzero(part(place)))
    for place in places[:_WINDOWS]:
        blocks = (part(place).reshape(-1, 64) * table) @ _BASIS + 128
        yield from_blocks(blocks.reshape(-1, wide, 64))


def _scores(histograms: np.ndarray, component: Component) -> tuple[np.ndarray, np.ndarray]:
    """Returns deviations from chance and shares of what is expected: [64 grids, 100] each."""
    candidates = _candidates()[:, _FREQUENCIES].T.astype(np.float64)  # [frequencies, 100]
    sums = np.matmul(histograms.swapaxes(0, 1), _cosines()).swapaxes(0, 1).astype(np.float64)
    # Counts from the first bin that a quantisation step does not set to zero.
    above = np.cumsum(histograms[..., ::-1], axis=-1, dtype=np.float64)[..., ::-1]
    first = np.ceil(candidates / 2 / _BIN).astype(int)
    numbers = np.take_along_axis(above, first[None], axis=2)
    own = component.table.reshape(64).astype(np.float64)
    noise = _noise(component, own)
    weights = np.exp(-2 * (np.pi / candidates) ** 2 * noise)[None].repeat(64, axis=0)
    _score_own_grid(sums, numbers, weights, histograms[0], candidates, own[_FREQUENCIES, None])
    signal = (weights * sums).sum(axis=1)
    squares = (weights**2 * numbers).sum(axis=1)
    return signal / np.sqrt(squares / 2 + 1e-9), signal / (squares + 1e-9)


@functools.cache
def _cosines() -> np.ndarray:
    """Returns cos(2π x / q) where a step q keeps x, else zero: float32 [frequencies, bins, 100]."""
    x = (np.arange(_BINS, dtype=np.float32) * _BIN)[:, None]
    cosines = np.empty((len(_FREQUENCIES), _BINS, 100), np.float32)
    for row, q in zip(cosines, _candidates()[:, _FREQUENCIES].T.astype(np.float32), strict=True):
        np.multiply(x >= q / 2, np.cos((2 * np.pi) * (x / q)), out=row)
    return cosines


def _noise(component: Component, own: np.ndarray) -> float:
    """Returns the mean variance that the second compression adds to coefficients of other grids."""
    sample = component.coefficients.reshape(-1, 64)
    sample = sample[:: -(-len(sample) // 20_000)] * own
    # A coefficient that is quantised to zero loses no more than its own variance.
    return np.minimum(own**2 / 12, np.square(sample).mean(axis=0)).mean() + 1 / 12


def _score_own_grid(
    sums: np.ndarray,
    numbers: np.ndarray,
    weights: np.ndarray,
    histogram: np.ndarray,
    candidates: np.ndarray,
    own: np.ndarray,
) -> None:
    """Replaces the first grid's figures, where coefficients are multiples of the file's own steps.

    Each coefficient stands for an interval, of which only the part beyond half the prior
    quantisation step counts. Otherwise, the ends of such intervals would look like a period.
    """
    x = np.arange(_BINS) * _BIN
    for f in range(len(_FREQUENCIES)):
        used = np.flatnonzero(histogram[f])
        beyond = np.clip((x[used, None] - candidates[f] / 2) / own[f] + 0.5, 0, 1)
        counted = histogram[f, used, None] * beyond * (x[used, None] > 0)
        sums[0, f] = (counted * np.cos(2 * np.pi * x[used, None] / candidates[f])).sum(axis=0)
        numbers[0, f] = counted.sum(axis=0)
    weights[0] = np.exp(-2 * (np.pi / candidates) ** 2 * (own**2 / 12 + 1 / 12))
    # Candidates that are hardly coarser beat with the file's own quantisation steps.
    weights[0][candidates < 1.5 * own] = 0


def _coarsest(deviations: np.ndarray, tables: np.ndarray, index: int) -> int:
    """Returns the coarsest table that explains as much: multiples of 16 are also multiples of 8."""
    means = tables.mean(axis=1)
    for factor in (4, 3, 2):
        near = np.flatnonzero(np.abs(np.log(means / (factor * means[index]))) < 0.06)
        if len(near):
            best = near[deviations[near].argmax()]
            if deviations[best] > 0.75 * deviations[index]:
                return int(best)
    return index


def _rows(component: Component, top: int, bottom: int) -> np.ndarray:
    """Returns rows of the decoded plane, unrounded: float32 [bottom - top, width], grey levels."""
    first, last = top // 8, -(-bottom // 8)
    part = component.coefficients[first:last].reshape(-1, 64)
    blocks = (part * component.table.reshape(64).astype(np.float32)) @ _BASIS + 128
    plane = from_blocks(blocks.reshape(-1, component.coefficients.shape[1], 64))
    return np.clip(plane[top - 8 * first : bottom - 8 * first, : component.width], 0, 255)
