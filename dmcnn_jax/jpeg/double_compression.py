"""Files that were compressed twice: finds the grid and the table of a prior, coarser compression.

A picture that is compressed again at a higher quality keeps the artifacts of the prior compression.
They lie on a block grid that cropping may have moved, and come from a table that the file no longer
holds, but they can be detected (`prior_grid`), and the hypothesis can be checked against the file:
the prior picture, compressed again, must give the file's own coefficients (`explained_share`).
"""

import dataclasses
import functools

import numpy as np

from dmcnn_jax.jpeg.dct import (
    BASIS_IMAGES,
    block_coefficients,
    decode_unrounded,
    to_blocks,
)
from dmcnn_jax.jpeg.prior_grid import FREQUENCIES, STEPS, Periodicity, measure_periodicity
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.jpeg.tables import STANDARD_LUMA, nearest_quality, quality_table

_BASIS = BASIS_IMAGES.reshape(64, 64)

# Thresholds of detection: standard deviations from chance, the share of the expected evidence, and
# the ratio of the best grid's deviation to the second best. Over 50 photographs compressed twice by
# standard tables, the smallest values were 27, 0.68 and 4.9.
_MIN_DEVIATION, _MIN_SHARE, _MIN_LEAD = 12.0, 0.5, 1.25

# A prior compression can be detected only if the file's own compression is gentle: its mean
# quantisation step is at most this value, reached at about quality 65.
_MAX_MEAN_STEP = 40.0

# A prior compression matters if its quality is at most this, and its mean quantisation step exceeds
# the file's by this factor.
_MAX_QUALITY, _MIN_COARSENESS = 90, 1.3

# The least share of the file's coefficients that a prior compression must explain, and the share
# above which the search ends. Among 990 true prior compressions, one in a hundred explains less
# than 0.79; the false ones known before this check existed explain 0.35 or less.
_MIN_EXPLAINED, _WELL_EXPLAINED = 0.7, 0.9

# For tables that are not standard: the least deviation of a step from chance, the number of such
# steps that a table needs, and their largest distance from a smooth table, in octaves.
_MIN_STEP_DEVIATION, _MIN_STEPS, _NEAR = 4.0, 5, 0.35

# The largest mean step of such a table: that of the standard table at quality 5.
_MAX_MEAN = 255.0

ROWS_AT_ONCE = 32
"""Rows of blocks processed at a time."""

# Number of iterations by which `requantize` extrapolates cut blocks.
_ITERATIONS = 5

# Grey levels by which conversion to RGB and back, and rounding to pixels, may move a coefficient.
_ROUNDING = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class PriorCompression:
    """A compression of a picture before the one in its file.

    Attributes:
        quality: quality of the standard luma table nearest to its table, 1 to 100.
        table: its table, int32 [8, 8]; if it is not a standard one, as far as it could be found.
        left, top: offset of its first whole block from the corner, in pixels, 0 to 7.
        share: the evidence, relative to the expectation for such a compression: about 1 if it was
            detected; any value, or NaN, if it was given by the caller.
        explained: the share of the file's coefficients that it explains (`explained_share`), from 0
            to 1; NaN if no coefficients could be compared.
    """

    quality: int
    table: np.ndarray
    left: int
    top: int
    share: float
    explained: float = float("nan")

    @property
    def margins(self) -> tuple[int, int]:
        """Rows and columns by which the prior blocks extend beyond the picture, above and left."""
        return -self.top % 8, -self.left % 8


def find_prior_compression(
    component: Component, *, quality: int | None = None, grid: tuple[int, int] | None = None
) -> PriorCompression | None:
    """Looks for a prior, coarser compression in the luma plane of a file.

    Standard tables of every quality are tried first, then a table whose steps are found one by one.
    A detected compression must also explain the file's own coefficients.

    Args:
        component: the plane, at full size.
        quality: the prior quality, 1 to 100, if known. Then only the grid is searched for, and the
            prior compression need not explain the coefficients.
        grid: offset of the prior blocks from the corner, columns and rows, if known.

    Returns:
        The prior compression, or None if none is detected. Never None if the quality is given:
        without a detected grid, the file's own is assumed.

    Raises:
        ValueError: the quality or grid is out of range.
    """
    if grid is not None and not all(0 <= offset <= 7 for offset in grid):
        raise ValueError(f"grid is {grid}; expected two offsets from 0 to 7, columns and rows")
    if quality is not None and grid is not None:
        known = PriorCompression(quality, quality_table(int(quality)), *grid, share=float("nan"))
        return _explain(component, known)
    candidate = _worthwhile(component) if quality is None else np.arange(1, 101) == quality
    if not candidate.any():
        return None
    periodicity = measure_periodicity(component)
    only = None if grid is None else 8 * grid[1] + grid[0]
    prior = _find_standard(periodicity, candidate, only)
    if quality is not None:
        return _explain(
            component, prior or PriorCompression(quality, quality_table(quality), 0, 0, share=0.0)
        )
    if prior and (prior := _explain(component, prior)).explained >= _WELL_EXPLAINED:
        return prior
    other = _find_other(periodicity, component, only)
    hypotheses = [p for p in (prior, other and _explain(component, other)) if p]
    best = max(hypotheses, key=lambda p: p.explained, default=None)
    return best if best and best.explained >= _MIN_EXPLAINED else None


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
    for first in range(0, rows, ROWS_AT_ONCE):
        last = min(first + ROWS_AT_ONCE, rows)
        top, bottom = 8 * first - above, 8 * last - above
        inner = _decode_rows(component, max(top, 0), min(bottom, component.height))
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


def explained_share(
    component: Component, prior: PriorCompression, coefficients: np.ndarray
) -> float:
    """Returns the share of a file's coefficients that a prior compression explains.

    The prior picture is decoded to whole pixels and compressed again on the file's grid. A
    coefficient agrees if the result lies in its quantisation interval, up to rounding. Only AC
    coefficients that are not zero in the file are counted, since zeros agree too easily. Prior
    blocks cut by the picture's border are not compared.

    Args:
        component: the plane in the file.
        prior: its prior compression.
        coefficients: what `requantize` returned.

    Returns:
        From 0 to 1: near 1 for a true prior compression. NaN if no coefficients can be compared.
    """
    above, before = prior.margins
    table = component.table.reshape(64).astype(np.float32)
    rows_inside = _covered_blocks(prior.top, component.height)
    left, right = _covered_blocks(prior.left, component.width)
    agreeing = compared = 0
    for first in range(0, len(coefficients), ROWS_AT_ONCE):
        part = coefficients[first : first + ROWS_AT_ONCE]
        # The file's blocks within this band of prior blocks, and within whole ones.
        start = 8 * first - above
        top = max(-(-start // 8), rows_inside[0])
        bottom = min((start + 8 * len(part)) // 8, rows_inside[1])
        if top >= bottom or left >= right:
            continue
        plane = np.clip(np.rint(decode_unrounded(part, prior.table.reshape(64))), 0, 255)
        inner = plane[8 * top - start : 8 * bottom - start, before + 8 * left : before + 8 * right]
        x = block_coefficients(inner)
        k = component.coefficients[top:bottom, left:right].reshape(-1, 64)
        shown = k != 0
        shown[:, 0] = False
        agrees = np.abs(x - k * table) <= table / 2 + _ROUNDING
        compared += int(np.count_nonzero(shown))
        agreeing += int(np.count_nonzero(agrees & shown))
    return agreeing / compared if compared else float("nan")


def _covered_blocks(offset: int, size: int) -> tuple[int, int]:
    """Returns the first file block that whole prior blocks cover along an axis, and the end.

    Args:
        offset: where the first whole prior block begins, in pixels.
        size: of the picture.
    """
    return -(-offset // 8), (offset + (size - offset) // 8 * 8) // 8


def _explain(component: Component, prior: PriorCompression) -> PriorCompression:
    """Returns a prior compression with the share of the file's coefficients that it explains."""
    explained = explained_share(component, prior, requantize(component, prior))
    return dataclasses.replace(prior, explained=explained)


@functools.cache
def _candidates() -> np.ndarray:
    """Returns the luma tables of all qualities: int32 [100, 64]."""
    return quality_table(np.arange(1, 101)).reshape(-1, 64)


def _worthwhile(component: Component) -> np.ndarray:
    """Returns which prior qualities could be detected and would matter: bool [100]."""
    own = component.table.mean()
    coarser = _candidates().mean(axis=1) >= _MIN_COARSENESS * own
    return coarser & (np.arange(1, 101) <= _MAX_QUALITY) & (own <= _MAX_MEAN_STEP)


def _find_standard(
    periodicity: Periodicity, candidate: np.ndarray, only: int | None
) -> PriorCompression | None:
    """Looks for a prior compression by a standard table.

    Args:
        periodicity: of the plane.
        candidate: which qualities are considered, bool [100].
        only: the only grid that is considered; None: all.

    Returns:
        The prior compression, or None.
    """
    deviations, shares = periodicity.score(_candidates()[:, FREQUENCIES])
    deviations = np.where(candidate, deviations, -np.inf)
    grid = _leading_grid(deviations.max(axis=1), only)
    if grid is None:
        return None
    index = int(deviations[grid].argmax())
    share = float(shares[grid, index])
    if share < _MIN_SHARE:
        return None
    quality = 1 + _coarsest(deviations[grid], _candidates(), index)
    return PriorCompression(quality, quality_table(quality), grid % 8, grid // 8, share)


def _find_other(
    periodicity: Periodicity, component: Component, only: int | None
) -> PriorCompression | None:
    """Looks for a prior compression by a table that is not a standard one.

    First finds the nearest of a family of smooth tables. Then replaces each of its steps by the
    nearby step for which the coefficients on its grid are most periodic.

    Args:
        periodicity: of the plane.
        component: the plane.
        only: the only grid that is considered; None: all.

    Returns:
        The prior compression, or None.
    """
    tables = _smooth_tables()
    means = tables.mean(axis=1)
    own = component.table.mean()
    tables = tables[(means >= _MIN_COARSENESS * own) & (means <= _MAX_MEAN)]
    if not len(tables):
        return None
    deviations, _ = periodicity.score(np.rint(tables[:, FREQUENCIES]).astype(int))
    grid = _leading_grid(deviations.max(axis=1), only)
    if grid is None:
        return None
    smooth = tables[_coarsest(deviations[grid], tables, int(deviations[grid].argmax()))]
    steps = _nearby_steps(periodicity, grid, smooth[FREQUENCIES])
    share = float(periodicity.score(steps[None])[1][grid, 0])
    if share < _MIN_SHARE or np.count_nonzero(steps) < _MIN_STEPS:
        return None
    table = _complete_table(steps, smooth)
    return PriorCompression(nearest_quality(table), table, grid % 8, grid // 8, share)


def _leading_grid(deviations: np.ndarray, only: int | None) -> int | None:
    """Returns the grid that stands out from all others, if one does.

    Args:
        deviations: the best of each grid, [64].
        only: the only grid that is considered; None: all. The other grids are still compared with
            it.

    Returns:
        Its index, 8 · top + left, or None.
    """
    grid = int(deviations.argmax()) if only is None else only
    second = np.delete(deviations, grid).max()
    if deviations[grid] < _MIN_DEVIATION or deviations[grid] < _MIN_LEAD * second:
        return None
    return grid


def _coarsest(deviations: np.ndarray, tables: np.ndarray, index: int) -> int:
    """Returns the coarsest equally good table, since multiples of 16 are also multiples of 8."""
    means = tables.mean(axis=1)
    for factor in (4, 3, 2):
        near = np.flatnonzero(np.abs(np.log(means / (factor * means[index]))) < 0.06)
        if len(near):
            best = near[deviations[near].argmax()]
            if deviations[best] > 0.75 * deviations[index]:
                return int(best)
    return index


@functools.cache
def _smooth_tables() -> np.ndarray:
    """Returns smooth tables that rise from low to high frequencies less or more than the standard.

    In octaves, they rise by 0 to 1.4 times as much; there are 16 means per octave.

    Returns:
        float64 [tables, 64].
    """
    standard = np.log2(STANDARD_LUMA.reshape(64))
    contrasts = np.arange(0, 1.5, 0.2)[:, None, None]
    means = np.arange(1.5, 7.5, 1 / 16)[:, None]
    octaves = means + contrasts * (standard - standard.mean())
    return np.clip(2 ** octaves.reshape(-1, 64), 1, 255)


def _nearby_steps(periodicity: Periodicity, grid: int, smooth: np.ndarray) -> np.ndarray:
    """Returns the steps near a smooth table's for which coefficients are most periodic.

    Args:
        periodicity: of the plane.
        grid: its grid, 8 · top + left.
        smooth: the steps of a smooth table, [frequencies].

    Returns:
        integers [frequencies], 0 where no step stands out from chance.
    """
    deviations = periodicity.deviations()[grid]
    octaves = np.log2(STEPS / smooth[:, None])
    near = (np.abs(octaves) <= _NEAR) & (periodicity.weights[grid] > 0)
    deviations = np.where(near, deviations, 0)
    return np.where(deviations.max(axis=1) > _MIN_STEP_DEVIATION, STEPS[deviations.argmax(1)], 0)


def _complete_table(steps: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """Completes a table of which some steps were found.

    A step leaves no trace if all its coefficients were quantised to zero. Missing steps follow the
    smooth table, scaled by the steps found, weighted by nearness in frequency.

    Args:
        steps: of `FREQUENCIES`, 0 where none was found.
        smooth: the smooth table, [64].

    Returns:
        int32 [8, 8].
    """
    found = FREQUENCIES[steps > 0]
    ratios = np.log(steps[steps > 0] / smooth[found])
    places = np.stack(np.divmod(np.arange(64), 8), axis=1)
    squares = np.square(places[:, None] - places[found]).sum(axis=2)
    weights = 1 / (1 + squares.astype(np.float64)) ** 2
    table = smooth * np.exp(weights @ ratios / weights.sum(axis=1))
    table[found] = steps[steps > 0]
    return np.clip(np.rint(table), 1, 255).astype(np.int32).reshape(8, 8)


def _decode_rows(component: Component, top: int, bottom: int) -> np.ndarray:
    """Returns rows of the decoded plane, unrounded: float32 [bottom - top, width], grey levels."""
    first, last = top // 8, -(-bottom // 8)
    plane = decode_unrounded(component.coefficients[first:last], component.table.reshape(64))
    return np.clip(plane[top - 8 * first : bottom - 8 * first, : component.width], 0, 255)
