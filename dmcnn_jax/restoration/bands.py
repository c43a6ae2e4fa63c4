"""Bands of blocks, in which planes and pictures are processed to bound memory."""

import concurrent.futures
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.images import color
from dmcnn_jax.jpeg.resampling import upsample_rows
from dmcnn_jax.system.cpu import usable_cores

BAND = 16
"""Rows of blocks in a band."""

BASIS = jpeg.BASIS_IMAGES.reshape(64, 64)
"""The orthonormal DCT as a matrix: float32 [64 frequencies, 64 pixels]; x = (block - 128) @ Bᵀ."""

LUMA_WEIGHTS = np.array(color.LUMA_WEIGHTS, np.float32)
"""Weights of R, G and B in luma (BT.601): float32 [3]."""

Result = TypeVar("Result")


def band_tops(height: int) -> range:
    """Returns the first row of each band of a picture.

    Args:
        height: of the picture, pixels.
    """
    return range(0, height, 8 * BAND)


def map_bands(function: Callable[[int], Result], tops: Iterable[int]) -> list[Result]:
    """Returns a function's result for each band, computed in up to four threads.

    Args:
        function: takes the first row of a band.
        tops: the first rows, in the unit that the function expects.
    """
    with concurrent.futures.ThreadPoolExecutor(min(4, usable_cores())) as pool:
        return list(pool.map(function, tops))


def to_blocks(plane: np.ndarray) -> np.ndarray:
    """Cuts a plane [8 * rows, 8 * columns] into blocks [rows * columns, 64]."""
    return jpeg.to_blocks(plane).reshape(-1, 64)


def from_blocks(blocks: np.ndarray, columns: int) -> np.ndarray:
    """Joins blocks [rows * columns, 64] to a plane [8 * rows, 8 * columns]."""
    return jpeg.from_blocks(blocks.reshape(-1, columns, 64))


def pad_to_blocks(plane: np.ndarray) -> np.ndarray:
    """Repeats the border of a plane to whole blocks."""
    return np.pad(plane, ((0, -plane.shape[0] % 8), (0, -plane.shape[1] % 8)), mode="edge")


def transform(plane: np.ndarray) -> np.ndarray:
    """Returns the coefficients of a plane in whole blocks: float32 [blocks, 64]."""
    return (to_blocks(plane) - np.float32(128)) @ BASIS.T


def chroma_offsets(
    chroma: Sequence[np.ndarray],
    subsampling: Sequence[tuple[int, int]],
    top: int,
    bottom: int,
    width: int,
) -> tuple[np.ndarray, ...]:
    """Returns the difference between each channel and luma in a band, which chroma determines.

    R = Y + 2 (1 - w_R) Cr, B = Y + 2 (1 - w_B) Cb, and G such that w_R R + w_G G + w_B B = Y, with
    the weights of BT.601 and Cb and Cr centred on 0.

    Args:
        chroma: Cb and Cr, float32, levels 0 to 255; empty for a gray picture.
        subsampling: rows and columns of the picture to a sample, for each plane.
        top: first row of the band, pixels.
        bottom: the row after its last.
        width: columns of the result without chroma.

    Returns:
        For R, G and B, or once for gray: float32 [bottom - top, columns], where columns covers the
        picture and may reach beyond it.
    """
    if not chroma:
        return (np.zeros((bottom - top, width), np.float32),)
    cb, cr = (
        upsample_rows(plane, factors, top, bottom) - np.float32(128)
        for plane, factors in zip(chroma, subsampling, strict=True)
    )
    # With unequal subsampling, one plane may extend further beyond the picture than the other.
    columns = min(cb.shape[1], cr.shape[1])
    cb, cr = cb[:, :columns], cr[:, :columns]
    red, blue = 2 * (1 - LUMA_WEIGHTS[0]) * cr, 2 * (1 - LUMA_WEIGHTS[2]) * cb
    green = -(LUMA_WEIGHTS[0] * red + LUMA_WEIGHTS[2] * blue) / LUMA_WEIGHTS[1]
    return red, green, blue
