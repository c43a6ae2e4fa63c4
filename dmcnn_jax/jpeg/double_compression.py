"""Files that were saved more than once: the grid and the table of an earlier, coarser save.

A picture that is cropped and saved again, gently, keeps the artifacts of the save before: on a grid
of blocks that may have moved, by a table that its file no longer holds. They show. On the earlier
grid, and on no other, DCT coefficients lie near multiples of the earlier steps, as far as the later
save and rounding to whole pixels let them (Fridrich and Lukáš, 2003, on histograms of coefficients;
Bianchi and Piva, 2012, on moved grids).

Here all 64 grids and all qualities of the standard table are tried on a sample of the picture. For
a coefficient x that an earlier step q would not have set to zero, cos(2π x / q) is 1 at a multiple
of q, and averages zero or less over the smooth and falling densities that pictures have otherwise.
The noise of the later save, of variance σ², leaves exp(-2π² σ² / q²) of it. So weighted, the sum
over all frequencies says two things: how many standard deviations it is from chance, and what share
it is of what is to be expected of an earlier save. The second hardly depends on the picture: near 1
if there was one, below 0.3 on other grids and in files that were saved once.
"""

import dataclasses
import functools

import numpy as np

from dmcnn_jax.jpeg.dct import BASIS_IMAGES, from_blocks, to_blocks
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.jpeg.tables import quality_table

_BASIS = BASIS_IMAGES.reshape(64, 64)

# What counts as found: standard deviations from chance, and the share of what is to be expected.
_SURE, _SHARE = 12.0, 0.5

# Little shows of an earlier save unless the later one was gentle: steps up to this in the mean, as
# from about quality 65 on.
_GENTLE = 40.0

# An earlier save is worth knowing of up to this quality, and if its steps were coarser by this
# factor, in the mean.
_FINEST, _COARSER = 90, 1.3

# Frequencies that are looked at: vertical and horizontal number below this in sum. Beyond, an
# earlier save has left little but zeros.
_FREQUENCIES = np.array([8 * v + u for v in range(8) for u in range(8 - v)])

# Histograms of absolute coefficients: bins of half a grey level.
_UNIT, _BINS = 0.5, 2048

# The sample: so many windows, of so many blocks at a side; one more than is used, for moved grids.
_WINDOWS, _SIDE = 6, 33

# Of what varies less, in grey levels of a block's AC coefficients, many blocks may be the same.
_FLAT = 10.0

# Numbers at random, whose products with a block's coefficients tell blocks apart.
_KEYS = np.random.default_rng(0).integers(1, 2**40, len(_FREQUENCIES))

# Rows of blocks handled at a time.
_BAND = 32


@dataclasses.dataclass(frozen=True, eq=False)
class PriorCompression:
    """An earlier save of a picture.

    Attributes:
        quality: of the standard luma table that it had, 1 to 100.
        table: that table, int32 [8, 8].
        left, top: where its first whole block begins, pixels from the corner, 0 to 7.
        share: how much of what is to be expected of such a save there is: about 1 of one that is
            found; of one that is assumed, whatever shows.
    """

    quality: int
    table: np.ndarray
    left: int
    top: int
    share: float

    @property
    def margins(self) -> tuple[int, int]:
        """Rows and columns that the earlier blocks reach beyond the picture, above and left."""
        return -self.top % 8, -self.left % 8


def find_prior_compression(
    component: Component, *, quality: int | None = None, grid: tuple[int, int] | None = None
) -> PriorCompression | None:
    """Looks for an earlier, coarser save in the luma plane of a file.

    Args:
        component: the plane, at full size.
        quality: what the earlier quality is known to be, 1 to 100. Then an earlier save is a
            fact, and only its grid is looked for.
        grid: where the earlier blocks are known to begin, columns and rows from the corner.

    Returns:
        What was found, or None. With a quality, always something: if no grid shows, the file's own.

    Raises:
        ValueError: a quality or grid out of range.
    """
    if grid is not None and not all(0 <= offset <= 7 for offset in grid):
        raise ValueError(f"grid is {grid}; expected two offsets from 0 to 7, columns and rows")
    if quality is not None:
        table = quality_table(int(quality))
        if grid is not None:
            return PriorCompression(quality, table, *grid, share=float("nan"))
    tables = _candidates()
    qualities = np.arange(1, len(tables) + 1)
    if quality is None:
        worth = tables.mean(axis=1) >= _COARSER * component.table.mean()
        worth &= (qualities <= _FINEST) & (component.table.mean() <= _GENTLE)
    else:
        worth = qualities == quality
    if not worth.any():
        return None
    deviations, shares = _scores(_histograms(component), component)
    deviations = np.where(worth, deviations, -np.inf)
    if grid is not None:
        only = 8 * grid[1] + grid[0]
        deviations[np.arange(64) != only] = -np.inf
    place, index = np.unravel_index(deviations.argmax(), deviations.shape)
    found = deviations[place, index] >= _SURE and shares[place, index] >= _SHARE
    top, left = divmod(int(place), 8)
    if quality is not None:
        top, left = (top, left) if found else (0, 0)
        share = float(shares[8 * top + left, index])
        return PriorCompression(quality, table, left, top, share)
    if not found:
        return None
    index = _coarsest(deviations[place], tables, int(index))
    share = float(shares[place, index])
    return PriorCompression(index + 1, quality_table(index + 1), left, top, share)


def requantize(component: Component, earlier: PriorCompression) -> np.ndarray:
    """The coefficients that the earlier save's file held, as far as they can be told.

    The plane is decoded without rounding, cut into blocks on the earlier grid, and quantised by the
    earlier table. What the border has cut off of a block is guessed, so that the rest of it agrees
    with coefficients that are multiples of the steps.

    Args:
        component: the plane of the later file.
        earlier: the earlier save.

    Returns:
        int16 [rows, columns, 64]. The picture begins `earlier.margins` from their corner.
    """
    above, before = earlier.margins
    rows = -(-(component.height + above) // 8)
    columns = -(-(component.width + before) // 8)
    steps = earlier.table.reshape(64).astype(np.float32)
    coefficients = np.empty((rows, columns, 64), np.int16)
    for first in range(0, rows, _BAND):
        last = min(first + _BAND, rows)
        top, bottom = 8 * first - above, 8 * last - above
        inner = _rows(component, max(top, 0), min(bottom, component.height))
        pad = (
            (max(-top, 0), max(bottom - component.height, 0)),
            (before, 8 * columns - before - component.width),
        )
        blocks = to_blocks(np.pad(inner, pad, mode="edge")).reshape(-1, 64) - 128
        k = np.rint(blocks @ _BASIS.T / steps)
        known = to_blocks(np.pad(np.ones(inner.shape, bool), pad)).reshape(-1, 64)
        cut = np.flatnonzero(~known.all(axis=1))
        for _ in range(_GUESSES if len(cut) else 0):
            guess = np.where(known[cut], blocks[cut], (k[cut] * steps) @ _BASIS)
            k[cut] = np.rint(guess @ _BASIS.T / steps)
        coefficients[first:last] = np.clip(k, -32768, 32767).reshape(last - first, columns, 64)
    return coefficients


_GUESSES = 5


@functools.cache
def _candidates():
    """Luma tables of all qualities: int32 [100, 64]."""
    return quality_table(np.arange(1, 101)).reshape(-1, 64)


@functools.cache
def _cosines():
    """cos(2π x / q) where a step q leaves x: float32 [frequencies, bins, 100], zero elsewhere."""
    x = (np.arange(_BINS, dtype=np.float32) * _UNIT)[:, None]
    table = np.empty((len(_FREQUENCIES), _BINS, 100), np.float32)
    for row, q in zip(table, _candidates()[:, _FREQUENCIES].T.astype(np.float32), strict=True):
        np.multiply(x >= q / 2, np.cos((2 * np.pi) * (x / q)), out=row)
    return table


def _histograms(component):
    """Of absolute coefficients on all grids: float32 [64 grids, frequencies, bins]."""
    counts = np.zeros((64, len(_FREQUENCIES), _BINS + 1), np.float32)
    base = np.arange(len(_FREQUENCIES), dtype=np.int32) * (_BINS + 1)
    basis = np.ascontiguousarray(_BASIS[_FREQUENCIES].T)
    for window in _sample(component):
        for grid in range(64):
            top, left = divmod(grid, 8)
            part = window[top:, left:]
            part = part[: part.shape[0] // 8 * 8, : part.shape[1] // 8 * 8]
            if not part.size:
                continue
            blocks = to_blocks(part).reshape(-1, 64)
            # Where pixels were cut off, coefficients are no longer what they were.
            blocks = blocks[(blocks.min(axis=1) > 0.5) & (blocks.max(axis=1) < 254.5)]
            x = (blocks - 128) @ basis
            x = x[np.square(x[:, 1:]).sum(axis=1) > _FLAT**2]
            # What is drawn repeats itself. Blocks that are alike say no more than one of them.
            _, different = np.unique(np.rint(x / 2).astype(np.int64) @ _KEYS, return_index=True)
            x = x[different]
            bins = np.minimum(np.rint(np.abs(x) / _UNIT).astype(np.int32), _BINS) + base
            counts[grid] += np.bincount(bins.ravel(), minlength=counts[grid].size).reshape(
                counts[grid].shape
            )
    return counts[..., :_BINS]


def _sample(component):
    """Windows of the decoded plane, unrounded: those with the most coefficients."""
    height, width, _ = component.coefficients.shape
    tall, wide = min(_SIDE, height), min(_SIDE, width)
    tops = np.unique(np.linspace(0, height - tall, max(1, height // _SIDE)).astype(int))
    lefts = np.unique(np.linspace(0, width - wide, max(1, width // _SIDE)).astype(int))
    places = [(top, left) for top in tops for left in lefts]
    # Of large pictures not all of it is looked at even for this.
    places = places[:: -(-len(places) // 400)]
    steps = component.table.reshape(64).astype(np.float32)

    def part(place):
        top, left = place
        return component.coefficients[top : top + tall, left : left + wide]

    places.sort(key=lambda place: -np.count_nonzero(part(place)))
    for place in places[:_WINDOWS]:
        blocks = (part(place).reshape(-1, 64) * steps) @ _BASIS + 128
        yield from_blocks(blocks.reshape(-1, wide, 64))


def _scores(histograms, component):
    """Deviations from chance and shares of what is to be expected: [64 grids, 100] each."""
    steps = _candidates()[:, _FREQUENCIES].T.astype(np.float64)  # [frequencies, 100]
    sums = np.matmul(histograms.swapaxes(0, 1), _cosines()).swapaxes(0, 1).astype(np.float64)
    # From the first bin that a step does not set to zero.
    above = np.cumsum(histograms[..., ::-1], axis=-1, dtype=np.float64)[..., ::-1]
    first = np.ceil(steps / 2 / _UNIT).astype(int)
    numbers = np.take_along_axis(above, first[None], axis=2)
    own = component.table.reshape(64).astype(np.float64)
    weights = np.exp(-2 * (np.pi / steps) ** 2 * _noise(component, own))[None].repeat(64, axis=0)
    _on_own_grid(sums, numbers, weights, histograms[0], steps, own[_FREQUENCIES, None])
    signal = (weights * sums).sum(axis=1)
    squares = (weights**2 * numbers).sum(axis=1)
    return signal / np.sqrt(squares / 2 + 1e-9), signal / (squares + 1e-9)


def _noise(component, own):
    """Variance that the later save adds to a coefficient on another grid, in the mean."""
    sample = component.coefficients.reshape(-1, 64)
    sample = sample[:: -(-len(sample) // 20_000)] * own
    # What is quantised to zero adds no more than it had.
    return np.minimum(own**2 / 12, np.square(sample).mean(axis=0)).mean() + 1 / 12


def _on_own_grid(sums, numbers, weights, histogram, steps, own):
    """Replaces the first grid's figures, where coefficients are multiples of the file's own steps.

    Each stands for an interval, of which only the part beyond half the earlier step counts. Without
    that, where such an interval begins would make a period of its own.
    """
    x = np.arange(_BINS) * _UNIT
    for f in range(len(_FREQUENCIES)):
        used = np.flatnonzero(histogram[f])
        beyond = np.clip((x[used, None] - steps[f] / 2) / own[f] + 0.5, 0, 1)
        counted = histogram[f, used, None] * beyond * (x[used, None] > 0)
        sums[0, f] = (counted * np.cos(2 * np.pi * x[used, None] / steps[f])).sum(axis=0)
        numbers[0, f] = counted.sum(axis=0)
    weights[0] = np.exp(-2 * (np.pi / steps) ** 2 * (own**2 / 12 + 1 / 12))
    # Steps that are hardly coarser beat with the file's own.
    weights[0][steps < 1.5 * own] = 0


def _coarsest(deviations, tables, index):
    """The coarsest table that explains as much: multiples of 16 are multiples of 8, too."""
    means = tables.mean(axis=1)
    for factor in (4, 3, 2):
        near = np.flatnonzero(np.abs(np.log(means / (factor * means[index]))) < 0.06)
        if len(near):
            best = near[deviations[near].argmax()]
            if deviations[best] > 0.75 * deviations[index]:
                return int(best)
    return index


def _rows(component, top, bottom):
    """Rows of the decoded plane, unrounded: float32 [bottom - top, width], levels."""
    first, last = top // 8, -(-bottom // 8)
    part = component.coefficients[first:last].reshape(-1, 64)
    blocks = (part * component.table.reshape(64).astype(np.float32)) @ _BASIS + 128
    plane = from_blocks(blocks.reshape(-1, component.coefficients.shape[1], 64))
    return np.clip(plane[top - 8 * first : bottom - 8 * first, : component.width], 0, 255)
