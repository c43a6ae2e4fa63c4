"""Plans overlapping tiles of a few shapes, and runs programs on them."""

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
from dmcnn_jax.system.progress import Progress

TILE_SIDES = (16, 32, 48, 64, 80, 96)
"""Possible sides of tiles, in blocks. They are few, since each pair of sides needs a compiled
program; a picture uses one pair. With the largest, a network of 64 channels takes about 2 GB."""

STRIP_SIDES = (*TILE_SIDES, 128, 192, 256, 384, 512)
"""Widths of tiles of the first pass, in blocks; on the grid of blocks, wide tiles fit in memory."""

FEW_SIDES = (16, 32, 48, 64, 80, 100)
"""Sides that replace all but the longest one after `use_few_shapes`."""

LONGEST_SIDE = 144
"""The longest side of tiles for narrow networks, in blocks (`tile_sides`)."""

# Number of channels for which the largest of TILE_SIDES is meant, and the spacing of longer sides.
_FEATURES, _SPACING = 64, 16

# Number of tiles that an accelerator computes at a time.
_BATCH = 4

# Whether FEW_SIDES are in use.
_few_shapes = False


def use_few_shapes(enabled: bool) -> None:
    """Chooses between fine and coarse grading of tile sides, for all models of this process.

    With coarse grading, pictures of 300 to 800 pixels per side need 16 programs of a network, not
    25, and a hundredth more computation. On a CPU, the restored bits are the same.

    Args:
        enabled: whether tiles have `FEW_SIDES`, for pictures of many sizes.
    """
    global _few_shapes
    _few_shapes = enabled


@dataclasses.dataclass(frozen=True)
class Tile:
    """The extent of a tile along one axis, in blocks.

    Attributes:
        start: the first block that the tile reads, possibly outside of the plane.
        core_start: the first block of its core, the part whose results are kept.
        core_stop: the block after the last one of its core.
    """

    start: int
    core_start: int
    core_stop: int

    def core_in_plane(self, block: int) -> slice:
        """Returns the core's position in the plane, given the side of a block in pixels."""
        return slice(block * self.core_start, block * self.core_stop)

    def core_in_tile(self, block: int) -> slice:
        """Returns the core's position in the tile, given the side of a block in pixels."""
        first, last = self.core_start - self.start, self.core_stop - self.start
        return slice(block * first, block * last)


def core_in_tile(row: Tile, column: Tile, blocks: tuple[int, int] = (1, 1)) -> np.ndarray:
    """Returns the core's place in a tile: begin and end of rows, and of columns, int32 [2, 2].

    Args:
        row: the tile's rows.
        column: its columns.
        blocks: rows and columns of cells to one of the tile's.
    """
    slices = (tile.core_in_tile(count) for tile, count in zip((row, column), blocks, strict=True))
    return np.array([(part.start, part.stop) for part in slices], np.int32)


@dataclasses.dataclass(frozen=True)
class TilePlan:
    """Tiles along one axis.

    Attributes:
        length: length of every tile, in blocks.
        tiles: the tiles in order; their cores cover the axis once.
    """

    length: int
    tiles: tuple[Tile, ...]


def plan_tiles(blocks: int, halo: int, sides: Sequence[int]) -> TilePlan:
    """Covers an axis with overlapping tiles of the length that costs the least computation.

    Args:
        blocks: length of the axis.
        halo: number of blocks on either side on which a result depends.
        sides: possible lengths of tiles, ascending.

    Returns:
        The plan. A single tile may be longer than the axis; several lie within it.
    """

    def count(side: int) -> float:
        if blocks <= side:
            return 1
        inner = side - 2 * halo
        return math.ceil((blocks - 2 * halo) / inner) if inner > 0 else math.inf

    side = min(sides, key=lambda side: (count(side) * side, -side))
    if math.isinf(count(side)):
        # The receptive field exceeds the largest tile, so tiles would save nothing.
        return plan_one_tile(blocks)
    tiles: list[Tile] = []
    for i in range(int(count(side))):
        start = max(0, min(i * (side - 2 * halo), blocks - side))
        core_start = tiles[-1].core_stop if tiles else 0
        core_stop = blocks if start + side >= blocks else start + side - halo
        tiles.append(Tile(start, core_start, core_stop))
    return TilePlan(side, tuple(tiles))


def plan_one_tile(blocks: int) -> TilePlan:
    """Covers an axis with a single tile of its length."""
    return TilePlan(blocks, (Tile(0, 0, blocks),))


def plan_plane(module: nn.Module, rows: int, columns: int) -> tuple[TilePlan, TilePlan]:
    """Plans the tiles of a network's last pass, which does nearly all of the work.

    Args:
        module: the network.
        rows: height of the plane, in blocks.
        columns: width of the plane, in blocks.

    Returns:
        The plans of rows and of columns.
    """
    _, halo = halos(module)
    if halo is None:
        return plan_one_tile(rows), plan_one_tile(columns)
    sides = tile_sides(module)
    return plan_tiles(rows, halo, sides), plan_tiles(columns, halo, sides)


def halos(module: nn.Module) -> tuple[int, int | None]:
    """Returns the radii of the receptive fields of a network's passes, in blocks.

    Returns:
        The radius of the first pass (0: the network runs in one pass) and of the last pass (None:
        unknown).
    """
    halo = getattr(module, "halo_blocks", None)
    return halo if isinstance(halo, tuple) else (0, halo)


def tile_sides(module: nn.Module) -> tuple[int, ...]:
    """Returns the possible sides of a network's tiles, in blocks, ascending.

    Networks of fewer than 64 channels have memory for longer tiles, which overlap less.
    """
    largest = TILE_SIDES[-1]
    longer = largest * math.sqrt(_FEATURES / getattr(module, "features", _FEATURES))
    longest = min(int(longer), LONGEST_SIDE)
    return _graded((*TILE_SIDES, *range(largest + _SPACING, longest + 1, _SPACING)))


def strip_sides() -> tuple[int, ...]:
    """Returns the possible widths of tiles of the first pass, in blocks, ascending."""
    return _graded(STRIP_SIDES)


def chroma_tile_sides(subsampling: tuple[int, int]) -> tuple[int, ...]:
    """Returns the sides of chroma's tiles, in coded blocks, that cover as many pixels as luma's."""
    return tuple(side // max(subsampling) for side in _graded(TILE_SIDES))


def _graded(sides: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the given sides, or with `use_few_shapes` the few sides up to the longest of them."""
    if not _few_shapes:
        return sides
    return (*(side for side in FEW_SIDES if side < sides[-1]), sides[-1])


def tile_grid(model: Model, rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the tiling of a plane by `restore_plane`.

    Args:
        model: the model.
        rows: height of the plane, in blocks.
        columns: width of the plane, in blocks.

    Returns:
        Along rows and along columns, the number of tiles and their length in pixels.
    """

    def along(plan: TilePlan, blocks: int) -> tuple[int, int]:
        # JAX also computes the part of a tile outside the plane; other engines don't.
        length = min(plan.length, blocks) if model.engine else plan.length
        return len(plan.tiles), 8 * length

    row_plan, column_plan = plan_plane(model.module, rows, columns)
    return along(row_plan, rows), along(column_plan, columns)


def computed_pixels(model: Model, rows: int, columns: int) -> int:
    """Returns the number of pixels in all tiles of `tile_grid`, with overlaps; same arguments."""
    return math.prod(count * pixels for count, pixels in tile_grid(model, rows, columns))


class TileSource:
    """A plane from which tiles of coefficients are cut, each with the table and a mask.

    Attributes:
        width: width of the plane, in blocks.

    Args:
        coefficients: k of the plane, integers [h, w, 64].
        table: Q, integers [8, 8].
        picture: first row and the row after the last, and the same for columns, of the picture in
            the plane, in pixels; masks are then of pixels. None: masks are of blocks.
    """

    def __init__(
        self,
        coefficients: np.ndarray,
        table: np.ndarray,
        picture: tuple[tuple[int, int], tuple[int, int]] | None = None,
    ):
        self._coefficients, self._table = coefficients, table.astype(np.int32)
        self._picture = picture
        self.width: int = coefficients.shape[1]

    def tile(self, top: int, rows: int, left: int, columns: int) -> tuple[np.ndarray, ...]:
        """Cuts a tile, which may extend beyond the plane; all arguments are in blocks.

        Returns:
            k, int32 [rows, columns, 64], zero outside; Q, int32 [8, 8]; and a mask that is true on
            the plane, bool [rows, columns, 1], or, of pixels, true on the picture, bool [8 rows,
            8 columns, 1].
        """
        inner = self._coefficients[max(0, top) : top + rows, max(0, left) : left + columns]
        y, x = max(0, -top), max(0, -left)
        k = np.zeros((rows, columns, 64), np.int32)
        k[y : y + inner.shape[0], x : x + inner.shape[1]] = inner
        if self._picture:
            inside_rows, inside_columns = (
                _inside(8 * start, 8 * length, *ends)
                for start, length, ends in zip(
                    (top, left), (rows, columns), self._picture, strict=True
                )
            )
            return k, self._table, inside_rows[:, None, None] & inside_columns[:, None]
        mask = np.zeros((rows, columns, 1), bool)
        mask[y : y + inner.shape[0], x : x + inner.shape[1]] = True
        return k, self._table, mask


def _inside(start: int, length: int, first: int, stop: int) -> np.ndarray:
    """Returns which of the positions from `start` on lie in first … stop - 1, bool [length]."""
    positions = np.arange(start, start + length)
    return (first <= positions) & (positions < stop)


def run_plan(
    rows: TilePlan,
    columns: TilePlan,
    prepare_row: Callable[[Tile], tuple[Callable, Iterable[tuple[np.ndarray, ...]]]],
    *,
    by_engine: bool,
    progress: Progress | None,
) -> Iterator[tuple[Tile, Tile, np.ndarray]]:
    """Runs programs on all tiles of a plane, a row of tiles at a time.

    Args:
        rows: plan of the rows.
        columns: plan of the columns.
        prepare_row: returns the program for a row of tiles, and its arguments for each tile of it.
        by_engine: as in `run_on_tiles`.
        progress: called after each tile with its share of the work.

    Yields:
        A tile's rows, its columns, and the result.
    """
    count = len(rows.tiles) * len(columns.tiles)
    for row in rows.tiles:
        # No variable keeps a row's first pass in memory while the next row's is computed.
        results = run_on_tiles(*prepare_row(row), len(columns.tiles), by_engine)
        for column, result in zip(columns.tiles, results, strict=True):
            yield row, column, result
            if progress:
                progress(1 / count)
    if count > 1:
        trim_memory()


def run_on_tiles(
    program: Callable, tiles: Iterable[tuple[np.ndarray, ...]], count: int, by_engine: bool = False
) -> Iterator[np.ndarray]:
    """Runs a program on tiles, in batches on accelerators.

    Args:
        program: takes the arrays of a batch of tiles and returns an array [B, …].
        tiles: arrays for each tile, without an axis of batches.
        count: number of tiles.
        by_engine: whether an engine other than JAX runs the program; those take one tile at a time.

    Yields:
        The result of each tile, in order.
    """
    # On a CPU, batches are not faster. Neither is starting a batch before the previous one is
    # fetched, which would take twice the memory.
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
                # XLA allocates all memory of a tile as one block. If a small allocation lies in the
                # block that the previous tile freed, the allocator can't reuse that block, and the
                # next tile takes a new one.
                trim_memory()
    while pending:
        yield from fetch()
