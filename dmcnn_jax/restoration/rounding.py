"""Rounds restored planes to pixels that keep the quantisation intervals."""

import concurrent.futures
import os
from collections.abc import Sequence

import numpy as np

from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.jpeg.resampling import upsample, upsample_rows
from dmcnn_jax.restoration.coefficient_check import (
    BAND,
    BASIS,
    LUMA_WEIGHTS,
    Count,
    band_coefficients,
    count,
    count_kept,
    from_blocks,
    interval_reach,
    pixel_luma,
    quantizes_to,
    to_blocks,
)
from dmcnn_jax.restoration.decoding import band_tops


def finish(
    luma: np.ndarray,
    chroma: Sequence[np.ndarray],
    components: Sequence[Component],
    height: int,
    width: int,
    *,
    bits: int = 8,
    project: bool = True,
) -> tuple[np.ndarray, Count]:
    """Makes the picture of restored planes.

    Args:
        luma: float32, levels 0 to 255, at full size, whole blocks: [8 * rows, 8 * columns] of the
            first component; or, if that is subsampled, at its own size.
        chroma: none, or Cb and Cr likewise, without what only fills up blocks: both at full size,
            or each at its own, to be upsampled.
        components: the file's, whose sampling and coefficients the planes have.
        height: of the picture.
        width: of the picture.
        bits: 8 or 16 for each sample.
        project: whether pixels are chosen such that luma keeps quantising to the file's
            coefficients, as far as whole pixels within the gamut can.

    Returns:
        uint8 or uint16 [height, width] or [height, width, 3], and what the pixels keep of the luma
        coefficients.
    """
    shape = (height, width, 3) if chroma else (height, width)
    steps = [
        (1, 1) if plane.shape == (height, width) else component.subsampling
        for plane, component in zip(chroma, components[1:], strict=False)
    ]
    picture = np.empty(shape, np.uint8 if bits == 8 else np.uint16)
    first = components[0]
    if first.subsampling != (1, 1):
        luma = upsample(luma[: first.height, : first.width], first.subsampling)

    def band(top: int) -> Count:
        bottom = min(top + 8 * BAND, height)
        y = luma[top : min(top + 8 * BAND, len(luma))]
        rgb = np.stack(chroma_offsets(chroma, steps, top, bottom, y.shape), axis=-1)[:, :width]
        if first.subsampling != (1, 1) or not project:
            pixels, counted = _round(y[: bottom - top, :width, None] + rgb, bits), Count()
            if first.subsampling == (1, 1):
                counted = count_kept(pixels, y, first, top, bits)
        else:
            pixels, counted = _settle(y, rgb, first, top, bits)
        picture[top:bottom] = pixels if chroma else pixels[..., 0]
        return counted

    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return picture, sum(pool.map(band, band_tops(height)), Count())


def chroma_offsets(chroma, steps, top, bottom, shape):
    """What chroma adds to luma: for R, G and B, or once, float32 [bottom - top, columns]."""
    if not chroma:
        return (np.zeros((bottom - top, shape[1]), np.float32),)
    cb, cr = (
        upsample_rows(plane, step, top, bottom) - np.float32(128)
        for plane, step in zip(chroma, steps, strict=True)
    )
    # Sampled differently, one may reach further beyond the picture.
    columns = min(cb.shape[1], cr.shape[1])
    cb, cr = cb[:, :columns], cr[:, :columns]
    red, blue = 2 * (1 - LUMA_WEIGHTS[0]) * cr, 2 * (1 - LUMA_WEIGHTS[2]) * cb
    green = -(LUMA_WEIGHTS[0] * red + LUMA_WEIGHTS[2] * blue) / LUMA_WEIGHTS[1]
    return red, green, blue


def _round(levels, bits):
    """Levels 0 to 255 as pixels of 8 or 16 bits."""
    if bits == 8:
        return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return np.clip(np.rint(levels * 257), 0, 65535).astype(np.uint16)


def _settle(y, rgb, component, top, bits):
    """Pixels of a band whose luma stays in its intervals, as far as that can be had.

    Dykstra's idea: what rounding and gamut took off is not forgotten but asked for again, since
    a correction of less than half a level would be rounded away each time.
    """
    k, table = band_coefficients(component, top)
    inside = np.zeros(y.shape, bool)
    inside[: rgb.shape[0], : rgb.shape[1]] = True
    inside = to_blocks(inside)
    padded = np.zeros((*y.shape, rgb.shape[-1]), np.float32)
    padded[: rgb.shape[0], : rgb.shape[1]] = rgb
    wanted = to_blocks(y)  # [blocks, 64]
    offsets = np.stack([to_blocks(padded[..., c]) for c in range(rgb.shape[-1])], axis=-1)

    def realise(wanted, offsets, inside):
        pixels = _round(wanted[..., None] + offsets, bits)
        return pixels, np.where(inside, pixel_luma(pixels, bits), wanted)

    middle = k * table.astype(np.float32)
    reach = interval_reach(table)
    # Corrections aim a little within, where rounding leads astray less often.
    target = reach - np.minimum(np.float32(0.5), reach / 2)
    pixels, luma = realise(wanted, offsets, inside)
    kept = quantizes_to(luma, k, table)
    open_ = np.flatnonzero(~kept.all(axis=1))
    mine, luma = wanted[open_], luma[open_]
    for _ in range(_ROUNDS):
        if not len(open_):
            break
        x = (luma - 128) @ BASIS.T - middle[open_]
        move = np.where(np.abs(x) > reach, np.clip(x, -target, target) - x, 0)
        mine = mine + move @ BASIS
        tried, luma = realise(mine, offsets[open_], inside[open_])
        now = quantizes_to(luma, k[open_], table)
        better = now.sum(axis=1) > kept[open_].sum(axis=1)
        pixels[open_[better]] = tried[better]
        kept[open_[better]] = now[better]
        left = ~now.all(axis=1)
        open_, mine, luma = open_[left], mine[left], luma[left]
    counted = count(kept)
    columns = y.shape[1] // 8
    channels = [from_blocks(pixels[..., c], columns) for c in range(pixels.shape[-1])]
    return np.stack(channels, axis=-1)[: rgb.shape[0], : rgb.shape[1]], counted


_ROUNDS = 8
