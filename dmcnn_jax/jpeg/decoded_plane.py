"""Finds the block grid of a plane whose pixels a JPEG decoder made.

Only on the file's own grid do coefficients lie on the lattices of its quantisation steps
(`lattice`), blurred by nothing but rounding to whole pixels. All 64 grids are tried on a sample.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from dmcnn_jax.jpeg.dct import block_coefficients, to_blocks
from dmcnn_jax.jpeg.lattice import step_evidence

ROUNDING_NOISE = 1 / 12
"""Variance that rounding to whole levels adds to each coefficient."""

# The sample: the number of windows, and their side in pixels.
_WINDOWS, _SIDE = 4, 200

# Grids whose evidence reaches this share of the maximum are candidates for the true grid.
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
        The offset of its first whole block from the corner, columns and rows, 0 to 7; and the
        evidence of AC coefficients for it, in nats: hundreds for pixels of a JPEG file, little or
        none for others.
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
    """Returns the grid with the most evidence in its coefficients.

    Grids moved by half a block have the second most evidence, since their coefficients are averages
    of two lattice points. So, among the grids with much evidence, the one with the fewest
    coefficients is chosen.

    Args:
        candidates: for each grid planes whose blocks begin in the corner, [height, width], levels 0
            to 255, and which pixels of them are exact, as in `distinct_coefficients`.
        noise: variance of the noise added to coefficients after decoding.
        dc: whether DC coefficients count too. In uniform areas they are multiples of 8 even without
            compression, so they only distinguish grids of a plane known to be compressed.

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

    Uninformative blocks are left out: clipping has changed the coefficients of some, and repeated
    blocks, as in drawings, are no more evidence than a single one.

    Args:
        plane: [height, width], levels 0 to 255; blocks begin in its corner.
        known: bool [height, width], pixels that were not clipped; None: those strictly inside the
            range of levels.
        dc: whether blocks that differ only in their DC coefficients are distinct.
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
    # All windows share one grid, since they are whole blocks apart.
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
