"""Restores Y, Cb and Cr of any size together, in tiles."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.inference import tiling
from dmcnn_jax.inference.model import Model, apply_module
from dmcnn_jax.inference.tiling import Tile, TileSource
from dmcnn_jax.jpeg import dihedral
from dmcnn_jax.jpeg.projection import project_upsampled
from dmcnn_jax.jpeg.tables import nearest_quality
from dmcnn_jax.models.photo import PhotoInput, PhotoNet

PHOTO_SUBSAMPLINGS = ((1, 1), (1, 2), (2, 1), (2, 2))
"""Rows and columns of the picture to a chroma sample that `restore_photo` supports."""


def restore_photo(
    model: Model,
    coefficients: Sequence[np.ndarray],
    tables: Sequence[np.ndarray],
    subsampling: tuple[int, int],
    *,
    project: bool = False,
    strength: float = 1.0,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Restores all planes of a colour file and brings them to full size, in tiles.

    Args:
        model: the model to run, a `PhotoNet`.
        coefficients: k of Y, Cb and Cr, integers [h, w, 64] each, natural order. The blocks of
            chroma cover those of luma.
        tables: Q of Y, Cb and Cr, integers [8, 8] each.
        subsampling: rows and columns of the picture to a chroma sample, one of
            `PHOTO_SUBSAMPLINGS`.
        project: whether the planes are projected onto the nearest ones that quantise to
            `coefficients`, chroma by its averages over samples.
        strength: blends the decoded planes (0) with the estimate (1).
        progress: called after each tile with its share of the work.

    Returns:
        float32 [3, H, W], levels 0 to 255, not clipped; H and W are those of the blocks of chroma.

    Raises:
        ValueError: if the subsampling is not supported, or the blocks of chroma end within luma.
    """
    if subsampling not in PHOTO_SUBSAMPLINGS:
        raise ValueError(f"subsampling is {subsampling}; expected one of {PHOTO_SUBSAMPLINGS}")
    if subsampling != (2, 1):
        return _restore_in_tiles(
            model, coefficients, tables, subsampling, project, strength, progress
        )
    # 4:4:0 is the transpose of 4:2:2, which networks are trained for.
    turned = [dihedral.turn(k, q, 4) for k, q in zip(coefficients, tables, strict=True)]
    k, q = zip(*turned, strict=True)
    return _restore_in_tiles(model, k, q, (1, 2), project, strength, progress).swapaxes(1, 2)


def restore_gray(
    model: Model,
    coefficients: np.ndarray,
    table: np.ndarray,
    *,
    project: bool = False,
    strength: float = 1.0,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Restores luma alone, as that of a colour file whose chroma has no coefficients.

    Args:
        model: the model to run, a `PhotoNet`.
        coefficients: k, integers [h, w, 64].
        table: Q, integers [8, 8].
        project: as in `restore_photo`.
        strength: as in `restore_photo`.
        progress: as in `restore_photo`.

    Returns:
        float32 [8h, 8w], levels 0 to 255, not clipped.
    """
    rows, columns, _ = coefficients.shape
    # Networks know gray pictures by files of which most are 4:2:0, with a table of chroma that is
    # about twice as coarse as luma's.
    none = np.zeros((-(-rows // 2), -(-columns // 2), 64), coefficients.dtype)
    quality = nearest_quality(table)
    chroma = np.asarray(jpeg.quality_table(quality, jpeg.STANDARD_CHROMA))
    planes = restore_photo(
        model,
        [coefficients, none, none],
        [table, chroma, chroma],
        (2, 2),
        project=project,
        strength=strength,
        progress=progress,
    )
    return planes[0, : 8 * rows, : 8 * columns]


def _restore_in_tiles(
    model: Model,
    coefficients: Sequence[np.ndarray],
    tables: Sequence[np.ndarray],
    subsampling: tuple[int, int],
    project: bool,
    strength: float,
    progress: Callable[[float], None] | None,
) -> np.ndarray:
    """Restores a subsampling that networks are trained for; tiles are of whole blocks of chroma."""
    down, across = subsampling
    height, width, _ = coefficients[1].shape
    inside = coefficients[0].shape[:2]
    if height * down < inside[0] or width * across < inside[1]:
        raise ValueError(
            f"{height} × {width} blocks of chroma, subsampled by {subsampling}, do not cover "
            f"{inside[0]} × {inside[1]} blocks of luma"
        )
    halo_rows, halo_columns = cast(PhotoNet, model.module).halo(subsampling)
    sides = tiling.chroma_tile_sides(subsampling)
    rows = tiling.plan_tiles(height, halo_rows, sides)
    columns = tiling.plan_tiles(width, halo_columns, sides)
    luma, *chroma = (TileSource(k, q) for k, q in zip(coefficients, tables, strict=True))
    settings = np.float32(strength), np.bool_(project)

    def arguments(row: Tile, column: Tile) -> tuple[np.ndarray, ...]:
        extent = row.start, rows.length, column.start, columns.length
        y, luma_table, mask = luma.tile(
            *(n * factor for n, factor in zip(extent, (down, down, across, across), strict=True))
        )
        parts = [source.tile(*extent) for source in chroma]
        k = np.stack([part[0] for part in parts])
        return y, k, np.stack([luma_table, *(part[1] for part in parts)]), mask

    def prepare_row(row: Tile) -> tuple[Callable, Iterator[tuple[np.ndarray, ...]]]:
        program = partial(_program, model.module, model.variables)
        tiles = (arguments(row, column) for column in columns.tiles)
        return lambda *batch: program(*batch, *settings), tiles

    planes = np.empty((3, 8 * down * height, 8 * across * width), np.float32)
    for row, column, result in tiling.run_plan(
        rows, columns, prepare_row, by_engine=False, progress=progress
    ):
        core = result[row.core_in_tile(8 * down), column.core_in_tile(8 * across)]
        target = planes[:, row.core_in_plane(8 * down), column.core_in_plane(8 * across)]
        np.multiply(np.moveaxis(core, -1, 0), 255, out=target)
    return planes


@partial(jax.jit, static_argnums=0)
def _program(
    module: PhotoNet,
    variables: Mapping[str, Any],
    luma: jax.Array,
    chroma: jax.Array,
    q: jax.Array,
    mask: jax.Array,
    strength: jax.Array,
    project: jax.Array,
) -> jax.Array:
    """Runs the network over a batch of tiles, blends and projects: float32 [B, H, W, 3]."""
    estimates = apply_module(module, variables, PhotoInput(luma, chroma), q, mask=mask)
    image, start = estimates["image"], estimates["jpeg"]
    image = jnp.where(strength == 1, image, start + strength * (image - start))
    projected = [
        project_upsampled(image[..., :1], luma[:, None], q[:, :1]),
        project_upsampled(image[..., 1:], chroma, q[:, 1:]),
    ]
    return jnp.where(project, jnp.concatenate(projected, axis=-1), image)
