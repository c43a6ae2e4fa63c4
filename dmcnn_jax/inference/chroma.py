"""Restores Cb and Cr of any size, in tiles."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax.inference import tiling
from dmcnn_jax.inference.coded_planes import CodedPlanes, Finish
from dmcnn_jax.inference.model import Model, apply_module
from dmcnn_jax.inference.tiling import Tile, TilePlan, TileSource
from dmcnn_jax.jpeg import dihedral
from dmcnn_jax.jpeg.projection import PROJECTED_ROWS, project_upsampled, project_upsampled_band
from dmcnn_jax.jpeg.resampling import upsample_rows
from dmcnn_jax.models.chroma import ChromaInput, ChromaNet
from dmcnn_jax.models.table_conditioning import encode_tables
from dmcnn_jax.system.progress import Progress

CHROMA_SUBSAMPLINGS = tuple(itertools.product((1, 2, 4), repeat=2))
"""Rows and columns of the picture to a chroma sample that `restore_chroma` supports: those that
networks are trained for, their transposes, and factors of four."""


def restore_chroma(
    model: Model,
    coefficients: Sequence[np.ndarray],
    tables: Sequence[np.ndarray],
    guide: np.ndarray,
    subsampling: tuple[int, int],
    *,
    project: bool = False,
    strength: float = 1.0,
    mirrored: int = 0,
    progress: Progress | None = None,
) -> np.ndarray:
    """Restores Cb and Cr and brings them to full size, in tiles as `luma.restore_luma`.

    Args:
        model: the model to run, a `ChromaNet`.
        coefficients: k of Cb and of Cr, integers [h, w, 64] each, natural order.
        tables: Q of Cb and of Cr, integers [8, 8] each.
        guide: the restored luma, float32 [H, W], levels 0 to 255. If the blocks of chroma extend
            further, its border is repeated.
        subsampling: rows and columns of the picture to a chroma sample, one of
            `CHROMA_SUBSAMPLINGS`.
        project: whether the result is projected onto the nearest planes whose averages over chroma
            samples quantise to `coefficients`.
        strength: blends the upsampled chroma (0) with the estimate (1).
        mirrored: blocks of chroma by which planes are continued by their mirror image, as in
            `restore_plane`.
        progress: as in `restore_plane`.

    Returns:
        float32 [2, 8h · subsampling[0], 8w · subsampling[1]], levels 0 to 255, not clipped.

    Raises:
        ValueError: if the subsampling is not supported.
    """
    if subsampling not in CHROMA_SUBSAMPLINGS:
        raise ValueError(f"subsampling is {subsampling}; expected one of {CHROMA_SUBSAMPLINGS}")
    coded, finish = CodedPlanes(coefficients, tables, subsampling), Finish(project, strength)
    if 4 in subsampling:
        return _restore_by_four(model, coded, guide, finish, mirrored, progress)
    if subsampling == (2, 1):
        # 4:4:0 is the transpose of 4:2:2, which networks are trained for.
        transposed = coded.turned(dihedral.TRANSPOSE)
        planes = _restore_in_tiles(model, transposed, guide.T, finish, mirrored, progress)
        return planes.swapaxes(1, 2)
    return _restore_in_tiles(model, coded, guide, finish, mirrored, progress)


def _restore_by_four(
    model: Model,
    coded: CodedPlanes,
    guide: np.ndarray,
    finish: Finish,
    mirrored: int,
    progress: Progress | None,
) -> np.ndarray:
    """Restores 4:1:1 and other subsampling by four from a picture of half the size.

    A sample of four columns covers two columns in a picture half as wide, which networks are
    trained for. Its restored chroma is upsampled by libjpeg's filter and projected at full size.
    """
    subsampling = coded.subsampling
    down, across = (2 if factor == 4 else 1 for factor in subsampling)
    edges = [(0, -guide.shape[0] % down), (0, -guide.shape[1] % across)]
    cells = np.pad(guide, edges, mode="edge") if np.any(edges) else guide
    rows, columns = cells.shape[0] // down, cells.shape[1] // across
    small = restore_chroma(
        model,
        coded.coefficients,
        coded.tables,
        cells.reshape(rows, down, columns, across).mean(axis=(1, 3)),
        (subsampling[0] // down, subsampling[1] // across),
        project=finish.project,
        strength=finish.strength,
        mirrored=mirrored,
        progress=progress,
    )
    planes = np.empty((2, down * small.shape[1], across * small.shape[2]), np.float32)
    for plane, half, k, table in zip(planes, small, coded.coefficients, coded.tables, strict=True):
        for first in range(0, len(k), PROJECTED_ROWS):
            last = min(first + PROJECTED_ROWS, len(k))
            top, bottom = 8 * subsampling[0] * first, 8 * subsampling[0] * last
            band = plane[top:bottom]
            band[:] = upsample_rows(half, (down, across), top, bottom)
            if finish.project:
                project_upsampled_band(band, k[first:last], table, subsampling)
    return planes


def _restore_in_tiles(
    model: Model,
    coded: CodedPlanes,
    guide: np.ndarray,
    finish: Finish,
    mirrored: int,
    progress: Progress | None,
) -> np.ndarray:
    """Restores chroma of a subsampling that networks are trained for; see `restore_chroma`."""
    coefficients, subsampling = coded.coefficients, coded.subsampling
    down, across = 8 * subsampling[0], 8 * subsampling[1]  # pixels to a block
    # Indices of the guide's pixels for the rows and columns of the continued planes.
    guide_rows, guide_columns = (
        np.minimum(dihedral.mirror_index(block * blocks, *[block * mirrored] * 2)[0], size - 1)
        for block, blocks, size in zip(
            (down, across), coefficients[0].shape[:2], guide.shape, strict=True
        )
    )
    if mirrored:
        coefficients = [dihedral.continue_mirrored(k, mirrored) for k in coefficients]
    height, width, _ = coefficients[0].shape
    halo_rows, halo_columns = cast(ChromaNet, model.module).halo(subsampling)
    sides = tiling.chroma_tile_sides(subsampling)
    rows = tiling.plan_tiles(height, halo_rows, sides)
    columns = tiling.plan_tiles(width, halo_columns, sides)
    sources = [TileSource(k, q) for k, q in zip(coefficients, coded.tables, strict=True)]
    program: Callable = partial(_program, model.module, model.variables)
    if model.engine:
        program = partial(_run_by_engine, model)
    settings = finish.settings()

    def arguments(row: Tile, column: Tile) -> tuple[np.ndarray, ...]:
        parts = [s.tile(row.start, rows.length, column.start, columns.length) for s in sources]
        k, q, mask = (np.stack(part) for part in zip(*parts, strict=True))
        y = guide_rows[_pixels(row, rows, down, len(guide_rows))]
        x = guide_columns[_pixels(column, columns, across, len(guide_columns))]
        return k, guide[y[:, None], x, None] / np.float32(255), q, mask[0]

    def prepare_row(row: Tile) -> tuple[Callable, Iterator[tuple[np.ndarray, ...]]]:
        tiles = (arguments(row, column) for column in columns.tiles)
        return lambda *batch: program(*batch, *settings), tiles

    planes = np.empty((2, down * height, across * width), np.float32)
    by_engine = model.engine is not None
    for row, column, result in tiling.run_plan(
        rows, columns, prepare_row, by_engine=by_engine, progress=progress
    ):
        core = np.moveaxis(result[row.core_in_tile(down), column.core_in_tile(across)], -1, 0)
        target = planes[:, row.core_in_plane(down), column.core_in_plane(across)]
        np.multiply(core, 255, out=target)
    top, left = down * mirrored, across * mirrored
    return planes[:, top : down * height - top, left : across * width - left]


def _pixels(tile: Tile, plan: TilePlan, block: int, size: int) -> np.ndarray:
    """Returns the pixels that a tile covers, those outside replaced by the nearest inside."""
    covered = np.arange(block * tile.start, block * (tile.start + plan.length))
    return np.clip(covered, 0, size - 1)


@partial(jax.jit, static_argnums=0)
def _program(
    module: ChromaNet,
    variables: Mapping[str, Any],
    k: jax.Array,
    guide: jax.Array,
    q: jax.Array,
    mask: jax.Array,
    strength: jax.Array,
    project: jax.Array,
) -> jax.Array:
    """Runs the network over a batch of tiles: float32 [B, H, W, 2]."""
    estimates = apply_module(module, variables, ChromaInput(k, guide), q, mask=mask)
    return _blend_and_project(estimates, k, q, strength, project)


def _run_by_engine(
    model: Model,
    k: np.ndarray,
    guide: np.ndarray,
    q: np.ndarray,
    mask: np.ndarray,
    strength: np.float32,
    project: np.bool_,
) -> jax.Array:
    """Runs the layers of the network by the model's engine, and the rest by JAX."""
    assert model.engine is not None
    network = model.module, model.variables
    x, encoding = _engine_first_program(*network, k, guide, q, mask)
    correction = model.engine(np.asarray(x), np.asarray(encoding), mask)
    return _engine_last_program(*network, k, guide, q, mask, correction, strength, project)


@partial(jax.jit, static_argnums=0)
def _engine_first_program(
    module: ChromaNet,
    variables: Mapping[str, Any],
    k: jax.Array,
    guide: jax.Array,
    q: jax.Array,
    mask: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Computes the inputs of an engine's layers: their image, and the encoded tables."""
    inputs = ChromaInput(k, guide)
    base = apply_module(module, variables, inputs, q, mask, method="upsampled_centres")
    x = apply_module(module, variables, inputs, base, mask, method="layer_input")
    return x, encode_tables(q, inputs.subsampling)


@partial(jax.jit, static_argnums=0)
def _engine_last_program(
    module: ChromaNet,
    variables: Mapping[str, Any],
    k: jax.Array,
    guide: jax.Array,
    q: jax.Array,
    mask: jax.Array,
    correction: jax.Array,
    strength: jax.Array,
    project: jax.Array,
) -> jax.Array:
    """Runs the rest of the network after an engine's layers: float32 [B, H, W, 2]."""
    inputs = ChromaInput(k, guide)
    base = apply_module(module, variables, inputs, q, mask, method="upsampled_centres")
    arguments = inputs, q, base, correction, mask
    estimates = apply_module(module, variables, *arguments, method="add_correction")
    return _blend_and_project(estimates, k, q, strength, project)


def _blend_and_project(
    estimates: Mapping[str, jax.Array],
    k: jax.Array,
    q: jax.Array,
    strength: jax.Array,
    project: jax.Array,
) -> jax.Array:
    """Blends the estimate with upsampled chroma and projects it, as in `luma.blend_and_project`."""
    image, start = estimates["image"], estimates["jpeg"]
    image = jnp.where(strength == 1, image, start + strength * (image - start))
    return jnp.where(project, project_upsampled(image, k, q), image)
