"""Restores Y, Cb and Cr of any size together, in tiles."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict, Unpack, cast

import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.inference import tiling
from dmcnn_jax.inference.chroma import CHROMA_SUBSAMPLINGS
from dmcnn_jax.inference.luma import restore_luma
from dmcnn_jax.inference.model import Model, apply_module
from dmcnn_jax.inference.tiling import Tile, TileSource
from dmcnn_jax.jpeg import dihedral
from dmcnn_jax.jpeg.dct import block_coefficients
from dmcnn_jax.jpeg.projection import project_upsampled, project_upsampled_in_bands
from dmcnn_jax.jpeg.resampling import average_samples, upsample_rows
from dmcnn_jax.jpeg.tables import nearest_quality
from dmcnn_jax.models import photo
from dmcnn_jax.models.photo import PhotoInput, PhotoNet
from dmcnn_jax.system.progress import Progress, scaled


def restore_photo(
    model: Model,
    coefficients: Sequence[np.ndarray],
    tables: Sequence[np.ndarray],
    subsampling: tuple[int, int],
    *,
    project: bool = False,
    strength: float = 1.0,
    ensemble: bool = False,
    mirrored: int = 0,
    progress: Progress | None = None,
) -> np.ndarray:
    """Restores all planes of a colour file and brings them to full size, in tiles.

    Args:
        model: the model to run, a `PhotoNet`.
        coefficients: k of Y, Cb and Cr, integers [h, w, 64] each, natural order. The blocks of
            chroma cover those of luma.
        tables: Q of Y, Cb and Cr, integers [8, 8] each.
        subsampling: rows and columns of the picture to a chroma sample, one of
            `CHROMA_SUBSAMPLINGS`.
        project: whether the planes are projected onto the nearest ones that quantise to
            `coefficients`, chroma by its averages over samples.
        strength: blends the decoded planes (0) with the estimate (1).
        ensemble: whether the estimate is the mean over the turned and mirrored pictures, as in
            `luma.restore_luma`.
        mirrored: blocks of chroma by which planes are continued by their mirror image, as in
            `luma.restore_luma`.
        progress: called now and then with the share of the work done since the last call.

    Returns:
        float32 [3, H, W], levels 0 to 255, not clipped; H and W are those of the blocks of chroma.

    Raises:
        ValueError: if the subsampling is not supported, or the blocks of chroma end within luma.
    """
    if subsampling not in CHROMA_SUBSAMPLINGS:
        raise ValueError(f"subsampling is {subsampling}; expected one of {CHROMA_SUBSAMPLINGS}")
    _check_covered(coefficients, subsampling)
    if 4 in subsampling:
        return _restore_by_four(
            model,
            coefficients,
            tables,
            subsampling,
            project,
            strength,
            ensemble,
            mirrored,
            progress,
        )
    margins = 8 * mirrored * subsampling[0], 8 * mirrored * subsampling[1]
    if mirrored or ensemble:
        coefficients = _continue_mirrored(coefficients, subsampling, mirrored)
    run = _mean_over_symmetries if ensemble else _restore_upright
    planes = run(model, coefficients, tables, subsampling, project, strength, progress)
    height, width = planes.shape[1:]
    return planes[:, margins[0] : height - margins[0], margins[1] : width - margins[1]]


class PlaneOptions(TypedDict, total=False):
    """Options of `luma.restore_luma`, which describes them, that restoring by any network has."""

    project: bool
    strength: float
    ensemble: bool
    mirrored: int
    progress: Progress | None


def restore_gray(
    model: Model,
    coefficients: np.ndarray,
    table: np.ndarray,
    **options: Unpack[PlaneOptions],
) -> np.ndarray:
    """Restores luma alone, as that of a colour file whose chroma has no coefficients.

    Args:
        model: the model to run, a `PhotoNet`.
        coefficients: k, integers [h, w, 64].
        table: Q, integers [8, 8].
        options: `mirrored` is rounded up to whole blocks of chroma.

    Returns:
        float32 [8h, 8w], pixels scaled to [0, 1], not clipped.
    """
    options["mirrored"] = -(-options.get("mirrored", 0) // 2)
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
        **options,
    )
    return planes[0, : 8 * rows, : 8 * columns] / 255


def _check_covered(coefficients: Sequence[np.ndarray], subsampling: tuple[int, int]) -> None:
    """Checks that the blocks of chroma cover those of luma."""
    blocks, inside = coefficients[1].shape[:2], coefficients[0].shape[:2]
    if any(n * s < size for n, s, size in zip(blocks, subsampling, inside, strict=True)):
        raise ValueError(
            f"{blocks[0]} × {blocks[1]} blocks of chroma, subsampled by {subsampling}, do not "
            f"cover {inside[0]} × {inside[1]} blocks of luma"
        )


def _restore_by_four(
    model: Model,
    coefficients: Sequence[np.ndarray],
    tables: Sequence[np.ndarray],
    subsampling: tuple[int, int],
    project: bool,
    strength: float,
    ensemble: bool,
    mirrored: int,
    progress: Progress | None,
) -> np.ndarray:
    """Restores luma alone, and chroma that is subsampled by four with luma of half the size.

    Networks are trained for subsampling by two. Luma of half the size is the average of what was
    restored, in steps of 1. Arguments and result are those of `restore_photo`.
    """
    settings: dict[str, Any] = {"project": project, "strength": strength, "ensemble": ensemble}
    settings["mirrored"] = mirrored
    part = scaled(progress, 0.7)
    luma = 255 * restore_gray(model, coefficients[0], tables[0], **settings, progress=part)
    height, width = (
        8 * factor * blocks
        for factor, blocks in zip(subsampling, coefficients[1].shape[:2], strict=True)
    )
    missing = [(0, height - luma.shape[0]), (0, width - luma.shape[1])]
    luma = np.pad(luma, missing, mode="edge")
    halves = 2 if subsampling[0] == 4 else 1, 2 if subsampling[1] == 4 else 1
    half = average_samples(luma, halves)
    k = np.rint(block_coefficients(half)).astype(np.int32)
    _, *chroma = restore_photo(
        model,
        [k.reshape(half.shape[0] // 8, half.shape[1] // 8, 64), *coefficients[1:]],
        [np.ones((8, 8), np.int32), *tables[1:]],
        (subsampling[0] // halves[0], subsampling[1] // halves[1]),
        **settings,
        progress=scaled(progress, 0.3),
    )
    planes = np.empty((3, height, width), np.float32)
    planes[0] = luma
    for plane, small, blocks, table in zip(
        planes[1:], chroma, coefficients[1:], tables[1:], strict=True
    ):
        for top in range(0, height, _UPSAMPLED_ROWS):
            bottom = min(top + _UPSAMPLED_ROWS, height)
            plane[top:bottom] = upsample_rows(small, halves, top, bottom)
        if project:
            project_upsampled_in_bands(plane, blocks, table, subsampling)
    return planes


# Rows that are upsampled at a time, to bound memory.
_UPSAMPLED_ROWS = 512


def _continue_mirrored(
    coefficients: Sequence[np.ndarray], subsampling: tuple[int, int], blocks: int
) -> list[np.ndarray]:
    """Continues planes by their mirror image, first luma to where the blocks of chroma end.

    Args:
        coefficients: k of Y, Cb and Cr.
        subsampling: rows and columns of the picture to a chroma sample.
        blocks: of chroma, by which planes are continued to every side.

    Returns:
        k of the larger planes; the blocks of chroma end where those of luma do.
    """
    luma, *chroma = coefficients
    missing, margins = [], []
    for axis, factor in enumerate(subsampling):
        missing.append((0, factor * chroma[0].shape[axis] - luma.shape[axis]))
        margins.append((factor * blocks, factor * blocks))
    luma = dihedral.continue_mirrored(luma, (missing[0], missing[1]))
    return [
        dihedral.continue_mirrored(luma, (margins[0], margins[1])),
        *(dihedral.continue_mirrored(k, blocks) for k in chroma),
    ]


def _mean_over_symmetries(
    model: Model,
    coefficients: Sequence[np.ndarray],
    tables: Sequence[np.ndarray],
    subsampling: tuple[int, int],
    project: bool,
    strength: float,
    progress: Progress | None,
) -> np.ndarray:
    """Averages `_restore_upright` over the symmetries; the blocks of chroma end where luma's do."""
    down, across = subsampling
    # Of 4:2:2 and 4:4:0, `_restore_upright` transposes one itself.
    ways = range(dihedral.COUNT if down == across else dihedral.COUNT // 2)
    rows, columns, _ = coefficients[0].shape
    mean = np.zeros((3, 8 * rows, 8 * columns), np.float32)
    for which in ways:
        k, q = _turn(coefficients, tables, which)
        part = scaled(progress, 1 / len(ways))
        restored = _restore_upright(model, k, q, subsampling, False, strength, part)
        for total, plane in zip(mean, restored, strict=True):
            total += dihedral.turn_back(plane, which) / len(ways)
    if project:
        sizes = (1, 1), subsampling, subsampling
        for plane, blocks, table, size in zip(mean, coefficients, tables, sizes, strict=True):
            project_upsampled_in_bands(plane, blocks, table, size)
    return mean


def _turn(
    coefficients: Sequence[np.ndarray], tables: Sequence[np.ndarray], which: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Turns all planes, as `dihedral.turn`."""
    turned = [dihedral.turn(k, q, which) for k, q in zip(coefficients, tables, strict=True)]
    return [k for k, _ in turned], [q for _, q in turned]


def _restore_upright(
    model: Model,
    coefficients: Sequence[np.ndarray],
    tables: Sequence[np.ndarray],
    subsampling: tuple[int, int],
    project: bool,
    strength: float,
    progress: Progress | None,
) -> np.ndarray:
    """Restores the planes as they are, but for 4:4:0, as `_restore_in_tiles`."""
    if subsampling != (2, 1):
        return _restore_in_tiles(
            model, coefficients, tables, subsampling, project, strength, progress
        )
    # 4:4:0 is the transpose of 4:2:2, which networks are trained for.
    k, q = _turn(coefficients, tables, 4)
    return _restore_in_tiles(model, k, q, (1, 2), project, strength, progress).swapaxes(1, 2)


def _restore_in_tiles(
    model: Model,
    coefficients: Sequence[np.ndarray],
    tables: Sequence[np.ndarray],
    subsampling: tuple[int, int],
    project: bool,
    strength: float,
    progress: Progress | None,
) -> np.ndarray:
    """Restores a subsampling that networks are trained for; tiles are of whole blocks of chroma."""
    down, across = subsampling
    height, width, _ = coefficients[1].shape
    halo_rows, halo_columns = cast(PhotoNet, model.module).halo(subsampling)
    sides = tiling.chroma_tile_sides(subsampling)
    rows = tiling.plan_tiles(height, halo_rows, sides)
    columns = tiling.plan_tiles(width, halo_columns, sides)
    luma, *chroma = (TileSource(k, q) for k, q in zip(coefficients, tables, strict=True))
    restored_luma = restore_luma(
        _luma_model(model),
        coefficients[0],
        tables[0],
        project=True,
        progress=scaled(progress, _LUMA_SHARE),
    )
    settings = np.float32(strength), np.bool_(project)
    program: Callable = partial(_program, model.module, model.variables)
    if model.engine:
        program = partial(_run_by_engine, model)

    def arguments(row: Tile, column: Tile) -> tuple[np.ndarray, ...]:
        extent = row.start, rows.length, column.start, columns.length
        luma_extent = [
            n * factor for n, factor in zip(extent, (down, down, across, across), strict=True)
        ]
        y, luma_table, mask = luma.tile(*luma_extent)
        parts = [source.tile(*extent) for source in chroma]
        k = np.stack([part[0] for part in parts])
        q = np.stack([luma_table, *(part[1] for part in parts)])
        return y, k, _cut(restored_luma, *(8 * n for n in luma_extent)), q, mask

    def prepare_row(row: Tile) -> tuple[Callable, Iterator[tuple[np.ndarray, ...]]]:
        tiles = (arguments(row, column) for column in columns.tiles)
        return lambda *batch: program(*batch, *settings), tiles

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
    strength: np.float32,
    project: np.bool_,
) -> jax.Array:
    """Runs the layers of the network by the model's engine, and the rest by JAX."""
    assert model.engine is not None
    arguments = model.module, model.variables, luma, chroma, restored_luma, q, mask
    x, features, encoding = map(np.asarray, _engine_first_program(*arguments))
    correction = model.engine(x, encoding, mask, features)
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
    x = photo.layer_input(photo.decode_planes(inputs, q, mask), restored_luma, q, mask)
    features = photo.coefficient_features(inputs, q, module.features[2], layer)
    return x, features, photo.encode_input(q, inputs.subsampling)


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
    base = photo.decode_planes(inputs, q, mask)
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
