"""Decodes files as libjpeg does, and planes from the centres of their intervals."""

import concurrent.futures
import os

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.images import color
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.jpeg.resampling import upsample_rows
from dmcnn_jax.restoration.coefficient_check import BAND, BASIS, from_blocks


def dequantized_plane(component: Component, *, project: bool = True) -> np.ndarray:
    """A plane without a network: the middle of each coefficient's interval, in the range of pixels.

    Unlike the decoded plane it is not rounded, so that quantising gives the coefficients back.

    Args:
        component: of a file.
        project: whether it is, after the range of pixels has cut off what is beyond.

    Returns:
        float32 [8 * rows, 8 * columns] of the component, levels 0 to 255 (projected: or a little
        beyond).
    """
    rows, columns, _ = component.coefficients.shape
    table = component.table.reshape(64).astype(np.float32)
    plane = np.empty((8 * rows, 8 * columns), np.float32)
    for top in range(0, rows, BAND):
        k = component.coefficients[top : top + BAND].reshape(-1, 64)
        middle = k * table
        blocks = np.clip(middle @ BASIS, -128, 127)
        if project:
            x = blocks @ BASIS.T
            reach = table / 2 - 0.01
            blocks += (np.clip(x, middle - reach, middle + reach) - x) @ BASIS
        plane[8 * top : 8 * (top + BAND)] = from_blocks(blocks, columns) + 128
    return plane


def decoded_picture(file: jpeg.JpegFile) -> np.ndarray:
    """The pixels that libjpeg decodes of a file: uint8 [height, width] or [height, width, 3]."""
    gray = len(file.components) == 1
    picture = np.empty((file.height, file.width, 1 if gray else 3), np.uint8)

    def store(top: int, band: np.ndarray) -> None:
        picture[top : top + len(band)] = band

    _decode(file, store)
    return picture[..., 0] if gray else picture


def decoded_mean(file: jpeg.JpegFile) -> np.ndarray:
    """The mean of each channel of what libjpeg decodes of a file, float64 [channels]."""
    total = sum(_decode(file, lambda top, band: band.sum(axis=(0, 1), dtype=np.uint64)))
    return total / (file.height * file.width)


def _decode(file, use):
    """What `use` makes of each band of the decoded picture, given its first row and its pixels."""
    planes = jpeg.decode_planes(file)

    def band(top):
        bottom = min(top + 8 * BAND, file.height)
        channels = [
            upsample_rows(plane, component.subsampling, top, bottom)[:, : file.width]
            for plane, component in zip(planes, file.components, strict=True)
        ]
        stack = np.stack(channels, axis=-1)
        return use(top, color.ycbcr_to_rgb(stack, "full") if file.color == "ycbcr" else stack)

    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(band, band_tops(file.height)))


def band_tops(height):
    """Returns the first rows of the bands that a picture is worked through in."""
    return range(0, height, 8 * BAND)
