"""Finds the block grid of a plane whose pixels a JPEG decoder made.

On the grid of the file, and on no other, coefficients lie on the lattices of its quantisation steps
(`lattice`), blurred only by rounding to whole pixels. All 64 grids are tried on a sample.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from dmcnn_jax.jpeg.dct import block_coefficients, to_blocks
from dmcnn_jax.jpeg.lattice import step_evidence

ROUNDING_NOISE = 1 / 12
"""Variance that rounding to whole levels adds to each coefficient."""

# The sample: the number of windows, and their side in pixels.
_WINDOWS, _SIDE = 4, 200

# Grids with this share of the most evidence may be the true one.
_RUNNER_UP = 0.15

NOISE_SIZE = 2.6
"""AC coefficients below this size may be rounding noise, in grey levels."""

# Random numbers that hash a block's coefficients, to find equal blocks.
_HASH_KEYS = np.random.default_rng(0).integers(1, 2**40, 64)


def find_grid(plane: np.ndarray) -> tuple[int, int, float]:
    """Looks for the block grid of a decoded plane.

    Args:
        plane: [height, width], levels 0 to 255.

    Returns:
        Where its first whole block begins, columns and rows from the corner, 0 to 7; and the
        evidence of AC coefficients for it, in nats: some, or none, for pixels of no JPEG file,
        hundreds for those of one.
    """
    windows = list(_busiest_windows(plane))
    grid, evidence = choose_grid(
        [
            [(window[top:, left:], None) for window in windows]
            for top in range(8)
            for left in range(8)
        ]
    )
    return grid % 8, grid // 8, evidence


def choose_grid(
    candidates: Sequence[Sequence[tuple[np.ndarray, np.ndarray | None]]],
    noise: float = ROUNDING_NOISE,
    *,
    dc: bool = False,
) -> tuple[int, float]:
    """Returns the grid that coefficients speak for.

    Grids moved by half a block come next to the true one, since their coefficients are averages of
    two lattice points. Of the grids with much evidence, the one with the fewest coefficients is
    taken.

    Args:
        candidates: for each grid planes whose blocks begin in the corner, [height, width], levels 0
            to 255, and which pixels of them are exact, as in `distinct_coefficients`.
        noise: variance of what was added to coefficients after they were decoded.
        dc: whether DC coefficients count, too. In even areas they are multiples of 8 without any
            compression, so that they only tell grids of a compressed plane apart.

    Returns:
        The index of the grid, and the evidence of the coefficients for it, in nats.
    """
    scores, counts = np.zeros((2, len(candidates)))
    for index, parts in enumerate(candidates):
        blocks = [_transform(*part) for part in parts]
        all_blocks = np.concatenate([x for x, _ in blocks])
        if not len(all_blocks):
            counts[index] = np.inf
            continue
        counts[index] = (np.abs(all_blocks[:, 1:]) > NOISE_SIZE).sum(axis=1).mean()
        x = np.concatenate([_distinct(x[exact], dc=dc) for x, exact in blocks])
        evidence = step_evidence(x if dc else x[:, 1:], noise)
        scores[index] = np.maximum(evidence.max(axis=1), 0).sum()
    likely = scores >= _RUNNER_UP * scores.max()
    best = int(np.where(likely, counts, np.inf).argmin())
    return best, float(scores[best])


def distinct_coefficients(
    plane: np.ndarray, known: np.ndarray | None = None, *, dc: bool = False
) -> np.ndarray:
    """Returns coefficients of the whole blocks of a plane: float32 [blocks, 64].

    Blocks that say nothing are left out. Clipping has changed the coefficients of some; repeated
    ones, as in drawings, are no more evidence than one of them.

    Args:
        plane: [height, width], levels 0 to 255; blocks begin in its corner.
        known: bool [height, width], pixels that were not clipped; None: those strictly inside the
            range of levels.
        dc: whether blocks that differ in their DC coefficients only are distinct.
    """
    x, exact = _transform(plane, known)
    return _distinct(x[exact], dc=dc)


def _transform(plane: np.ndarray, known: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the coefficients of the whole blocks of a plane, and which blocks are exact."""
    height, width = (size // 8 * 8 for size in plane.shape)
    if not (height and width):
        return np.empty((0, 64), np.float32), np.empty(0, bool)
    part = plane[:height, :width]
    inside: np.ndarray = (part > 0) & (part < 255) if known is None else known[:height, :width]
    exact = np.all(to_blocks(inside).reshape(-1, 64), axis=1)
    return block_coefficients(part.astype(np.float32)), exact


def _distinct(x: np.ndarray, *, dc: bool) -> np.ndarray:
    """Returns one of each set of equal blocks, given as coefficients [blocks, 64]."""
    keys = np.where(np.arange(64) > 0, _HASH_KEYS, _HASH_KEYS if dc else 0)
    _, different = np.unique(np.rint(x / 2).astype(np.int64) @ keys, return_index=True)
    return x[different]


def _busiest_windows(plane: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the windows of a plane that vary most: float32, at most `_SIDE` pixels square."""
    height, width = plane.shape
    tall, wide = min(_SIDE, height), min(_SIDE, width)
    # All windows have the same grid: they are whole blocks apart.
    tops = range(0, height - tall + 1, _SIDE)
    lefts = range(0, width - wide + 1, _SIDE)
    places = [(top, left) for top in tops for left in lefts]
    places = places[:: -(-len(places) // 400)]

    def window(place: tuple[int, int]) -> np.ndarray:
        top, left = place
        return plane[top : top + tall, left : left + wide]

    def variation(place: tuple[int, int]) -> float:
        return float(np.abs(np.diff(window(place)[::2].astype(np.int16), axis=1)).mean())

    places.sort(key=variation, reverse=True)
    for place in places[:_WINDOWS]:
        yield window(place).astype(np.float32)
