"""Plans overlapping tiles of a few shapes, and runs a program on them."""

import dataclasses
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import flax.linen as nn
import jax
import numpy as np

from dmcnn_jax.inference.model import Model
from dmcnn_jax.system.malloc import trim_memory


def tiling(model: Model, rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """How `restore_plane` cuts a plane of so many blocks: along both axes, tiles and their pixels.

    Of two passes, the last, which does nearly all of the work.
    """
    _, halo = halos(model.module)
    if halo is None:
        return (1, 8 * rows), (1, 8 * columns)
    along = []
    for blocks in (rows, columns):
        cuts = plan_tiles(blocks, halo, tile_sides(model.module))
        # JAX computes what of a tile lies outside of the plane, other engines don't.
        length = min(cuts.length, blocks) if model.engine else cuts.length
        along.append((len(cuts.pieces), 8 * length))
    return along[0], along[1]


def computed_pixels(model: Model, rows: int, columns: int) -> int:
    """Pixels of all those tiles: what is computed, overlaps included."""
    return math.prod(count * pixels for count, pixels in tiling(model, rows, columns))


TILE_SIDES = (16, 32, 48, 64, 80, 96)
"""Sides that tiles may have, in blocks. Few, since each pair of sides is a program to compile, of
which a size of picture has one; the largest keeps a network of 64 channels near 2 GB."""


# What the largest tile is for, and how much longer it may get where there is memory for it.
_FEATURES, _LONGEST, _STEP = 64, 144, 16


def tile_sides(module: nn.Module) -> tuple[int, ...]:
    """Sides that a network's tiles may have, in blocks.

    One of fewer channels has the memory for longer ones, which overlap less.
    """
    largest = TILE_SIDES[-1]
    longer = largest * math.sqrt(_FEATURES / getattr(module, "features", _FEATURES))
    longest = min(int(longer), _LONGEST)
    return (*TILE_SIDES, *range(largest + _STEP, longest + 1, _STEP))


STRIP_SIDES = (*TILE_SIDES, 256)
"""Widths of tiles of the first pass, in blocks.

On the grid of blocks there is memory for wide ones.
"""


@dataclasses.dataclass(frozen=True)
class Tile:
    """A stretch of an axis.

    It starts at block `start`, maybe outside the plane; its results count from `first` to `last`.
    """

    start: int
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class TilePlan:
    """An axis cut into pieces of one length, in blocks."""

    length: int
    pieces: tuple[Tile, ...]


def plan_tiles(blocks: int, halo: int, sides: Sequence[int]) -> TilePlan:
    """Cuts an axis into overlapping pieces of one length, chosen so that there is least to compute.

    Args:
        blocks: length of the axis.
        halo: blocks that a result needs to know on either side.
        sides: lengths that pieces may have, ascending.

    Returns:
        The cuts. One piece may be longer than the axis; several lie within it.
    """

    def count(side: int) -> float:
        if blocks <= side:
            return 1
        inner = side - 2 * halo
        return math.ceil((blocks - 2 * halo) / inner) if inner > 0 else math.inf

    side = min(sides, key=lambda side: (count(side) * side, -side))
    if math.isinf(count(side)):
        # A network that sees further than the largest tile: smaller would be in vain.
        return TilePlan(blocks, (whole_axis(blocks),))
    pieces = []
    for i in range(int(count(side))):
        start = max(0, min(i * (side - 2 * halo), blocks - side))
        first = pieces[-1].last if pieces else 0
        last = blocks if start + side >= blocks else start + side - halo
        pieces.append(Tile(start, first, last))
    return TilePlan(side, tuple(pieces))


def whole_axis(blocks: int) -> Tile:
    """Returns the one tile that covers an axis of so many blocks."""
    return Tile(0, 0, blocks)


def halos(module: nn.Module) -> tuple[int, int | None]:
    """What passes see, in blocks: the first (0: there is only one), and the last (None: all)."""
    halo = getattr(module, "halo_blocks", None)
    return halo if isinstance(halo, tuple) else (0, halo)


class TileSource:
    """Where tiles of a plane are cut from: coefficients, tables and masks for a program."""

    def __init__(
        self, coefficients: np.ndarray, table: np.ndarray, size: tuple[int, int] | None = None
    ):
        self._coefficients, self._table = coefficients, table.astype(np.int32)
        self._size = size

    def tile(self, top: int, rows: int, left: int, columns: int) -> tuple[np.ndarray, ...]:
        """A tile, which may reach outside: k [rows, columns, 64], Q, mask [rows, columns, 1].

        With a size, the mask is one of pixels, [8 rows, 8 columns, 1].
        """
        inner = self._coefficients[max(0, top) : top + rows, max(0, left) : left + columns]
        y, x = max(0, -top), max(0, -left)
        k = np.zeros((rows, columns, 64), np.int32)
        k[y : y + inner.shape[0], x : x + inner.shape[1]] = inner
        mask = np.zeros((rows, columns, 1), bool)
        mask[y : y + inner.shape[0], x : x + inner.shape[1]] = True
        if self._size:
            mask = mask.repeat(8, axis=0).repeat(8, axis=1)
            mask[max(0, self._size[0] - 8 * top) :] = False
            mask[:, max(0, self._size[1] - 8 * left) :] = False
        return k, self._table, mask

    @property
    def width(self) -> int:
        """The width of the plane, in blocks."""
        return self._coefficients.shape[1]


def run_on_tiles(
    program: Callable, tiles: Iterable[tuple[np.ndarray, ...]], count: int, by_engine: bool = False
) -> Iterator[np.ndarray]:
    """Results of a program on tiles, in batches, or one by one: engines take no more."""
    # On a CPU, unlike on an accelerator, nothing is gained by batches, nor by beginning the next
    # before the last is fetched; that would take the memory of two.
    on_cpu = jax.default_backend() == "cpu"
    single = by_engine or on_cpu
    size = 1 if single or count < _BATCH else _BATCH
    ahead = 0 if single else 1
    pending: deque[tuple[int, jax.Array]] = deque()

    def fetch() -> Iterator[np.ndarray]:
        number, results = pending.popleft()
        yield from np.asarray(results)[:number]

    tiles = iter(tiles)
    while batch := list(itertools.islice(tiles, size)):
        filled = batch + batch[-1:] * (size - len(batch))
        arrays = [np.stack(parts) for parts in zip(*filled, strict=True)]
        pending.append((len(batch), program(*arrays)))
        if len(pending) > ahead:
            yield from fetch()
            if on_cpu and not by_engine and count > 1:
                # XLA asks for all the memory of a tile at once. Where something small has landed in
                # what the last tile left, that lies idle, and the next takes as much again.
                trim_memory()
    while pending:
        yield from fetch()


_BATCH = 4
