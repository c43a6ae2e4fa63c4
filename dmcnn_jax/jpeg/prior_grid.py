"""Evidence of a prior compression: periodic histograms of DCT coefficients on moved block grids.

Only on the grid of a prior compression do AC coefficients lie near multiples of the prior
quantisation steps, blurred by the second compression and rounding to whole pixels (Fridrich and
Lukáš, 2003, on histograms of coefficients; Bianchi and Piva, 2012, on moved grids).

All 64 grids and all steps are tried on a sample of the picture. For a coefficient x that a prior
quantisation step q would not have set to zero, cos(2π x / q) is 1 at a multiple of q, and averages
zero or less over the smooth, falling densities of natural pictures. The noise of the second
compression, of variance σ², reduces it by exp(-2π² σ² / q²).

DC coefficients are left out: in areas of uniform tone, all blocks share one DC coefficient, which
lies near a multiple of some step on every grid.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from dmcnn_jax.jpeg.dct import BASIS_IMAGES, decode_unrounded, to_blocks
from dmcnn_jax.jpeg.reader import Component

FREQUENCIES = np.array([8 * v + u for v in range(8) for u in range(8 - v)][1:])
"""Frequencies used, in natural order: those with 0 < v + u < 8. At higher ones, a prior compression
leaves little but zeros."""

STEPS = np.arange(1, 256)
"""Quantisation steps that are tried: those of baseline files."""

_BASIS = BASIS_IMAGES.reshape(64, 64)

# Histograms of absolute coefficients: the width of a bin in grey levels, and the number of bins.
_BIN, _BINS = 0.5, 2048

# The sample: the number of windows, and their side in blocks. Moved grids use one block less.
_WINDOWS, _SIDE = 6, 33

# Nearly flat blocks may be numerous and equal. Blocks with less variation than this are ignored:
# grey levels of a block's AC coefficients.
_FLAT = 10.0

# Random numbers that hash a block's coefficients, to find equal blocks.
_HASH_KEYS = np.random.default_rng(0).integers(1, 2**40, len(FREQUENCIES))


@dataclasses.dataclass(frozen=True, eq=False)
class Periodicity:
    """The periodicity of coefficients, for each grid (8 · top + left), frequency and step.

    Attributes:
        sums: Σ cos(2π x / q) over the coefficients x that q would not have set to zero: float64
            [64, frequencies, steps].
        counts: the number of these coefficients, the same shape.
        weights: exp(-2π² σ² / q²), the factor by which noise reduces each cosine, the same shape.
    """

    sums: np.ndarray
    counts: np.ndarray
    weights: np.ndarray

    def score(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighs the evidence for tables of prior quantisation steps.

        Args:
            steps: the steps of each table, integers [tables, frequencies], or of each table for
                each grid, [64, tables, frequencies]; 0 leaves a frequency out.

        Returns:
            float64 [64, tables] each: the deviation from chance, in standard deviations; and the
            evidence relative to the expectation for such a prior compression. The share hardly
            depends on the
            picture: it is near 1 if there was one, and below 0.3 on other grids and in files that
            were compressed once.
        """
        at = np.broadcast_to(steps, (64, *np.shape(steps)[-2:])).swapaxes(1, 2)
        index = np.maximum(at, 1) - 1
        sums, counts, weights = (
            np.take_along_axis(a, index, axis=2) for a in (self.sums, self.counts, self.weights)
        )
        weights = np.where(at > 0, weights, 0)
        signal = (weights * sums).sum(axis=1)
        squares = (weights**2 * counts).sum(axis=1)
        return signal / np.sqrt(squares / 2 + 1e-9), signal / (squares + 1e-9)

    def deviations(self) -> np.ndarray:
        """Returns the deviation from chance of each step alone: [64, frequencies, steps]."""
        return self.sums / np.sqrt(self.counts / 2 + 1e-9)


def measure_periodicity(component: Component) -> Periodicity:
    """Measures the periodicity of a plane's coefficients on every grid.

    Args:
        component: the plane in its file.

    Returns:
        The measured periodicity.
    """
    histograms = _histograms(component)
    kept = np.where((np.arange(_BINS) * _BIN)[:, None] >= STEPS / 2, _cosines(), 0)
    sums = (histograms.reshape(-1, _BINS) @ kept).reshape(64, len(FREQUENCIES), -1)
    # Sums over bins, from the first that a quantisation step does not set to zero.
    above = np.cumsum(histograms[..., ::-1], axis=-1, dtype=np.float64)[..., ::-1]
    counts = above[..., np.ceil(STEPS / 2 / _BIN).astype(int)]
    own = component.table.reshape(64)[FREQUENCIES, None].astype(np.float64)
    noise = _noise(component)
    weights = np.exp(-2 * (np.pi / STEPS) ** 2 * noise)
    weights = np.broadcast_to(weights, sums.shape).copy()
    sums = sums.astype(np.float64)
    sums[0], counts[0] = _own_grid(histograms[0], own)
    weights[0] = np.exp(-2 * (np.pi / STEPS) ** 2 * (own**2 / 12 + 1 / 12))
    # Steps only slightly coarser than the file's own beat with them.
    weights[0][own * 1.5 > STEPS] = 0
    # If a picture doesn't vary along one axis, moving the grid along it changes nothing, and
    # coefficients of the other axis are still multiples of the file's own steps.
    v, u = np.divmod(FREQUENCIES, 8)
    weights[np.ix_(range(1, 8), u == 0)] = 0
    weights[np.ix_(range(8, 64, 8), v == 0)] = 0
    return Periodicity(sums, counts, weights)


def _histograms(component: Component) -> np.ndarray:
    """Returns histograms of absolute coefficients: float32 [64 grids, frequencies, bins]."""
    counts = np.zeros((64, len(FREQUENCIES), _BINS + 1), np.float32)
    base = np.arange(len(FREQUENCIES), dtype=np.int32) * (_BINS + 1)
    for window in _sample(component):
        for grid in range(64):
            x = _distinct_coefficients(window, *divmod(grid, 8))
            bins = np.minimum(np.rint(np.abs(x) / _BIN).astype(np.int32), _BINS) + base
            counts[grid] += np.bincount(bins.ravel(), minlength=counts[grid].size).reshape(
                counts[grid].shape
            )
    return counts[..., :_BINS]


def _sample(component: Component) -> Iterator[np.ndarray]:
    """Yields windows of the decoded plane, unrounded: those with the most coefficients."""
    height, width, _ = component.coefficients.shape
    tall, wide = min(_SIDE, height), min(_SIDE, width)
    tops = np.unique(np.linspace(0, height - tall, max(1, height // _SIDE)).astype(int))
    lefts = np.unique(np.linspace(0, width - wide, max(1, width // _SIDE)).astype(int))
    places = [(top, left) for top in tops for left in lefts]
    # In large pictures, 400 windows are enough to choose from.
    places = places[:: -(-len(places) // 400)]

    def part(place: tuple[int, int]) -> np.ndarray:
        top, left = place
        return component.coefficients[top : top + tall, left : left + wide]

    places.sort(key=lambda place: -np.count_nonzero(part(place)))
    for place in places[:_WINDOWS]:
        yield decode_unrounded(part(place), component.table.reshape(64))


def _distinct_coefficients(window: np.ndarray, top: int, left: int) -> np.ndarray:
    """Returns coefficients of the blocks on a moved grid: float32 [blocks, frequencies].

    Uninformative blocks are left out: clipped, flat and repeated ones.
    """
    part = window[top:, left:]
    part = part[: part.shape[0] // 8 * 8, : part.shape[1] // 8 * 8]
    if not part.size:
        return np.empty((0, len(FREQUENCIES)), np.float32)
    blocks = to_blocks(part).reshape(-1, 64)
    # Clipping of pixels has changed the coefficients.
    blocks = blocks[(blocks.min(axis=1) > 0.5) & (blocks.max(axis=1) < 254.5)]
    x = (blocks - 128) @ np.ascontiguousarray(_BASIS[FREQUENCIES].T)
    x = x[np.square(x).sum(axis=1) > _FLAT**2]
    # Drawings repeat themselves; equal blocks are no more evidence than one of them.
    _, different = np.unique(np.rint(x / 2).astype(np.int64) @ _HASH_KEYS, return_index=True)
    return x[different]


@functools.cache
def _cosines() -> np.ndarray:
    """Returns cos(2π x / q) for each bin and step: float32 [bins, steps]."""
    x = (np.arange(_BINS) * _BIN)[:, None]
    return np.cos(2 * np.pi * x / STEPS).astype(np.float32)


def _noise(component: Component) -> float:
    """Returns the mean variance that the second compression adds to coefficients of other grids."""
    own = component.table.reshape(64).astype(np.float64)
    sample = component.coefficients.reshape(-1, 64)
    sample = sample[:: -(-len(sample) // 20_000)] * own
    # A coefficient that is quantised to zero loses no more than its own variance.
    return np.minimum(own**2 / 12, np.square(sample).mean(axis=0)).mean() + 1 / 12


def _own_grid(histogram: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns sums and counts of the file's grid, whose coefficients are multiples of its steps.

    Each coefficient represents an interval, of which only the part beyond half the prior
    quantisation step counts. Otherwise the ends of such intervals would look periodic.

    Args:
        histogram: of the first grid, [frequencies, bins].
        own: the file's steps, [frequencies, 1].

    Returns:
        float64 [frequencies, steps] each.
    """
    x = np.arange(_BINS) * _BIN
    sums, counts = np.zeros((2, len(FREQUENCIES), len(STEPS)))
    for f in range(len(FREQUENCIES)):
        used = np.flatnonzero(histogram[f])
        beyond = np.clip((x[used, None] - STEPS / 2) / own[f] + 0.5, 0, 1)
        counted = histogram[f, used, None] * beyond * (x[used, None] > 0)
        sums[f] = (counted * _cosines()[used]).sum(axis=0)
        counts[f] = counted.sum(axis=0)
    return sums, counts
