"""Estimates a quantisation table from the coefficients of pixels that a JPEG decoder made.

Except for noise from rounding to whole pixels, a decoded coefficient is k · Q, a point of a
lattice. The lattice of each frequency is found by maximum likelihood (compare Fan and de Queiroz,
*Identification of bitmap compression history*, 2003).
"""

import dataclasses
import functools

import numpy as np

from dmcnn_jax.jpeg.tables import STANDARD_LUMA, quality_table

STEPS = np.arange(1, 256)
"""Quantisation steps that are tried: those of baseline files."""

# Histograms of absolute coefficients: the width of a bin in grey levels, and the number of bins.
_BIN, _BINS = 0.25, 4608

# The share of coefficients that may have any value, since their blocks were changed after decoding.
_STRAY = 0.1

# Coefficients nearer to zero than this many standard deviations of the noise may be zeros.
_NONZERO = 9.0

# The least evidence for a step, in nats, at which it counts as known.
_MIN_EVIDENCE = 8.0

# The largest excess in likelihood of a frequency's best step over a standard table's: in nats, and
# as a share of the evidence.
_TOLERANCE, _TOLERANCE_SHARE = 10.0, 0.03


@dataclasses.dataclass(frozen=True, eq=False)
class TableEstimate:
    """An estimated quantisation table.

    Attributes:
        table: int32 [8, 8]. Unknown steps are chosen such that they do no harm.
        known: bool [8, 8], whether the step is determined, by its own coefficients or because the
            others agree with a standard table.
        quality: quality of the standard table that it equals; None: it isn't one.
        evidence: evidence for the AC steps, in nats, relative to coefficients on no lattice.
    """

    table: np.ndarray
    known: np.ndarray
    quality: int | None
    evidence: float


def step_evidence(x: np.ndarray, noise: float) -> np.ndarray:
    """Returns the evidence in coefficients for each quantisation step.

    The density of coefficients on the lattice of a step q, blurred by the noise, is q Σ N(x - kq)
    times their smooth density. The smooth density is the same for all steps, and left out.

    Args:
        x: coefficients [blocks, frequencies], not quantised.
        noise: variance of the noise, in squared grey levels.

    Returns:
        float [frequencies, steps]: log-likelihood relative to coefficients on no lattice, in nats.
    """
    frequencies = x.shape[1]
    if not len(x):
        return np.zeros((frequencies, len(STEPS)))
    bins = np.minimum(np.rint(np.abs(x) / _BIN).astype(np.int32), _BINS - 1)
    used = int(bins.max()) + 1
    bins += np.arange(frequencies, dtype=np.int32) * used
    histograms = np.bincount(bins.ravel(), minlength=frequencies * used)
    histograms = histograms.reshape(frequencies, used).astype(np.float32)
    filled = np.flatnonzero(histograms.any(axis=0))
    return histograms[:, filled] @ _log_ratios(noise)[filled]


def estimate_table(evidence: np.ndarray, base: np.ndarray = STANDARD_LUMA) -> TableEstimate:
    """Returns the table with the most evidence.

    A standard table that agrees with the evidence is taken as a whole. Otherwise each step is its
    likeliest value, and steps without evidence follow the nearest standard table, up to the largest
    known step.

    Args:
        evidence: what `step_evidence` returned, or a sum of such arrays.
        base: the standard table at quality 50: of luma or of chroma.
    """
    best, steps = evidence.max(axis=1), 1 + evidence.argmax(axis=1)
    tables = quality_table(np.arange(1, 101), base).reshape(-1, 64)
    at = np.take_along_axis(evidence.T[None], tables[:, None, :] - 1, axis=1)[:, 0]  # [100, 64]
    agrees = (best - at <= _TOLERANCE + _TOLERANCE_SHARE * best).all(axis=1)
    totals = np.where(agrees, at.sum(axis=1), -np.inf)
    index = int(totals.argmax())
    if totals[index] > _MIN_EVIDENCE:
        return TableEstimate(
            tables[index].reshape(8, 8), np.ones((8, 8), bool), index + 1, at[index, 1:].sum()
        )
    known = best >= _MIN_EVIDENCE
    table = _complete(np.where(known, steps, 0), tables) if known.any() else np.ones(64)
    # Nonzero coefficients on no lattice have a step of 1, or one too small to detect.
    seen = np.isfinite(best) & (evidence.min(axis=1) < -_MIN_EVIDENCE) & ~known
    table = np.where(seen, 1, table)
    return TableEstimate(
        table.astype(np.int32).reshape(8, 8),
        (known | seen).reshape(8, 8),
        None,
        float(best[1:][known[1:]].sum()),
    )


def _complete(steps: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Returns a table with its unknown steps, given as 0, from the nearest standard table."""
    known = steps > 0
    distances = np.abs(np.log2(tables[:, known]) - np.log2(steps[known])).mean(axis=1)
    return np.where(known, steps, np.minimum(tables[distances.argmin()], steps.max()))


@functools.lru_cache(maxsize=8)
def _log_ratios(noise: float) -> np.ndarray:
    """Returns a coefficient's contribution to the evidence for each step: float32 [bins, steps]."""
    x = (np.arange(_BINS) * _BIN)[:, None]
    variance = noise + _BIN**2 / 12
    nearest = x - np.rint(x / STEPS) * STEPS
    density = sum(
        np.exp(-((nearest - m * STEPS) ** 2) / (2 * variance)) for m in (-3, -2, -1, 0, 1, 2, 3)
    ) / np.sqrt(2 * np.pi * variance)
    ratios = np.log((1 - _STRAY) * STEPS * density + _STRAY)
    return np.where(x > _NONZERO * np.sqrt(variance), ratios, 0).astype(np.float32)
