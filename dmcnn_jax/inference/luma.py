"""Restores one plane of luma of any size, in tiles."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.inference.model import Model, check_restores_luma
from dmcnn_jax.inference.tiling import (
    STRIP_SIDES,
    Tile,
    TilePlan,
    TileSource,
    halos,
    plan_tiles,
    run_on_tiles,
    tile_sides,
    whole_axis,
)
from dmcnn_jax.jpeg import dihedral
from dmcnn_jax.jpeg.projection import project_in_bands, project_plane
from dmcnn_jax.models import dmcnn
from dmcnn_jax.system.malloc import trim_memory


def restore_plane(
    model: Model,
    coefficients: np.ndarray,
    table: np.ndarray,
    *,
    project: bool = False,
    strength: float = 1.0,
    ensemble: bool = False,
    size: tuple[int, int] | None = None,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Restores one plane, of any size, in tiles of a few shapes.

    The result is that of the network over the whole plane at its exact size: tiles overlap by what
    the network sees, and what lies outside the plane is zero at every layer. Memory besides the
    result is bounded by a row of tiles.

    Args:
        model: what to run.
        coefficients: k, integers [h, w, 64], natural order.
        table: Q, integers [8, 8], natural order.
        project: whether the result is moved, by as little as possible, to where quantising it gives
            `coefficients` back.
        strength: how far to go from the decoded plane (0) to the estimate (1); before the
            projection.
        ensemble: whether the estimate is the mean of eight, of the image turned and mirrored
            (Timofte et al., "Seven ways to improve example-based single image super resolution",
            2016): a little better, at eight times the work.
        size: height and width of the picture in the plane, pixels, where the last blocks reach
            beyond it: published networks that work on pixels (`pixel_masks`) don't see the rest.
        progress: called now and then with the share of the work that was done since its last call.

    Returns:
        float32 [8h, 8w], pixels scaled to [0, 1], not clipped.

    Raises:
        ValueError: if there are no coefficients, or they or the table are of another shape; if the
            model restores chroma.
    """
    check_restores_luma(model)
    coefficients, table = np.asarray(coefficients), np.asarray(table)
    if coefficients.ndim != 3 or coefficients.shape[2] != 64 or 0 in coefficients.shape:
        raise ValueError(
            f"coefficients have shape {coefficients.shape}; expected [h, w, 64], at least one block"
        )
    if table.shape != (8, 8):
        raise ValueError(f"table has shape {table.shape}; expected one table [8, 8]")
    if ensemble:
        return _ensemble(model, coefficients, table, project, strength, progress)
    height, width, _ = coefficients.shape
    first_halo, halo = halos(model.module)
    if halo is None:
        rows, columns = (
            TilePlan(height, (whole_axis(height),)),
            TilePlan(width, (whole_axis(width),)),
        )
    else:
        sides = tile_sides(model.module)
        rows, columns = plan_tiles(height, halo, sides), plan_tiles(width, halo, sides)
    tiled = len(rows.pieces) > 1 or len(columns.pieces) > 1
    if not getattr(model.module, "pixel_masks", False):
        size = None
    source = TileSource(coefficients, table, size)
    last = (np.float32(strength), np.bool_(project))
    plane = np.empty((8 * height, 8 * width), np.float32)
    for row in rows.pieces:
        first = None
        which = (model.module, model.variables)
        if model.engine:
            first = _first_pass(model, source, row, rows, first_halo)
            program = partial(_engine_pixels, model)
        elif first_halo and tiled:
            first = _first_pass(model, source, row, rows, first_halo)
            program = partial(_pixels_program, *which)
        else:
            program = partial(_program, *which)
        tiles = (
            source.tile(row.start, rows.length, column.start, columns.length)
            + (
                ()
                if first is None
                else (first[:, 8 * column.start : 8 * (column.start + columns.length)],)
            )
            for column in columns.pieces
        )
        results = run_on_tiles(
            lambda *batch, program=program: program(*batch, *last),
            tiles,
            len(columns.pieces),
            by_engine=model.engine is not None,
        )
        for column, tile in zip(columns.pieces, results, strict=True):
            down = slice(8 * (row.first - row.start), 8 * (row.last - row.start))
            across = slice(8 * (column.first - column.start), 8 * (column.last - column.start))
            plane[8 * row.first : 8 * row.last, 8 * column.first : 8 * column.last] = tile[
                down, across, 0
            ]
            if progress:
                progress(1 / (len(rows.pieces) * len(columns.pieces)))
    if tiled:
        trim_memory()
    return plane


def _ensemble(model, coefficients, table, project, strength, progress) -> np.ndarray:
    """The mean over all symmetries; arguments and result as of `restore_plane`.

    Mirrored blocks that are filled up lie at the other side, so that there is no `size`.
    """
    mean = np.zeros([8 * blocks for blocks in coefficients.shape[:2]], np.float32)
    for which in range(dihedral.COUNT):
        k, q = dihedral.turn(coefficients, table, which)
        restored = restore_plane(
            model,
            k,
            q,
            strength=strength,
            progress=progress and (lambda share: progress(share / dihedral.COUNT)),
        )
        mean += dihedral.turn_back(restored, which) / dihedral.COUNT
    if project:
        project_in_bands(mean, coefficients, table)
    return mean


def _first_pass(
    model: Model, source: TileSource, row: Tile, rows: TilePlan, halo: int
) -> np.ndarray:
    """What the second pass needs of a row of tiles, over the full width, in strips.

    Float32 [8 · rows.length, at least the plane's width, …]: ÕD, of one channel, or for an engine
    what the pixel branch sees, C and ÕD.
    """
    several = len(rows.pieces) > 1
    top = row.start - halo if several else 0
    length = rows.length + 2 * halo if several else rows.length
    columns = plan_tiles(source.width, halo, STRIP_SIDES)
    tiles = (source.tile(top, length, column.start, columns.length) for column in columns.pieces)
    program = _pixel_input_program if model.engine else _coefficients_program
    program = partial(program, model.module, model.variables)
    # As wide as the tiles of the second pass may reach.
    shape = 8 * rows.length, 8 * max(source.width, *tile_sides(model.module))
    result = None
    for column, tile in zip(
        columns.pieces, run_on_tiles(program, tiles, len(columns.pieces)), strict=True
    ):
        if result is None:
            result = np.zeros((*shape, tile.shape[-1]), np.float32)
        down = slice(8 * (row.start - top), 8 * (row.start - top + rows.length))
        across = slice(8 * (column.first - column.start), 8 * (column.last - column.start))
        result[:, 8 * column.first : 8 * column.last] = tile[down, across]
    return result


@partial(jax.jit, static_argnums=0)
def _program(module, variables, k, q, mask, strength, project) -> jax.Array:
    """A network in one pass over a batch of tiles: the last estimate, [B, H, W, 1]."""
    return _settle(module.apply(variables, k, q, mask=mask)["image"], k, q, strength, project)


@partial(jax.jit, static_argnums=0)
def _coefficients_program(module, variables, k, q, mask) -> jax.Array:
    """The first of two passes: ÕD, [B, H, W, 1]."""
    return module.apply(variables, k, q, mask=mask, method="restore_coefficients")


@partial(jax.jit, static_argnums=0)
def _pixels_program(module, variables, k, q, mask, dct, strength, project) -> jax.Array:
    """The second pass."""
    estimates = module.apply(variables, k, q, dct, mask=mask, method="restore_pixels")
    return _settle(estimates["image"], k, q, strength, project)


def _engine_pixels(model, k, q, mask, x, strength, project) -> jax.Array:
    """The second pass, its layers by the model's engine; x is their input, [1, H, W, 1 or 2]."""
    correction = model.engine(x, dmcnn.told(q, np), mask)
    last = strength, project
    return _add_correction_program(
        model.module, model.variables, k, q, x[..., -1:], correction, *last
    )


@partial(jax.jit, static_argnums=0)
def _pixel_input_program(module, variables, k, q, mask) -> jax.Array:
    """The first of two passes for an engine: C and ÕD, centred, [B, H, W, 1 or 2]."""
    dct = module.apply(variables, k, q, mask=mask, method="restore_coefficients")
    return module.apply(variables, k, q, dct, method="pixel_input")


@partial(jax.jit, static_argnums=0)
def _add_correction_program(module, variables, k, q, x, correction, strength, project) -> jax.Array:
    arguments = k, q, x + 0.5, (correction,)
    estimates = module.apply(variables, *arguments, method="add_corrections")
    return _settle(estimates["image"], k, q, strength, project)


def _settle(image, k, q, strength, project) -> jax.Array:
    """Strength and projection. Neither is known to the compiler, so that one program serves all."""
    decoded = jpeg.decode(k, q)[..., None].astype(jnp.float32) / 255
    image = jnp.where(strength == 1, image, decoded + strength * (image - decoded))
    return jnp.where(project, project_plane(image[..., 0], k, q)[..., None], image)
