"""Restores Cb and Cr of any size, in tiles."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.tiling import TILE_SIDES, Tile, TileSource, plan_tiles, run_on_tiles
from dmcnn_jax.jpeg import dihedral
from dmcnn_jax.jpeg.projection import BAND, INTERVAL_INSET, project_plane
from dmcnn_jax.jpeg.resampling import upsample_rows
from dmcnn_jax.models import chroma
from dmcnn_jax.system.malloc import trim_memory


def restore_chroma(
    model: Model,
    coefficients: Sequence[np.ndarray],
    tables: Sequence[np.ndarray],
    guide: np.ndarray,
    step: tuple[int, int],
    *,
    project: bool = False,
    strength: float = 1.0,
    progress: Callable[[float], None] | None = None,
) -> np.ndarray:
    """Restores Cb and Cr and brings them to full size; as `restore_plane`, in tiles.

    Args:
        model: what to run, a `ChromaNet`.
        coefficients: k of Cb and of Cr, integers [h, w, 64] each, natural order.
        tables: Q of Cb and of Cr, integers [8, 8] each.
        guide: the restored luma, float32 [H, W], levels 0 to 255. Where the blocks of chroma reach
            further, its border is repeated.
        step: rows and columns of the picture to a chroma sample, one of `CHROMA_STEPS`.
        project: whether the result is moved to where averaging it over samples, and quantising
            that, gives `coefficients` back.
        strength: how far to go from chroma as upsampled (0) to the estimate (1).
        progress: as of `restore_plane`.

    Returns:
        float32 [2, 8h · step[0], 8w · step[1]], levels 0 to 255, not clipped.

    Raises:
        ValueError: if there is no way to restore such a step.
    """
    if step not in CHROMA_STEPS:
        raise ValueError(f"step is {step}; expected one of {CHROMA_STEPS}")
    options = {"project": project, "strength": strength, "progress": progress}
    if 4 in step:
        return _restore_chroma_by_four(model, coefficients, tables, guide, step, **options)
    if step == (2, 1):
        # Training is the same for a picture and its transpose, and knows the other.
        turned = [dihedral.turn(k, q, 4) for k, q in zip(coefficients, tables, strict=True)]
        k, q = zip(*turned, strict=True)
        return restore_chroma(model, k, q, guide.T, (1, 2), **options).swapaxes(1, 2)
    height, width, _ = coefficients[0].shape
    unit = 8 * step[0], 8 * step[1]
    halos = model.module.halo(step)
    rows, columns = (
        plan_tiles(blocks, halo, [side // max(step) for side in TILE_SIDES])
        for blocks, halo in zip((height, width), halos, strict=True)
    )
    sources = [TileSource(k, q) for k, q in zip(coefficients, tables, strict=True)]
    if model.engine:
        program = partial(_engine_chroma, model)
    else:
        program = partial(_chroma_program, model.module, model.variables)
    last = np.float32(strength), np.bool_(project)

    def tile(row: Tile, column: Tile) -> tuple[np.ndarray, ...]:
        parts = [s.tile(row.start, rows.length, column.start, columns.length) for s in sources]
        k, q, mask = (np.stack(part) for part in zip(*parts, strict=True))
        y, x = (
            np.clip(np.arange(u * piece.start, u * (piece.start + cuts.length)), 0, size - 1)
            for u, piece, cuts, size in zip(
                unit, (row, column), (rows, columns), guide.shape, strict=True
            )
        )
        return k, guide[y[:, None], x, None] / np.float32(255), q, mask[0]

    planes = np.empty((2, unit[0] * height, unit[1] * width), np.float32)
    for row in rows.pieces:
        results = run_on_tiles(
            lambda *batch: program(*batch, *last),
            (tile(row, column) for column in columns.pieces),
            len(columns.pieces),
            by_engine=model.engine is not None,
        )
        for column, result in zip(columns.pieces, results, strict=True):
            (target_y, source_y), (target_x, source_x) = (
                (
                    slice(u * piece.first, u * piece.last),
                    slice(u * (piece.first - piece.start), u * (piece.last - piece.start)),
                )
                for u, piece in zip(unit, (row, column), strict=True)
            )
            part = planes[:, target_y, target_x]
            np.multiply(np.moveaxis(result[source_y, source_x], -1, 0), 255, out=part)
            if progress:
                progress(1 / (len(rows.pieces) * len(columns.pieces)))
    if len(rows.pieces) * len(columns.pieces) > 1:
        trim_memory()
    return planes


CHROMA_STEPS = tuple(itertools.product((1, 2, 4), repeat=2))
"""Rows and columns of the picture to a chroma sample that `restore_chroma` knows: those that there
is training for, their transposes, and by four."""


def _restore_chroma_by_four(
    model: Model,
    coefficients: Sequence[np.ndarray],
    tables: Sequence[np.ndarray],
    guide: np.ndarray,
    step: tuple[int, int],
    *,
    project: bool,
    **options: Any,
) -> np.ndarray:
    """`restore_chroma` for 4:1:1 and the like.

    A sample of four columns is one of two in a picture half as wide, which there is training for.
    That is brought to full size as by libjpeg's filter for two, and projected there.
    """
    halves = tuple(2 if factor == 4 else 1 for factor in step)
    edges = [(0, -size % half) for size, half in zip(guide.shape, halves, strict=True)]
    cells = np.pad(guide, edges, mode="edge") if np.any(edges) else guide
    rows, columns = (size // half for size, half in zip(cells.shape, halves, strict=True))
    small = restore_chroma(
        model,
        coefficients,
        tables,
        cells.reshape(rows, halves[0], columns, halves[1]).mean(axis=(1, 3)),
        tuple(factor // half for factor, half in zip(step, halves, strict=True)),
        project=project,
        **options,
    )
    planes = np.empty((2, halves[0] * small.shape[1], halves[1] * small.shape[2]), np.float32)
    for plane, half, k, table in zip(planes, small, coefficients, tables, strict=True):
        for first in range(0, len(k), BAND):
            last = min(first + BAND, len(k))
            top, bottom = 8 * step[0] * first, 8 * step[0] * last
            band = plane[top:bottom]
            band[:] = upsample_rows(half, halves, top, bottom)
            if project:
                shape = 8 * (last - first), step[0], 8 * k.shape[1], step[1]
                samples = band.reshape(shape).mean(axis=(1, 3))
                moved = np.asarray(project_plane(samples / 255, k[first:last], table))
                moved = moved * 255 - samples
                band += np.repeat(np.repeat(moved, step[0], axis=0), step[1], axis=1)
    return planes


@partial(jax.jit, static_argnums=0)
def _chroma_program(module, variables, k, guide, q, mask, strength, project) -> jax.Array:
    """A network of chroma over a batch of tiles, with strength and projection: [B, H, W, 2]."""
    estimates = module.apply(variables, chroma.ChromaInput(k, guide), q, mask=mask)
    return _settle_chroma(estimates, k, q, strength, project)


def _settle_chroma(estimates, k, q, strength, project) -> jax.Array:
    image, start = estimates["image"], estimates["jpeg"]
    image = jnp.where(strength == 1, image, start + strength * (image - start))
    return jnp.where(project, chroma.project(image, k, q, -INTERVAL_INSET), image)


def _engine_chroma(model, k, guide, q, mask, strength, project) -> jax.Array:
    """A network of chroma, its layers by the model's engine."""
    which = model.module, model.variables
    x, told = _chroma_input_program(*which, k, guide, q, mask)
    correction = model.engine(np.asarray(x), np.asarray(told), mask)
    return _add_chroma_program(*which, k, guide, q, mask, correction, strength, project)


@partial(jax.jit, static_argnums=0)
def _chroma_input_program(module, variables, k, guide, q, mask) -> tuple[jax.Array, jax.Array]:
    chosen = chroma.ChromaInput(k, guide)
    base = module.apply(variables, chosen, q, mask, method="base")
    x = module.apply(variables, chosen, base, mask, method="input")
    return x, chroma.told(q, chosen.step)


@partial(jax.jit, static_argnums=0)
def _add_chroma_program(module, variables, k, guide, q, mask, x, strength, project) -> jax.Array:
    chosen = chroma.ChromaInput(k, guide)
    base = module.apply(variables, chosen, q, mask, method="base")
    estimates = module.apply(variables, chosen, q, base, x, mask, method="add_correction")
    return _settle_chroma(estimates, k, q, strength, project)
