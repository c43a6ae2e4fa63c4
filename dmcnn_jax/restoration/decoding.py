"""Decodes files as libjpeg does, and planes without rounding them to pixels."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.images import color
from dmcnn_jax.jpeg.projection import INTERVAL_INSET
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.jpeg.resampling import upsample_rows
from dmcnn_jax.restoration.bands import BAND, BASIS, band_tops, from_blocks, map_bands

Result = TypeVar("Result")


def decoded_picture(file: jpeg.JpegFile) -> np.ndarray:
    """Returns the pixels that libjpeg decodes: uint8 [height, width], or [height, width, 3]."""
    gray = len(file.components) == 1
    picture = np.empty((file.height, file.width, 1 if gray else 3), np.uint8)

    def store(top: int, band: np.ndarray) -> None:
        picture[top : top + len(band)] = band

    _map_decoded_bands(file, store)
    return picture[..., 0] if gray else picture


def decoded_mean(file: jpeg.JpegFile) -> np.ndarray:
    """Returns the mean of each channel of the decoded picture: float64 [channels], levels."""

    def total(top: int, band: np.ndarray) -> np.ndarray:
        return band.sum(axis=(0, 1), dtype=np.uint64)

    return np.sum(_map_decoded_bands(file, total), axis=0) / (file.height * file.width)


def _map_decoded_bands(
    file: jpeg.JpegFile, use: Callable[[int, np.ndarray], Result]
) -> list[Result]:
    """Returns the results of `use` for all bands of the decoded picture.

    Args:
        file: the file.
        use: takes the first row of a band and its pixels, uint8 [rows, width, channels].
    """
    planes = jpeg.decode_planes(file)

    def band(top: int) -> Result:
        bottom = min(top + 8 * BAND, file.height)
        channels = [
            upsample_rows(plane, component.subsampling, top, bottom)[:, : file.width]
            for plane, component in zip(planes, file.components, strict=True)
        ]
        stack = np.stack(channels, axis=-1)
        return use(top, color.ycbcr_to_rgb(stack, "full") if file.color == "ycbcr" else stack)

    return map_bands(band, band_tops(file.height))


def dequantized_plane(component: Component, *, project: bool = True) -> np.ndarray:
    """Decodes a plane from the centres of its quantisation intervals, without a network.

    Pixels are clipped to their range, but not rounded.

    Args:
        component: of a file.
        project: whether the clipped plane is projected back into the intervals, so that quantising
            it yields the file's coefficients. Pixels may then lie slightly outside the range.

    Returns:
        float32 [8 * rows, 8 * columns] of the component, levels 0 to 255.
    """
    rows, columns, _ = component.coefficients.shape
    table = component.table.reshape(64).astype(np.float32)
    plane = np.empty((8 * rows, 8 * columns), np.float32)
    for top in range(0, rows, BAND):
        k = component.coefficients[top : top + BAND].reshape(-1, 64)
        centers = k * table
        blocks = np.clip(centers @ BASIS, -128, 127)
        if project:
            x = blocks @ BASIS.T
            reach = table / 2 - INTERVAL_INSET
            blocks += (np.clip(x, centers - reach, centers + reach) - x) @ BASIS
        plane[8 * top : 8 * (top + BAND)] = from_blocks(blocks, columns) + 128
    return plane
