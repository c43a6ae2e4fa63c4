"""The orthonormal 8x8 block DCT, its inverse, and the interval that a quantised coefficient stands for.

The DCT is linear, and its blocks do not overlap: it is a convolution of the plane with 64 fixed 8x8 kernels (the basis
images) at stride 8, giving one channel a frequency, and its inverse is the transposed convolution with the same kernels.
With nothing shared between blocks, that convolution is exactly a rearrangement of the plane into blocks of 64 pixels and
one 64x64 matrix product, and that is how it is computed here: faster than a convolution, in both directions and backwards.

All of it runs in float32 at the highest matrix precision, whatever the dtype of the input and the default precision of the
device: bfloat16 or TensorFloat-32 products would move coefficients by whole quantisation steps.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from dmcnn_jax.jpeg.tables import check_table, per_block


def _basis_images() -> np.ndarray:
    """The 64 orthonormal basis images, float64 [64, 8, 8]: frequency 8*v + u, row, column (ITU-T T.81, A.3.3)."""
    frequency, position = np.mgrid[:8, :8]
    basis = np.cos((2 * position + 1) * frequency * np.pi / 16) / 2
    basis[0] /= np.sqrt(2)
    return np.einsum("vy,ux->vuyx", basis, basis).reshape(64, 8, 8)


BASIS_IMAGES = _basis_images().astype(np.float32)
BASIS_IMAGES.flags.writeable = False
_BASIS = BASIS_IMAGES.reshape(64, 64)


def dct(plane):
    """Blockwise orthonormal 8x8 DCT-II (ITU-T T.81, A.3.3).

    Equal to a stride-8 convolution (cross-correlation) of the plane with the 64 kernels ``BASIS_IMAGES``.

    Args:
        plane: float [..., H, W] in any unit, H and W multiples of 8. Converted to float32.

    Returns:
        float32 coefficients [..., H/8, W/8, 64] in the unit of the plane, frequency 8*v + u, v vertical.

    Raises:
        ValueError: the plane is not floating point, or not made of whole blocks.
    """
    plane = _float32(plane, "plane")
    return jnp.matmul(to_blocks(plane), _BASIS.T, precision=lax.Precision.HIGHEST)


def idct(coefficients):
    """The inverse of ``dct``: the transposed stride-8 convolution with the kernels ``BASIS_IMAGES``.

    Args:
        coefficients: float [..., h, w, 64] in any unit. Converted to float32.

    Returns:
        float32 plane [..., 8*h, 8*w] in the same unit.

    Raises:
        ValueError: the coefficients are not floating point, or do not have 64 channels.
    """
    coefficients = _float32(coefficients, "coefficients")
    _check_channels(coefficients.shape, "coefficients")
    return from_blocks(jnp.matmul(coefficients, _BASIS, precision=lax.Precision.HIGHEST))


def to_blocks(plane):
    """Cuts a plane [..., H, W] into 8x8 blocks [..., H/8, W/8, 64], pixels row by row. Any dtype.

    Raises:
        ValueError: H or W is not a multiple of 8.
    """
    if plane.ndim < 2 or plane.shape[-2] % 8 or plane.shape[-1] % 8:
        raise ValueError(
            f"plane has shape {plane.shape}; expected [..., H, W] with H and W multiples of 8: pad it to whole blocks first"
        )
    *lead, height, width = plane.shape
    blocks = plane.reshape(*lead, height // 8, 8, width // 8, 8).swapaxes(-3, -2)
    return blocks.reshape(*lead, height // 8, width // 8, 64)


def from_blocks(blocks):
    """Puts blocks [..., h, w, 64] back together, [..., 8*h, 8*w]: the inverse of ``to_blocks``. Any dtype.

    Raises:
        ValueError: the last axis is not 64 long.
    """
    _check_channels(blocks.shape, "blocks")
    *lead, rows, columns, _ = blocks.shape
    return (
        blocks.reshape(*lead, rows, columns, 8, 8)
        .swapaxes(-3, -2)
        .reshape(*lead, rows * 8, columns * 8)
    )


def dequantize(coefficients, table):
    """The values k*Q that quantised coefficients stand for.

    Args:
        coefficients: integers k [..., h, w, 64], natural order.
        table: integers Q [..., 8, 8]; leading axes broadcast against those of the coefficients.

    Returns:
        float32 [..., h, w, 64], grey levels of the orthonormal DCT of (pixels - 128).

    Raises:
        ValueError: a shape or dtype is wrong, or a step is not in 1..65535.
    """
    table = check_table(table)
    _check_channels(coefficients.shape, "coefficients")
    if not jnp.issubdtype(coefficients.dtype, jnp.integer):
        raise ValueError(
            f"coefficients have dtype {coefficients.dtype}; expected the integers k that a JPEG file holds"
        )
    return jnp.asarray(coefficients, jnp.float32) * jnp.asarray(per_block(table), jnp.float32)


def interval(coefficients, table, margin=0.25):
    """Where the DCT coefficients of the original lie: k*Q - (Q/2 + margin) to k*Q + (Q/2 + margin).

    An encoder that rounds to nearest moved each coefficient by at most Q/2. The margin covers libjpeg's integer
    arithmetic, which strays from the exact DCT by up to 0.15 grey levels.

    Args:
        coefficients: integers k [..., h, w, 64], natural order.
        table: integers Q [..., 8, 8]; leading axes broadcast against those of the coefficients.
        margin: grey levels added on either side.

    Returns:
        (lower, upper), float32 [..., h, w, 64], grey levels of the orthonormal DCT of (pixels - 128).

    Raises:
        ValueError: a shape or dtype is wrong, or a step is not in 1..65535.
    """
    centre = dequantize(coefficients, table)
    reach = jnp.asarray(per_block(check_table(table)), jnp.float32) / 2 + margin
    return centre - reach, centre + reach


def _float32(array, name):
    array = jnp.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{name} has dtype {array.dtype}; expected floating point: convert with astype('float32'), "
            "and subtract 128 from pixels that are to be compared with a file's coefficients"
        )
    return array.astype(jnp.float32)


def _check_channels(shape, name):
    if len(shape) < 3 or shape[-1] != 64:
        raise ValueError(
            f"{name} has shape {shape}; expected [..., rows of blocks, columns of blocks, 64]"
        )
