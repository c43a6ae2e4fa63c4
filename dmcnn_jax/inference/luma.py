"""Restores one plane of any size by a network of luma, in tiles."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.inference import tiling
from dmcnn_jax.inference.model import Model, apply_module, check_restores_luma
from dmcnn_jax.inference.tiling import Tile, TilePlan, TileSource
from dmcnn_jax.jpeg import dihedral
from dmcnn_jax.jpeg.projection import project_in_bands, project_plane
from dmcnn_jax.models.table_conditioning import encode_table
from dmcnn_jax.system.progress import Progress

Picture = tuple[tuple[int, int], tuple[int, int]]


def restore_luma(
    model: Model,
    coefficients: np.ndarray,
    table: np.ndarray,
    *,
    project: bool = False,
    strength: float = 1.0,
    ensemble: bool = False,
    size: tuple[int, int] | None = None,
    mirrored: int = 0,
    progress: Progress | None = None,
) -> np.ndarray:
    """Restores one plane of any size, in tiles of a few shapes.

    The result is that of the network over the whole plane at its exact size: tiles overlap by the
    network's receptive field, and everything outside the plane is zero at every layer. Memory in
    addition to the result is bounded by a row of tiles.

    Networks are trained and published with zeros outside, but restore less along that border than
    inside. A plane continued by its mirror image has no such border.

    Args:
        model: the model to run.
        coefficients: k, integers [h, w, 64], natural order.
        table: Q, integers [8, 8], natural order.
        project: whether the result is projected onto the nearest plane that quantises to
            `coefficients`.
        strength: blends the decoded plane (0) with the estimate (1), before the projection.
        ensemble: whether the estimate is the mean over the eight turned and mirrored images
            (Timofte et al., "Seven ways to improve example-based single image super resolution",
            2016): slightly better, at eight times the work.
        size: height and width of the picture in pixels, if the last blocks of the plane reach
            beyond it. Published networks that run on pixels (`pixel_masks`) don't see the rest;
            other networks ignore it.
        mirrored: blocks by which the plane is continued by its mirror image on every side before it
            is restored; the result is cropped again. 0: only zeros lie outside.
        progress: called now and then with the share of the work done since the last call.

    Returns:
        float32 [8h, 8w], pixels scaled to [0, 1], not clipped.

    Raises:
        ValueError: if the coefficients or the table have a wrong shape, there are no coefficients,
            or the model restores chroma.
    """
    check_restores_luma(model)
    coefficients, table = np.asarray(coefficients), np.asarray(table)
    if coefficients.ndim != 3 or coefficients.shape[2] != 64 or 0 in coefficients.shape:
        raise ValueError(
            f"coefficients have shape {coefficients.shape}; expected [h, w, 64], at least one block"
        )
    if table.shape != (8, 8):
        raise ValueError(f"table has shape {table.shape}; expected one table [8, 8]")
    if mirrored:
        coefficients = dihedral.continue_mirrored(coefficients, mirrored)
    if mirrored or size is None or not getattr(model.module, "pixel_masks", False):
        picture = None
    else:
        picture = (0, size[0]), (0, size[1])
    run = _mean_over_symmetries if ensemble else _restore_in_tiles
    plane = run(model, coefficients, table, picture, strength, project, progress)
    margin = 8 * mirrored
    return plane[margin : len(plane) - margin, margin : plane.shape[1] - margin]


def _mean_over_symmetries(
    model: Model,
    coefficients: np.ndarray,
    table: np.ndarray,
    picture: Picture | None,
    strength: float,
    project: bool,
    progress: Progress | None,
) -> np.ndarray:
    """Averages `_restore_in_tiles` over all symmetries; same arguments and result."""
    mean = np.zeros([8 * blocks for blocks in coefficients.shape[:2]], np.float32)
    for which in range(dihedral.COUNT):
        k, q = dihedral.turn(coefficients, table, which)
        turned = picture and _turn_picture(picture, mean.shape, which)
        part = progress and (lambda share: progress(share / dihedral.COUNT))
        restored = _restore_in_tiles(model, k, q, turned, strength, False, part)
        mean += dihedral.turn_back(restored, which) / dihedral.COUNT
    if project:
        project_in_bands(mean, coefficients, table)
    return mean


def _turn_picture(picture: Picture, shape: Sequence[int], which: int) -> Picture:
    """Returns the position of the picture in a plane [H, W] turned by `dihedral.turn`."""
    rows, columns = picture
    if which & 1:
        rows = shape[0] - rows[1], shape[0] - rows[0]
    if which & 2:
        columns = shape[1] - columns[1], shape[1] - columns[0]
    return (columns, rows) if which & 4 else (rows, columns)


def _restore_in_tiles(
    model: Model,
    coefficients: np.ndarray,
    table: np.ndarray,
    picture: Picture | None,
    strength: float,
    project: bool,
    progress: Progress | None,
) -> np.ndarray:
    """Restores a plane; `picture` is as in `TileSource`, the rest as in `restore_luma`."""
    height, width, _ = coefficients.shape
    rows, columns = tiling.plan_plane(model.module, height, width)
    source = TileSource(coefficients, table, picture)
    settings = np.float32(strength), np.bool_(project)
    plane = np.empty((8 * height, 8 * width), np.float32)
    results = tiling.run_plan(
        rows,
        columns,
        partial(_prepare_row, model, source, rows, columns, settings),
        by_engine=model.engine is not None,
        progress=progress,
    )
    for row, column, result in results:
        core = result[row.core_in_tile(8), column.core_in_tile(8), 0]
        plane[row.core_in_plane(8), column.core_in_plane(8)] = core
    return plane


def _prepare_row(
    model: Model,
    source: TileSource,
    rows: TilePlan,
    columns: TilePlan,
    settings: tuple[np.float32, np.bool_],
    row: Tile,
) -> tuple[Callable, Iterator[tuple[np.ndarray, ...]]]:
    """Returns the program for a row of tiles, and its arguments for each tile.

    If the first pass has a larger receptive field than the second, it runs here, over the whole
    row, so that the tiles of the second pass overlap by less.
    """
    first_halo, _ = tiling.halos(model.module)
    tiled = len(rows.tiles) * len(columns.tiles) > 1
    initial = None
    program: Callable = partial(one_pass_program, model.module, model.variables)
    if model.engine or (first_halo and tiled):
        initial = _run_first_pass(model, source, row, rows, first_halo)
        program = partial(_second_pass_program, model.module, model.variables)
    if model.engine:
        program = partial(_engine_second_pass, model)

    def arguments(column: Tile) -> tuple[np.ndarray, ...]:
        tile = source.tile(row.start, rows.length, column.start, columns.length)
        if initial is None:
            return tile
        part = initial[:, 8 * column.start : 8 * (column.start + columns.length)]
        if model.engine:
            return *tile, part, tiling.core_in_tile(row, column)
        return *tile, part

    return lambda *batch: program(*batch, *settings), map(arguments, columns.tiles)


def _run_first_pass(
    model: Model, source: TileSource, row: Tile, rows: TilePlan, halo: int
) -> np.ndarray:
    """Runs the first pass for a row of tiles, over the full width of the plane, in strips.

    Args:
        model: the model.
        source: source of the plane's tiles.
        row: the row of tiles.
        rows: all rows.
        halo: blocks that the first pass sees to every side.

    Returns:
        ÕD, float32 [8 · rows.length, W, 1]; for an engine the input of its layers, C and ÕD
        centred, [8 · rows.length, W, 1 or 2]. W is at least the width of the widest tile; outside
        of the plane it is zero.
    """
    several = len(rows.tiles) > 1
    top = row.start - halo if several else 0
    length = rows.length + 2 * halo if several else rows.length
    columns = tiling.plan_tiles(source.width, halo, tiling.strip_sides())
    strips = (source.tile(top, length, column.start, columns.length) for column in columns.tiles)
    program = _engine_first_pass_program if model.engine else _first_pass_program
    results = tiling.run_on_tiles(
        partial(program, model.module, model.variables), strips, len(columns.tiles)
    )
    down = slice(8 * (row.start - top), 8 * (row.start - top + rows.length))
    width = 8 * max(source.width, *tiling.tile_sides(model.module))
    initial = np.zeros(0, np.float32)
    for column, result in zip(columns.tiles, results, strict=True):
        if not initial.size:
            initial = np.zeros((8 * rows.length, width, result.shape[-1]), np.float32)
        initial[:, column.core_in_plane(8)] = result[down, column.core_in_tile(8)]
    return initial


@partial(jax.jit, static_argnums=0)
def one_pass_program(
    module: nn.Module,
    variables: Mapping[str, Any],
    k: jax.Array,
    q: jax.Array,
    mask: jax.Array,
    strength: jax.Array,
    project: jax.Array,
) -> jax.Array:
    """Runs a network in one pass over a batch of tiles: float32 [B, H, W, 1]."""
    estimates = apply_module(module, variables, k, q, mask=mask)
    return blend_and_project(estimates["image"], k, q, strength, project)


@partial(jax.jit, static_argnums=0)
def _first_pass_program(
    module: nn.Module,
    variables: Mapping[str, Any],
    k: jax.Array,
    q: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    """Runs the first of two passes: ÕD, [B, H, W, 1]."""
    return apply_module(module, variables, k, q, mask=mask, method="restore_coefficients")


@partial(jax.jit, static_argnums=0)
def _second_pass_program(
    module: nn.Module,
    variables: Mapping[str, Any],
    k: jax.Array,
    q: jax.Array,
    mask: jax.Array,
    initial: jax.Array,
    strength: jax.Array,
    project: jax.Array,
) -> jax.Array:
    """Runs the second of two passes: float32 [B, H, W, 1]."""
    estimates = apply_module(module, variables, k, q, initial, mask=mask, method="restore_pixels")
    return blend_and_project(estimates["image"], k, q, strength, project)


@partial(jax.jit, static_argnums=0)
def _engine_first_pass_program(
    module: nn.Module,
    variables: Mapping[str, Any],
    k: jax.Array,
    q: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    """Computes the input of an engine's layers: C and ÕD centred, [B, H, W, 1 or 2]."""
    dct = apply_module(module, variables, k, q, mask=mask, method="restore_coefficients")
    return apply_module(module, variables, k, q, dct, method="pixel_input")


def _engine_second_pass(
    model: Model,
    k: np.ndarray,
    q: np.ndarray,
    mask: np.ndarray,
    layer_input: np.ndarray,
    core: np.ndarray,
    strength: np.float32,
    project: np.bool_,
) -> jax.Array:
    """Runs the layers of the second pass by the model's engine, and the rest by JAX."""
    assert model.engine is not None
    correction = model.engine(layer_input, encode_table(q, np), mask, core=core[0])
    centred_dct = layer_input[..., -1:]
    return _engine_last_program(
        model.module, model.variables, k, q, centred_dct, correction, strength, project
    )


@partial(jax.jit, static_argnums=0)
def _engine_last_program(
    module: nn.Module,
    variables: Mapping[str, Any],
    k: jax.Array,
    q: jax.Array,
    centred_dct: jax.Array,
    correction: jax.Array,
    strength: jax.Array,
    project: jax.Array,
) -> jax.Array:
    """Runs the rest of the network after an engine's layers: float32 [B, H, W, 1]."""
    arguments = k, q, centred_dct + 0.5, (correction,)
    estimates = apply_module(module, variables, *arguments, method="add_corrections")
    return blend_and_project(estimates["image"], k, q, strength, project)


def blend_and_project(
    image: jax.Array, k: jax.Array, q: jax.Array, strength: jax.Array, project: jax.Array
) -> jax.Array:
    """Blends an estimate with the decoded image, and projects it onto the file's intervals.

    Strength and projection are arrays, so that one compiled program serves all settings.

    Args:
        image: the estimate, float32 [B, H, W, 1], scaled to [0, 1].
        k: coefficients, integers [B, H/8, W/8, 64].
        q: tables, integers [B, 8, 8].
        strength: scalar, from 0, the decoded image, to 1, the estimate.
        project: scalar bool.

    Returns:
        float32 [B, H, W, 1].
    """
    decoded = jpeg.decode(k, q)[..., None].astype(jnp.float32) / 255
    image = jnp.where(strength == 1, image, decoded + strength * (image - decoded))
    return jnp.where(project, project_plane(image[..., 0], k, q)[..., None], image)
