"""The orthonormal 8x8 block DCT, its inverse, and the interval of a quantised coefficient.

The DCT of all blocks is a convolution of the plane at stride 8 with 64 fixed 8x8 kernels, the basis
images, one channel for each frequency; its inverse is the transposed convolution with the same
kernels. Since blocks do not overlap, that convolution equals a rearrangement of the plane into
blocks of 64 pixels and one 64x64 matrix product. It is computed in this way because on a CPU the
convolution's gradient and transpose take several times as long, though the convolution itself is as
fast.

Everything is float32 at the highest matrix precision, whatever the dtype of the input and the
default precision of the device: bfloat16 or TensorFloat-32 products move coefficients.
"""

from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from dmcnn_jax.jpeg.tables import Array, check_table, per_block


def _basis_images() -> np.ndarray:
    """Returns the orthonormal basis (T.81, A.3.3): float64 [64, 8, 8], frequency, row, column."""
    frequency, position = np.mgrid[:8, :8]
    basis = np.cos((2 * position + 1) * frequency * np.pi / 16) / 2
    basis[0] /= np.sqrt(2)
    return np.einsum("vy,ux->vuyx", basis, basis).reshape(64, 8, 8)


BASIS_IMAGES = _basis_images().astype(np.float32)
BASIS_IMAGES.flags.writeable = False
_BASIS = BASIS_IMAGES.reshape(64, 64)


def dct(plane: ArrayLike) -> jax.Array:
    """Computes the blockwise orthonormal 8x8 DCT-II (ITU-T T.81, A.3.3).

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


def idct(coefficients: ArrayLike) -> jax.Array:
    """Inverts ``dct``.

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


@overload
def to_blocks(plane: np.ndarray) -> np.ndarray: ...
@overload
def to_blocks(plane: jax.Array) -> jax.Array: ...


def to_blocks(plane: Array) -> Array:
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


@overload
def from_blocks(blocks: np.ndarray) -> np.ndarray: ...
@overload
def from_blocks(blocks: jax.Array) -> jax.Array: ...


def from_blocks(blocks: Array) -> Array:
    """Assembles blocks [..., h, w, 64] to a plane [..., 8*h, 8*w]. Any dtype.

    Raises:
        ValueError: the last axis is not 64 long.
    """
    check_channels(blocks, "blocks")
    *lead, rows, columns, _ = blocks.shape
    plane = blocks.reshape(*lead, rows, columns, 8, 8).swapaxes(-3, -2)
    return plane.reshape(*lead, rows * 8, columns * 8)


def dequantize(coefficients: Array, table: ArrayLike) -> jax.Array:
    """Multiplies quantised coefficients by their table: k*Q.

    Args:
        coefficients: integers k [..., h, w, 64], natural order.
        table: integers Q [..., 8, 8]; leading axes broadcast against those of the coefficients.

    Returns:
        float32 [..., h, w, 64], grey levels of the orthonormal DCT of (pixels - 128).

    Raises:
        ValueError: a shape or dtype is wrong, or a quantisation step is not in
            1..65535.
    """
    table = check_table(table)
    check_channels(coefficients, "coefficients")
    if not jnp.issubdtype(coefficients.dtype, jnp.integer):
        raise ValueError(
            f"coefficients have dtype {coefficients.dtype}; expected the integers that a JPEG file"
            " holds, before the multiplication by the table"
        )
    return jnp.asarray(coefficients, jnp.float32) * jnp.asarray(per_block(table), jnp.float32)


def block_coefficients(plane: np.ndarray) -> np.ndarray:
    """Transforms the blocks of a plane, or a part of one, by NumPy: the inverse of decoding.

    Args:
        plane: [8h, 8w], levels.

    Returns:
        floating point [h · w, 64], natural order, not quantised.
    """
    return (to_blocks(plane).reshape(-1, 64) - 128) @ _BASIS.T


def decode_unrounded(coefficients: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Decodes a plane, or a part of one, without rounding or clipping; by NumPy.

    Args:
        coefficients: k, integers [h, w, 64], natural order.
        table: Q, numbers [64], natural order.

    Returns:
        float32 [8h, 8w], levels.
    """
    x = coefficients.reshape(-1, 64) * table.astype(np.float32)
    blocks = (x.astype(np.float32) @ _BASIS + 128).reshape(*coefficients.shape[:2], 64)
    return from_blocks(blocks)


def interval(
    coefficients: Array, table: ArrayLike, margin: float = 0.25
) -> tuple[jax.Array, jax.Array]:
    """Bounds the DCT of the original: k*Q - (Q/2 + margin) to k*Q + (Q/2 + margin).

    An encoder that rounds to nearest moves a coefficient by at most Q/2. The margin covers
    libjpeg's integer arithmetic, which differs from the exact DCT by up to 0.15 grey levels.

    Args:
        coefficients: integers k [..., h, w, 64], natural order.
        table: integers Q [..., 8, 8]; leading axes broadcast against those of the coefficients.
        margin: grey levels added at both ends.

    Returns:
        (lower, upper), each float32 [..., h, w, 64], grey levels of the orthonormal DCT of
        (pixels - 128).

    Raises:
        ValueError: a shape or dtype is wrong, or a quantisation step is not in
            1..65535.
    """
    table = check_table(table)
    centre = dequantize(coefficients, table)
    reach = jnp.asarray(per_block(table), jnp.float32) / 2 + margin
    return centre - reach, centre + reach


def check_channels(array: Array, name: str) -> None:
    """Raises ValueError unless the array is [..., rows of blocks, columns of blocks, 64]."""
    if array.ndim < 3 or array.shape[-1] != 64:
        raise ValueError(
            f"{name} of shape {array.shape}; expected [..., rows of blocks, columns of blocks, 64]"
        )


def _float32(values: ArrayLike, name: str) -> jax.Array:
    array = jnp.asarray(values)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{name} of dtype {array.dtype}; expected floating point: convert with"
            " astype('float32') (and subtract 128 from pixels to compare with a file's"
            " coefficients)"
        )
    return array.astype(jnp.float32)
