"""Converts between RGB and YCbCr of ITU-R BT.601, in either range.

- ``"full"``: JFIF, used in JPEG files. Y, Cb and Cr span 0 to 255, gray at Cb = Cr = 128. Integer
  arithmetic is libjpeg's, bit for bit (16-bit fixed point, as in ``jccolor.c`` and ``jdcolor.c``):
  converting here and inside a JPEG codec give the same values. Y is also Pillow's
  ``convert("L")``; Pillow's ``convert("YCbCr")`` works at 6 bits and differs from libjpeg's.
- ``"studio"``: MATLAB's ``rgb2ycbcr``, on whose Y the literature measures. Y spans 16 to 235, Cb
  and Cr 16 to 240. Rounded as MATLAB rounds, half away from zero.

Measuring the same images on full-range Y reads about 0.75 dB lower than on studio Y, so no function
here has a default range.

The dtype of the input selects the arithmetic: uint8 gives uint8, rounded and clipped; floating
point, in the same levels (0 to 255, not 0 to 1), gives its own dtype, neither rounded nor clipped.
Channels come last. NumPy and JAX arrays both work, JAX ones under ``jit`` too.
"""

from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax

Array = TypeVar("Array", np.ndarray, "jax.Array")
Range = Literal["full", "studio"]

# BT.601: everything in floating point follows from the weights of red and blue in luma.
_RED, _BLUE = 0.299, 0.114
_GREEN = 1 - _RED - _BLUE

LUMA_WEIGHTS = (_RED, _GREEN, _BLUE)
"""Weights of R, G and B in full-range Y."""

CB_WEIGHTS = (-_RED / (2 - 2 * _BLUE), -_GREEN / (2 - 2 * _BLUE), 0.5)
"""Weights of R, G and B in full-range Cb, to be added to 128."""

CR_WEIGHTS = (0.5, -_GREEN / (2 - 2 * _RED), -_BLUE / (2 - 2 * _RED))
"""Weights of R, G and B in full-range Cr, to be added to 128."""


def rgb_to_y(rgb: Array, range: Range) -> Array:
    """Returns the luma of an RGB image.

    Args:
        rgb: ``[..., 3]``, uint8 or floating point, levels 0 to 255.
        range: ``"studio"`` (16 to 235, what PSNR is published on) or ``"full"`` (0 to 255, what a
            JPEG holds).

    Returns:
        ``[...]`` of the dtype of ``rgb``.

    Raises:
        TypeError: if ``rgb`` is neither uint8 nor floating point.
        ValueError: if the last axis is not 3 long, or ``range`` is neither name.
    """
    is_integer = _check(rgb, range)
    if is_integer:
        return _integer_y(rgb, range).astype(np.uint8)
    y = _float_y(rgb)
    return y if range == "full" else _to_studio_y(y)


def rgb_to_ycbcr(rgb: Array, range: Range) -> Array:
    """Converts an RGB image to YCbCr.

    Args:
        rgb: ``[..., 3]``, uint8 or floating point, levels 0 to 255.
        range: ``"full"`` (JFIF) or ``"studio"`` (MATLAB).

    Returns:
        ``[..., 3]`` of the dtype of ``rgb``: Y, Cb, Cr, with Cb and Cr centred on 128.

    Raises:
        TypeError: if ``rgb`` is neither uint8 nor floating point.
        ValueError: if the last axis is not 3 long, or ``range`` is neither name.
    """
    is_integer = _check(rgb, range)
    stack = rgb.__array_namespace__().stack
    if is_integer:
        planes = (_integer_y(rgb, range), *_integer_chroma(rgb, range))
        return stack(planes, axis=-1).astype(np.uint8)
    y = _float_y(rgb)
    cb = 128 + (rgb[..., 2] - y) * (0.5 / (1 - _BLUE))
    cr = 128 + (rgb[..., 0] - y) * (0.5 / (1 - _RED))
    if range == "studio":
        y, cb, cr = _to_studio_y(y), _to_studio_chroma(cb), _to_studio_chroma(cr)
    return stack((y, cb, cr), axis=-1)


def ycbcr_to_rgb(ycbcr: Array, range: Range) -> Array:
    """Converts a YCbCr image to RGB.

    Some YCbCr colours lie outside RGB: floating point keeps them (levels below 0 and above 255),
    uint8 clips them.

    Args:
        ycbcr: ``[..., 3]``, Y, Cb, Cr, uint8 or floating point, in the levels of ``range``.
        range: ``"full"`` (JFIF) or ``"studio"`` (MATLAB).

    Returns:
        ``[..., 3]`` of the dtype of ``ycbcr``, levels 0 to 255.

    Raises:
        TypeError: if ``ycbcr`` is neither uint8 nor floating point.
        ValueError: if the last axis is not 3 long, or ``range`` is neither name.
    """
    is_integer = _check(ycbcr, range)
    xp = ycbcr.__array_namespace__()
    if is_integer:
        rgb = xp.stack(_integer_rgb(ycbcr, range), axis=-1)
        return xp.clip(rgb, 0, 255).astype(np.uint8)

    y, cb, cr = ycbcr[..., 0], ycbcr[..., 1] - 128, ycbcr[..., 2] - 128
    if range == "studio":
        y, cb, cr = (y - 16) * (255 / 219), cb * (255 / 224), cr * (255 / 224)
    return xp.stack(add_color(y, cb, cr), axis=-1)


def add_color(y: Any, cb: Any, cr: Any) -> tuple[Any, Any, Any]:
    """Returns R, G and B of full-range luma and of chroma that is centred on 0.

    All three are exactly Y where Cb and Cr are 0.

    Args:
        y: floating point, an array of any library.
        cb: the same.
        cr: the same.
    """
    red, blue = 2 * (1 - _RED) * cr, 2 * (1 - _BLUE) * cb
    # Differences from luma: by sums with it, rounding would leave a tint on gray.
    green = -(_RED * red + _BLUE * blue) / _GREEN
    return y + red, y + green, y + blue


def _check(image: Array, range: Range) -> bool:
    """Raises on a wrong image or range; returns whether the image is uint8."""
    if range not in ("full", "studio"):
        raise ValueError(f'range is {range!r}; expected "full" (JFIF) or "studio" (MATLAB).')
    if image.ndim == 0 or image.shape[-1] != 3:
        raise ValueError(f"image has shape {tuple(image.shape)}; expected [..., 3], channels last.")
    if image.dtype == np.uint8:
        return True
    if image.__array_namespace__().isdtype(image.dtype, "real floating"):
        return False
    raise TypeError(
        f"image is {image.dtype}; expected uint8, or floating point in levels 0 to 255."
    )


def _float_y(rgb: Array) -> Array:
    return _RED * rgb[..., 0] + _GREEN * rgb[..., 1] + _BLUE * rgb[..., 2]


def _to_studio_y(y: Array) -> Array:
    return 16 + y * (219 / 255)


def _to_studio_chroma(chroma: Array) -> Array:
    return 128 + (chroma - 128) * (224 / 255)


def _channels(image: Array) -> tuple[Array, Array, Array]:
    """Returns the three channels as int32, wide enough for every product below."""
    image = image.astype(np.int32)
    return image[..., 0], image[..., 1], image[..., 2]


def _integer_y(rgb: Array, range: Range) -> Array:
    red, green, blue = _channels(rgb)
    if range == "full":
        return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    # MATLAB's matrix has three decimals, so that thousandths of a 255th are exact. Adding half
    # before the floor is rounding half away from zero, since the result is positive.
    return 16 + (65481 * red + 128553 * green + 24966 * blue + 127500) // 255000


def _integer_chroma(rgb: Array, range: Range) -> tuple[Array, Array]:
    red, green, blue = _channels(rgb)
    if range == "full":
        # libjpeg adds one less than a half here, so that pure blue and red don't round up to 256.
        offset = (128 << 16) + 32767
        cb = (-11059 * red - 21709 * green + 32768 * blue + offset) >> 16
        cr = (32768 * red - 27439 * green - 5329 * blue + offset) >> 16
        return cb, cr
    cb = 128 + (-37797 * red - 74203 * green + 112000 * blue + 127500) // 255000
    cr = 128 + (112000 * red - 93786 * green - 18214 * blue + 127500) // 255000
    return cb, cr


def _integer_rgb(ycbcr: Array, range: Range) -> tuple[Array, Array, Array]:
    y, cb, cr = _channels(ycbcr)
    cb, cr = cb - 128, cr - 128
    if range == "full":
        red = y + ((91881 * cr + 32768) >> 16)
        green = y + ((-22554 * cb - 46802 * cr + 32768) >> 16)
        blue = y + ((116130 * cb + 32768) >> 16)
        return red, green, blue
    # The exact inverse at 20 bits, which int32 has room for.
    gray = 1220945 * (y - 16) + (1 << 19)
    red = (gray + 1673555 * cr) >> 20
    green = (gray - 410793 * cb - 852458 * cr) >> 20
    blue = (gray + 2115221 * cb) >> 20
    return red, green, blue


def to_uint8(plane: np.ndarray) -> np.ndarray:
    """Converts pixels scaled to [0, 1] to uint8, rounded and clipped, as measured and saved."""
    return np.clip(np.round(np.asarray(plane) * 255), 0, 255).astype(np.uint8)
