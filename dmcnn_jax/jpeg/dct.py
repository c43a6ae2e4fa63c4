"""The orthonormal 8x8 block DCT, its inverse, and what a coefficient says of the original.

The DCT of all blocks is a convolution of the plane at stride 8 with 64 fixed 8x8 kernels, the basis
images, one channel a frequency; its inverse is the transposed convolution with the same kernels.
As the blocks do not overlap, that convolution is the same thing as a rearrangement of the plane
into blocks of 64 pixels and one 64x64 matrix product, and that is how it is computed here: on a
CPU the convolution is as fast forwards, but its gradient and its transpose take several times as
long.

Everything is float32 at the highest matrix precision, whatever the dtype of the input and the
default precision of the device: bfloat16 or TensorFloat-32 products move coefficients.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from dmcnn_jax.jpeg.tables import check_table, per_block


def _basis_images():
    """The orthonormal basis of ITU-T T.81, A.3.3: float64 [64, 8, 8], frequency, row, column."""
    frequency, position = np.mgrid[:8, :8]
    basis = np.cos((2 * position + 1) * frequency * np.pi / 16) / 2
    basis[0] /= np.sqrt(2)
    return np.einsum("vy,ux->vuyx", basis, basis).reshape(64, 8, 8)


BASIS_IMAGES = _basis_images().astype(np.float32)
BASIS_IMAGES.flags.writeable = False
_BASIS = BASIS_IMAGES.reshape(64, 64)


def dct(plane):
    """Blockwise orthonormal 8x8 DCT-II (ITU-T T.81, A.3.3).

    Args:
        plane: float [..., H, W] in any unit, H and W multiples of 8. Converted to float32.

    Returns:
        float32 coefficients [..., H/8, W/8, 64] in the unit of the plane, natural order: channel
        8*v + u, v the vertical frequency.

    Raises:
        ValueError: the plane is not floating point, or not made of whole blocks.
    """
    blocks = to_blocks(_float32(plane, "plane"))
    return jnp.matmul(blocks, _BASIS.T, precision=lax.Precision.HIGHEST)


def idct(coefficients):
    """The inverse of ``dct``.

    Args:
        coefficients: float [..., h, w, 64] in any unit. Converted to float32.

    Returns:
        float32 plane [..., 8*h, 8*w] in the same unit.

    Raises:
        ValueError: the coefficients are not floating point [..., h, w, 64].
    """
    coefficients = _float32(coefficients, "coefficients")
    check_channels(coefficients, "coefficients")
    return from_blocks(jnp.matmul(coefficients, _BASIS, precision=lax.Precision.HIGHEST))


def to_blocks(plane):
    """Cuts a plane [..., H, W] into 8x8 blocks [..., H/8, W/8, 64], each row by row. Any dtype.

    Raises:
        ValueError: H or W is not a multiple of 8.
    """
    if plane.ndim < 2 or plane.shape[-2] % 8 or plane.shape[-1] % 8:
        raise ValueError(
            f"plane has shape {plane.shape}; expected [..., H, W] with H and W multiples of 8:"
            " pad it to whole blocks first"
        )
    *lead, height, width = plane.shape
    blocks = plane.reshape(*lead, height // 8, 8, width // 8, 8).swapaxes(-3, -2)
    return blocks.reshape(*lead, height // 8, width // 8, 64)


def from_blocks(blocks):
    """Puts blocks [..., h, w, 64] together to a plane [..., 8*h, 8*w]. Any dtype.

    Raises:
        ValueError: the last axis is not 64 long.
    """
    check_channels(blocks, "blocks")
    *lead, rows, columns, _ = blocks.shape
    plane = blocks.reshape(*lead, rows, columns, 8, 8).swapaxes(-3, -2)
    return plane.reshape(*lead, rows * 8, columns * 8)


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
    check_channels(coefficients, "coefficients")
    if not jnp.issubdtype(coefficients.dtype, jnp.integer):
        raise ValueError(
            f"coefficients have dtype {coefficients.dtype}; expected the integers that a JPEG file"
            " holds, before the multiplication by the table"
        )
    return jnp.asarray(coefficients, jnp.float32) * jnp.asarray(per_block(table), jnp.float32)


def interval(coefficients, table, margin=0.25):
    """Where the DCT of the original lies: k*Q - (Q/2 + margin) to k*Q + (Q/2 + margin).

    An encoder that rounds to nearest moves a coefficient by at most Q/2. The margin covers
    libjpeg's integer arithmetic, which strays from the exact DCT by up to 0.15 grey levels.

    Args:
        coefficients: integers k [..., h, w, 64], natural order.
        table: integers Q [..., 8, 8]; leading axes broadcast against those of the coefficients.
        margin: grey levels added at either end.

    Returns:
        (lower, upper), each float32 [..., h, w, 64], grey levels of the orthonormal DCT of
        (pixels - 128).

    Raises:
        ValueError: a shape or dtype is wrong, or a step is not in 1..65535.
    """
    table = check_table(table)
    centre = dequantize(coefficients, table)
    reach = jnp.asarray(per_block(table), jnp.float32) / 2 + margin
    return centre - reach, centre + reach


def check_channels(array, name):
    """Raises ValueError unless the array is [..., rows of blocks, columns of blocks, 64]."""
    if array.ndim < 3 or array.shape[-1] != 64:
        raise ValueError(
            f"{name} of shape {array.shape}; expected [..., rows of blocks, columns of blocks, 64]"
        )


def _float32(array, name):
    array = jnp.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{name} of dtype {array.dtype}; expected floating point: convert with"
            " astype('float32') (and subtract 128 from pixels to compare with a file's"
            " coefficients)"
        )
    return array.astype(jnp.float32)
