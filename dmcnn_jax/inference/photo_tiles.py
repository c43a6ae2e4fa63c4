"""Runs the network for photographs over the tiles of a picture, by JAX or by another engine."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax.inference import tiling
from dmcnn_jax.inference.coded_planes import CodedPlanes, Finish
from dmcnn_jax.inference.luma import restore_luma
from dmcnn_jax.inference.model import Model, apply_module
from dmcnn_jax.inference.tiling import Tile, TileSource
from dmcnn_jax.jpeg.projection import project_upsampled
from dmcnn_jax.models.photo import PhotoNet
from dmcnn_jax.models.photo_input import (
    PhotoInput,
    coefficient_features,
    decode_planes,
    encode_input,
    layer_input,
)
from dmcnn_jax.system.progress import Progress, scaled


def restore_photo_in_tiles(
    model: Model, coded: CodedPlanes, finish: Finish, progress: Progress | None
) -> np.ndarray:
    """Restores planes of a subsampling that networks are trained for.

    Args:
        model: the model to run, a `PhotoNet`.
        coded: Y, Cb and Cr.
        finish: what is done with the estimate.
        progress: as in `photo.restore_photo`.

    Returns:
        As `photo.restore_photo`. Tiles are of whole blocks of chroma.
    """
    subsampling = down, across = coded.subsampling
    height, width, _ = coded.coefficients[1].shape
    halo_rows, halo_columns = cast(PhotoNet, model.module).halo(subsampling)
    sides = tiling.chroma_tile_sides(subsampling)
    rows = tiling.plan_tiles(height, halo_rows, sides)
    columns = tiling.plan_tiles(width, halo_columns, sides)
    restored_luma = restore_luma(
        _luma_model(model),
        coded.coefficients[0],
        coded.tables[0],
        project=True,
        progress=scaled(progress, _LUMA_SHARE),
    )
    sources = [TileSource(k, q) for k, q in zip(coded.coefficients, coded.tables, strict=True)]
    settings = finish.settings()
    program: Callable = partial(_program, model.module, model.variables)
    if model.engine:
        program = partial(_run_by_engine, model)

    def prepare_row(row: Tile) -> tuple[Callable, Iterator[tuple[np.ndarray, ...]]]:
        def arguments(column: Tile) -> tuple[np.ndarray, ...]:
            extent = row.start, rows.length, column.start, columns.length
            tile = _tile(sources, restored_luma, subsampling, extent)
            if model.engine:
                return *tile, tiling.core_in_tile(row, column, subsampling)
            return tile

        return lambda *batch: program(*batch, *settings), map(arguments, columns.tiles)

    planes = np.empty((3, 8 * down * height, 8 * across * width), np.float32)
    for row, column, result in tiling.run_plan(
        rows,
        columns,
        prepare_row,
        by_engine=model.engine is not None,
        progress=scaled(progress, 1 - _LUMA_SHARE),
    ):
        core = result[row.core_in_tile(8 * down), column.core_in_tile(8 * across)]
        target = planes[:, row.core_in_plane(8 * down), column.core_in_plane(8 * across)]
        np.multiply(np.moveaxis(core, -1, 0), 255, out=target)
    return planes


# Share of the work that the network that restores luma first does.
_LUMA_SHARE = 0.5


def _tile(
    sources: Sequence[TileSource],
    restored_luma: np.ndarray,
    subsampling: tuple[int, int],
    extent: tuple[int, int, int, int],
) -> tuple[np.ndarray, ...]:
    """Returns what the network reads for a tile.

    Args:
        sources: of Y, Cb and Cr.
        restored_luma: by the network that restores luma first, [H, W].
        subsampling: rows and columns of the picture to a chroma sample.
        extent: first row, rows, first column and columns of the tile, in blocks of chroma.

    Returns:
        k of Y and of chroma, restored luma, Q and the mask.
    """
    down, across = subsampling
    luma, *chroma = sources
    luma_extent = [
        n * factor for n, factor in zip(extent, (down, down, across, across), strict=True)
    ]
    y, luma_table, mask = luma.tile(*luma_extent)
    parts = [source.tile(*extent) for source in chroma]
    k = np.stack([part[0] for part in parts])
    q = np.stack([luma_table, *(part[1] for part in parts)])
    return y, k, _cut(restored_luma, *(8 * n for n in luma_extent)), q, mask


def _luma_model(model: Model) -> Model:
    """Returns the model that restores luma first."""
    module = cast(PhotoNet, model.module).luma_network()
    variables = {"params": model.variables["frozen"]["luma"]}
    return Model(module, variables, engine=model.engine and model.engine.luma)


def _cut(plane: np.ndarray, top: int, rows: int, left: int, columns: int) -> np.ndarray:
    """Cuts a tile of pixels [rows, columns, 1] from a plane, zero outside of it."""
    inner = plane[max(0, top) : top + rows, max(0, left) : left + columns]
    y, x = max(0, -top), max(0, -left)
    tile = np.zeros((rows, columns, 1), np.float32)
    tile[y : y + inner.shape[0], x : x + inner.shape[1], 0] = inner
    return tile


@partial(jax.jit, static_argnums=0)
def _program(
    module: PhotoNet,
    variables: Mapping[str, Any],
    luma: jax.Array,
    chroma: jax.Array,
    restored_luma: jax.Array,
    q: jax.Array,
    mask: jax.Array,
    strength: jax.Array,
    project: jax.Array,
) -> jax.Array:
    """Runs the network over a batch of tiles, blends and projects: float32 [B, H, W, 3]."""
    arguments = PhotoInput(luma, chroma), q, restored_luma
    estimates = apply_module(module, variables, *arguments, mask=mask, method="restore_from_luma")
    return _blend_and_project(estimates, luma, chroma, q, strength, project)


def _run_by_engine(
    model: Model,
    luma: np.ndarray,
    chroma: np.ndarray,
    restored_luma: np.ndarray,
    q: np.ndarray,
    mask: np.ndarray,
    core: np.ndarray,
    strength: np.float32,
    project: np.bool_,
) -> jax.Array:
    """Runs the layers of the network by the model's engine, and the rest by JAX."""
    assert model.engine is not None
    arguments = model.module, model.variables, luma, chroma, restored_luma, q, mask
    x, features, encoding = map(np.asarray, _engine_first_program(*arguments))
    correction = model.engine(x, encoding, mask, features, core=core[0])
    return _engine_last_program(*arguments, correction, strength, project)


@partial(jax.jit, static_argnums=0)
def _engine_first_program(
    module: PhotoNet,
    variables: Mapping[str, Any],
    luma: jax.Array,
    chroma: jax.Array,
    restored_luma: jax.Array,
    q: jax.Array,
    mask: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Runs what precedes an engine's layers: their input, features and the encoded tables."""

    def layer(name: str, channels: int, x: jax.Array) -> jax.Array:
        weights = variables["params"][name]
        product = jnp.matmul(x, weights["kernel"][0, 0], precision=jax.lax.Precision.HIGHEST)
        return product + weights["bias"]

    inputs = PhotoInput(luma, chroma)
    x = layer_input(decode_planes(inputs, q, mask), restored_luma, q, mask)
    features = coefficient_features(inputs, q, module.features[2], layer)
    return x, features, encode_input(q, inputs.subsampling)


@partial(jax.jit, static_argnums=0)
def _engine_last_program(
    module: PhotoNet,
    variables: Mapping[str, Any],
    luma: jax.Array,
    chroma: jax.Array,
    restored_luma: jax.Array,
    q: jax.Array,
    mask: jax.Array,
    correction: jax.Array,
    strength: jax.Array,
    project: jax.Array,
) -> jax.Array:
    """Runs what follows an engine's layers: float32 [B, H, W, 3]."""
    inputs = PhotoInput(luma, chroma)
    base = decode_planes(inputs, q, mask)
    arguments = inputs, q, base, restored_luma, correction, mask
    estimates = apply_module(module, variables, *arguments, method="add_correction")
    return _blend_and_project(estimates, luma, chroma, q, strength, project)


def _blend_and_project(
    estimates: Mapping[str, jax.Array],
    luma: jax.Array,
    chroma: jax.Array,
    q: jax.Array,
    strength: jax.Array,
    project: jax.Array,
) -> jax.Array:
    """Blends the estimate with the decoded planes and projects it."""
    image, start = estimates["image"], estimates["jpeg"]
    image = jnp.where(strength == 1, image, start + strength * (image - start))
    projected = [
        project_upsampled(image[..., :1], luma[:, None], q[:, :1]),
        project_upsampled(image[..., 1:], chroma, q[:, 1:]),
    ]
    return jnp.where(project, jnp.concatenate(projected, axis=-1), image)
