"""Restores Y, Cb and Cr together, of any size and subsampling, by a network for photographs."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.inference.chroma import CHROMA_SUBSAMPLINGS
from dmcnn_jax.inference.coded_planes import CodedPlanes, Finish
from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.photo_tiles import restore_photo_in_tiles
from dmcnn_jax.jpeg import dihedral
from dmcnn_jax.jpeg.dct import block_coefficients
from dmcnn_jax.jpeg.projection import project_upsampled_in_bands
from dmcnn_jax.jpeg.resampling import average_samples, upsample_rows
from dmcnn_jax.jpeg.tables import nearest_quality
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
    coded, finish = CodedPlanes(coefficients, tables, subsampling), Finish(project, strength)
    if 4 in subsampling:
        return _restore_by_four(model, coded, finish, ensemble, mirrored, progress)
    if mirrored or ensemble:
        coded = _continue_mirrored(coded, mirrored)
    run = _mean_over_symmetries if ensemble else _restore_upright
    planes = run(model, coded, finish, progress)
    height, width = planes.shape[1:]
    top, left = (8 * mirrored * factor for factor in subsampling)
    return planes[:, top : height - top, left : width - left]


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
    coded: CodedPlanes,
    finish: Finish,
    ensemble: bool,
    mirrored: int,
    progress: Progress | None,
) -> np.ndarray:
    """Restores luma alone, and chroma that is subsampled by four with luma of half the size.

    Networks are trained for subsampling by two. Luma of half the size is the average of what was
    restored, in steps of 1. The result is that of `restore_photo`.
    """
    settings: Any = {**dataclasses.asdict(finish), "ensemble": ensemble, "mirrored": mirrored}
    coefficients, tables, subsampling = coded.coefficients, coded.tables, coded.subsampling
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
        if finish.project:
            project_upsampled_in_bands(plane, blocks, table, subsampling)
    return planes


# Rows that are upsampled at a time, to bound memory.
_UPSAMPLED_ROWS = 512


def _continue_mirrored(coded: CodedPlanes, blocks: int) -> CodedPlanes:
    """Continues planes by their mirror image, first luma to where the blocks of chroma end.

    Args:
        coded: Y, Cb and Cr.
        blocks: of chroma, by which planes are continued to every side.

    Returns:
        The larger planes; the blocks of chroma end where those of luma do.
    """
    luma, *chroma = coded.coefficients
    missing, margins = [], []
    for axis, factor in enumerate(coded.subsampling):
        missing.append((0, factor * chroma[0].shape[axis] - luma.shape[axis]))
        margins.append((factor * blocks, factor * blocks))
    luma = dihedral.continue_mirrored(luma, (missing[0], missing[1]))
    continued = [
        dihedral.continue_mirrored(luma, (margins[0], margins[1])),
        *(dihedral.continue_mirrored(k, blocks) for k in chroma),
    ]
    return dataclasses.replace(coded, coefficients=continued)


def _mean_over_symmetries(
    model: Model, coded: CodedPlanes, finish: Finish, progress: Progress | None
) -> np.ndarray:
    """Averages `_restore_upright` over the symmetries; the blocks of chroma end where luma's do."""
    down, across = coded.subsampling
    # Of 4:2:2 and 4:4:0, `_restore_upright` transposes one itself.
    ways = range(dihedral.COUNT if down == across else dihedral.COUNT // 2)
    rows, columns, _ = coded.coefficients[0].shape
    mean = np.zeros((3, 8 * rows, 8 * columns), np.float32)
    unprojected = dataclasses.replace(finish, project=False)
    for which in ways:
        part = scaled(progress, 1 / len(ways))
        restored = _restore_upright(model, coded.turned(which), unprojected, part)
        for total, plane in zip(mean, restored, strict=True):
            total += dihedral.turn_back(plane, which) / len(ways)
    if finish.project:
        sizes = (1, 1), coded.subsampling, coded.subsampling
        for plane, k, q, size in zip(mean, coded.coefficients, coded.tables, sizes, strict=True):
            project_upsampled_in_bands(plane, k, q, size)
    return mean


def _restore_upright(
    model: Model, coded: CodedPlanes, finish: Finish, progress: Progress | None
) -> np.ndarray:
    """Restores the planes as they are, but for 4:4:0, as `restore_photo_in_tiles`."""
    if coded.subsampling != (2, 1):
        return restore_photo_in_tiles(model, coded, finish, progress)
    # 4:4:0 is the transpose of 4:2:2, which networks are trained for.
    transposed = coded.turned(dihedral.TRANSPOSE)
    return restore_photo_in_tiles(model, transposed, finish, progress).swapaxes(1, 2)
