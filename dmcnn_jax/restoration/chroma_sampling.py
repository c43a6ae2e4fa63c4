"""Finds how chroma was subsampled in a decoded picture, and by which tables it was quantised."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import scipy.ndimage

from dmcnn_jax import jpeg
from dmcnn_jax.jpeg.decoded_plane import ROUNDING_NOISE, choose_grid, distinct_coefficients
from dmcnn_jax.jpeg.lattice import TableEstimate, estimate_table, step_evidence
from dmcnn_jax.jpeg.resampling import fit_samples, upsample
from dmcnn_jax.jpeg.tables import STANDARD_CHROMA

# The noise of chroma's coefficients after undoing its upsampling, which was rounded as well.
_CHROMA_NOISE = 2 * ROUNDING_NOISE

# The share of chroma values that upsampling must give back, for the sampling to be considered.
_MIN_FIT = 0.9

# The side of the part of a picture on which chroma's sampling is looked for, in pixels.
_SIDE = 768


@dataclasses.dataclass(frozen=True)
class ChromaSampling:
    """How chroma lies over the picture.

    Attributes:
        factors: rows and columns of the picture to a sample.
        left, top: where the first whole unit of 8 x 8 chroma samples begins, in pixels.
    """

    factors: tuple[int, int]
    left: int
    top: int

    @property
    def margins(self) -> tuple[int, int]:
        """Rows and columns by which units of 8 x 8 samples extend beyond the picture."""
        down, across = self.factors
        return -self.top % (8 * down), -self.left % (8 * across)


def sampling_hypotheses(
    planes: list[np.ndarray], unclipped: np.ndarray, left: int, top: int, luma: TableEstimate
) -> Iterator[tuple[ChromaSampling, tuple[TableEstimate, ...]]]:
    """Yields how chroma may be sampled, the coarsest first, and the tables of all planes."""
    if len(planes) == 1:
        yield ChromaSampling((1, 1), left, top), (luma,)
        return
    for factors in ((2, 2), (1, 2), (2, 1), (1, 1)):
        down, across = factors
        start = np.s_[top % down :, left % across :]
        if all(_fits(plane[start], unclipped[start], factors) for plane in planes[1:]):
            sampling, measured = _place_chroma(planes, unclipped, left, top, factors, luma)
            for chroma in _chroma_tables(measured, luma):
                yield sampling, (luma, *chroma)


def _place_chroma(
    planes: list[np.ndarray],
    unclipped: np.ndarray,
    left: int,
    top: int,
    factors: tuple[int, int],
    luma: TableEstimate,
) -> tuple[ChromaSampling, list[np.ndarray]]:
    """Finds where chroma's blocks lie, given luma's grid; returns also the evidence for steps."""
    height, width = planes[0].shape
    rows, columns = part = _active_part(planes[1], height, width)
    chroma = [plane[part] for plane in planes[1:]]
    down, across = factors
    candidates = [
        ChromaSampling(factors, (left + 8 * beside) % (8 * across), (top + 8 * below) % (8 * down))
        for below, beside in itertools.product(range(down), range(across))
    ]

    parts = []
    for each in candidates:
        inside = ChromaSampling(
            factors,
            (each.left - columns.start) % (8 * across),
            (each.top - rows.start) % (8 * down),
        )
        known = _known_samples(unclipped[part], inside)
        parts.append([(_samples_from(plane, inside), known) for plane in chroma])
    # A table that is known tells grids apart by few coefficients.
    table = _standard_chroma(luma)
    if table is None:
        best = candidates[choose_grid(parts, _CHROMA_NOISE, dc=True)[0]]
    else:
        fits = [sum(_agreement(_measure(*plane), table) for plane in planes) for planes in parts]
        best = candidates[int(np.argmax(fits))]
    known = _known_samples(unclipped, best)
    return best, [_measure(_samples_from(plane, best), known) for plane in planes[1:]]


def _measure(samples: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Returns the evidence of chroma samples for steps, as `step_evidence` does."""
    return step_evidence(distinct_coefficients(samples, known, dc=True), _CHROMA_NOISE)


def _standard_chroma(luma: TableEstimate) -> np.ndarray | None:
    """Returns the standard chroma table of luma's quality, int32 [8, 8], if luma's is standard."""
    return None if luma.quality is None else jpeg.quality_table(luma.quality, STANDARD_CHROMA)


def _agreement(evidence: np.ndarray, table: np.ndarray) -> float:
    """Returns the evidence for a table, in nats."""
    return float(evidence[np.arange(64), table.reshape(64) - 1].sum())


def _chroma_tables(
    measured: list[np.ndarray], luma: TableEstimate
) -> Iterator[tuple[TableEstimate, TableEstimate]]:
    """Yields tables that Cb and Cr may have, given their evidence: the likeliest first.

    The standard table of luma's quality comes first, then what the evidence speaks for: one table
    for both, unless it contradicts itself.
    """
    both = measured[0] + measured[1]
    separate = sum(np.maximum(e.max(axis=1), 0).sum() for e in measured)
    table = _standard_chroma(luma)
    if table is not None:
        known = np.ones((8, 8), bool)
        standard = TableEstimate(table, known, luma.quality, _agreement(both, table))
        yield standard, standard
    if np.maximum(both.max(axis=1), 0).sum() >= 0.95 * separate - 20:
        estimate = estimate_table(both, STANDARD_CHROMA)
        yield estimate, estimate
    else:
        cb, cr = (estimate_table(e, STANDARD_CHROMA) for e in measured)
        yield cb, cr


def _active_part(plane: np.ndarray, height: int, width: int) -> tuple[slice, slice]:
    """Returns the part of a picture, at most `_SIDE` square, whose chroma varies most."""
    tall, wide = min(_SIDE, height), min(_SIDE, width)
    places = [
        (int(top), int(left))
        for top in np.unique(np.linspace(0, height - tall, -(-height // _SIDE)))
        for left in np.unique(np.linspace(0, width - wide, -(-width // _SIDE)))
    ]

    def variation(place: tuple[int, int]) -> float:
        top, left = place
        return float(plane[top : top + tall, left : left + wide].std())

    top, left = max(places, key=variation)
    return slice(top, top + tall), slice(left, left + wide)


def _fits(plane: np.ndarray, known: np.ndarray, factors: tuple[int, int]) -> bool:
    """Returns whether a plane is what `upsample` gives, up to rounding, in most places."""
    if factors == (1, 1):
        return True
    height, width = (size // 2 * 2 for size in plane.shape)
    part, known = plane[:height, :width].astype(np.float32), known[:height, :width]
    error = np.abs(upsample(fit_samples(part, factors), factors) - part)
    # Cropping has cut what the samples at the border depend on.
    compared = error[4:-4, 4:-4][known[4:-4, 4:-4]]
    return not compared.size or bool((compared <= 1).mean() >= _MIN_FIT)


def _samples_from(plane: np.ndarray, sampling: ChromaSampling) -> np.ndarray:
    """Returns the samples of a chroma plane from its first whole unit of 8 x 8 on: float32."""
    down, across = sampling.factors
    top, left = sampling.top % down, sampling.left % across
    samples = fit_samples(plane[top:, left:].astype(np.float32), sampling.factors)
    return samples[(sampling.top - top) // down :, (sampling.left - left) // across :]


def _known_samples(unclipped: np.ndarray, sampling: ChromaSampling) -> np.ndarray:
    """Returns which of the samples that `_samples_from` returns depend on no clipped pixel."""
    down, across = sampling.factors
    top, left = sampling.top % down, sampling.left % across
    part = unclipped[top:, left:]
    part = np.pad(part, ((0, -part.shape[0] % down), (0, -part.shape[1] % across)), mode="edge")
    cells = part.reshape(part.shape[0] // down, down, part.shape[1] // across, across)
    known = np.asarray(cells.all(axis=(1, 3)))
    if sampling.factors != (1, 1):
        known = scipy.ndimage.binary_erosion(known, np.ones((3, 3), bool), border_value=1)
    return known[(sampling.top - top) // down :, (sampling.left - left) // across :]
