"""Reads the luma of original images, against which restored pictures are measured.

The Y of a colour image is computed, in one of two ranges (see `images.color`). A gray image has no
Y to compute; its pixels are taken unchanged, 0 to 255, as in the literature. Only in this way are
the literature's JPEG figures for the gray images of Classic5 reproduced.
"""

import io
import os
from typing import cast

import numpy as np
from PIL import Image

from dmcnn_jax.data.images import read_rgb
from dmcnn_jax.images.color import Range, rgb_to_y


def read_original_luma(file: str | os.PathLike | io.BytesIO, luma: str) -> np.ndarray:
    """Reads the luma of an original image.

    Args:
        file: anything that Pillow opens; read as in `read_rgb`: 16 bits are rounded to 8,
            transparency lies over white, and the EXIF orientation is applied.
        luma: range of a colour image's Y: "studio" (16 to 235, MATLAB's rgb2ycbcr) or "full" (0 to
            255). A gray image's pixels are returned unchanged in both cases.

    Returns:
        uint8 [H, W].

    Raises:
        ValueError: if `luma` is neither name.
        OSError: if it can't be decoded, or has pixels of an unknown range.
        Image.DecompressionBombError: if it has more pixels than Pillow's limit.
    """
    rgb = read_rgb(file)
    return rgb[..., 0] if is_gray(file) else rgb_to_y(rgb, cast(Range, luma))


def is_gray(file: str | os.PathLike | io.BytesIO) -> bool:
    """Returns whether a file holds a gray image: 1, 8 or 16 bits per pixel, with or without alpha.

    A colour file whose pixels all happen to be gray counts as colour, and so does a palette.

    Args:
        file: anything that Pillow opens.

    Raises:
        OSError: if Pillow can't open it.
    """
    with Image.open(file) as image:
        return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")
