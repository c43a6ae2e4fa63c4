"""libjpeg's lossy half as integer JAX, bit for bit: pixels -> quantised coefficients -> pixels.

libjpeg's default ("islow") encoder and decoder compute this for one component, and so do Pillow,
OpenCV and TensorFlow (``INTEGER_ACCURATE``). Entropy coding, which is lossless, is left out.

libjpeg factors its 8-point DCT as Loeffler, Ligtenberg and Moschytz do (*Practical fast 1-D DCT
algorithms with 11 multiplications*, ICASSP 1989), with constants rounded to 13 bits, along the rows
and then along the columns. Within such a pass nothing is rounded before the shift at its end. So,
however it is factored, each pass is exactly an integer 8x8 matrix and a rounding shift: small
matrix products, which compilers optimise well. The factored form is needed only to add up the
rounded constants. 32 bits suffice for everything.

Blocks are independent, so compressing commutes with cropping at multiples of 8.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dmcnn_jax.jpeg.dct import check_channels, from_blocks, to_blocks
from dmcnn_jax.jpeg.tables import Array, check_table, per_block


def encode(plane: ArrayLike, table: ArrayLike) -> jax.Array:
    """Computes the quantised DCT coefficients that the JPEG file of a plane holds.

    Args:
        plane: uint8 [..., H, W], levels 0..255, of any size: the last column and row are repeated
            to whole blocks, as libjpeg does.
        table: integers [..., 8, 8] from 1 to 65535, natural order; leading axes broadcast against
            those of the plane, so that each image of a batch can have its own.

    Returns:
        int32 coefficients [..., ceil(H/8), ceil(W/8), 64], natural order.

    Raises:
        ValueError: the plane is not uint8 or has no pixels; the table is not a table of such
            quantisation steps, or does not broadcast.
    """
    plane, table = _check_plane(plane), check_table(table)
    _check_broadcast(plane.shape[:-2], table.shape[:-2])
    height, width = plane.shape[-2:]
    if height % 8 or width % 8:
        whole = [(0, 0)] * (plane.ndim - 2) + [(0, -height % 8), (0, -width % 8)]
        plane = jnp.pad(plane, whole, mode="edge")
    pixels = _split(to_blocks(plane).astype(jnp.int32) - 128)  # [..., H/8, W/8, 8, 8]
    rows = _shift(jnp.einsum("...yx,ux->...yu", pixels, _DCT), 11)
    columns = _shift(jnp.einsum("...yu,vy->...vu", rows, _DCT), 15)
    return _quantize(_join(columns), per_block(table))


def decode(coefficients: ArrayLike, table: ArrayLike) -> jax.Array:
    """Computes the pixels that libjpeg decodes from quantised DCT coefficients.

    Exact to the last bit for all coefficients that an encoder computes from pixels with
    quantisation steps up to 800, and whenever the products with the table add up to at most 2900 in
    each column of a block. Beyond these limits, in crafted files, libjpeg's builds disagree; here,
    intermediate values saturate at 16 bits.

    Args:
        coefficients: integers [..., h, w, 64] within 16 bits, natural order.
        table: integers [..., 8, 8] from 1 to 65535, natural order; leading axes broadcast against
            those of the coefficients.

    Returns:
        uint8 plane [..., 8*h, 8*w], whole blocks: an image of another size is its top left part.

    Raises:
        ValueError: the coefficients are not integers [..., h, w, 64]; the table is not a table of
            such quantisation steps, or does not broadcast.
    """
    coefficients, table = _check_coefficients(coefficients), check_table(table)
    _check_broadcast(coefficients.shape[:-3], table.shape[:-2])
    levels = coefficients.astype(jnp.int32) * jnp.asarray(per_block(table), jnp.int32)
    levels = _split(_saturate(levels))  # [..., h, w, 8, 8]
    columns = _saturate(_shift(jnp.einsum("...vu,vy->...yu", levels, _DCT), 11))
    pixels = _shift(jnp.einsum("...yu,ux->...yx", columns, _DCT), 18) + 128
    return from_blocks(_join(jnp.clip(pixels, 0, 255).astype(jnp.uint8)))


def roundtrip(plane: ArrayLike, table: ArrayLike) -> jax.Array:
    """Compresses and decodes a plane: returns the pixels of the decoded file.

    Args:
        plane: uint8 [..., H, W], levels 0..255, of any size.
        table: integers [..., 8, 8] from 1 to 65535, natural order; leading axes broadcast against
            those of the plane, so that each image of a batch can have its own.

    Returns:
        uint8 [..., H, W].

    Raises:
        ValueError: the plane is not uint8 or has no pixels; the table is not a table of such
            quantisation steps, or does not broadcast.
    """
    plane = _check_plane(plane)
    height, width = plane.shape[-2:]
    return decode(encode(plane, table), table)[..., :height, :width]


def simulate(plane: ArrayLike, table: ArrayLike) -> jax.Array:
    """Applies JPEG as a layer: the values of ``roundtrip``, with a straight-through gradient.

    The plane is clipped to 0..255 and rounded to whole levels first, as for storage. The derivative
    is that of the clipping alone, as if all rounding were the identity: 1 for values from 0 to 255,
    both included, and 0 outside.

    Args:
        plane: float [..., H, W], levels 0..255, of any size.
        table: integers [..., 8, 8] from 1 to 65535, natural order; leading axes broadcast against
            those of the plane.

    Returns:
        float32 [..., H, W], whole levels 0..255.

    Raises:
        ValueError: the plane is not floating point or has no pixels; the table is not a table of
            such quantisation steps, or does not broadcast.
    """
    plane = jnp.asarray(plane)
    if not jnp.issubdtype(plane.dtype, jnp.floating):
        raise ValueError(
            f"plane has dtype {plane.dtype}; expected floating point levels 0..255: for integers"
            " there is no gradient to pass on, call roundtrip"
        )
    return _straight_through(plane, check_table(table))


@jax.custom_jvp
def _straight_through(plane: jax.Array, table: Array) -> jax.Array:
    levels = jnp.round(jnp.clip(plane, 0, 255)).astype(jnp.uint8)
    return roundtrip(levels, table).astype(jnp.float32)


@_straight_through.defjvp
def _straight_through_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    plane, table = primals
    inside = (plane >= 0) & (plane <= 255)
    tangent = jnp.where(inside, tangents[0], 0).astype(jnp.float32)
    return _straight_through(plane, table), tangent


def _factored_dct(x: np.ndarray) -> list[np.ndarray]:
    """Computes the 8-point DCT as libjpeg factors it, scaled by 8192 * sqrt(8), unshifted."""

    def fix(value: float) -> int:
        return round(value * 8192)

    # The even frequencies, from sums of mirrored samples.
    s0, s1, s2, s3 = (x[i] + x[7 - i] for i in range(4))
    rotated = ((s0 - s3) + (s1 - s2)) * fix(0.541196100)
    y0 = (s0 + s3 + s1 + s2) * 8192
    y4 = (s0 + s3 - s1 - s2) * 8192
    y2 = rotated + (s0 - s3) * fix(0.765366865)
    y6 = rotated - (s1 - s2) * fix(1.847759065)

    # The odd frequencies, from differences.
    d0, d1, d2, d3 = (x[i] - x[7 - i] for i in range(4))
    common = (d0 + d1 + d2 + d3) * fix(1.175875602)
    d03 = -(d0 + d3) * fix(0.899976223)
    d12 = -(d1 + d2) * fix(2.562915447)
    d13 = -(d1 + d3) * fix(1.961570560) + common
    d02 = -(d0 + d2) * fix(0.390180644) + common
    y1 = d0 * fix(1.501321110) + d03 + d02
    y3 = d1 * fix(3.072711026) + d12 + d13
    y5 = d2 * fix(2.053119869) + d12 + d02
    y7 = d3 * fix(0.298631336) + d03 + d13
    return [y0, y1, y2, y3, y4, y5, y6, y7]


# int32 [8, 8]: frequency, position. libjpeg's inverse is its transpose, rounded constants included.
_DCT = np.stack(_factored_dct(np.eye(8, dtype=np.int32)))


def _shift(values: jax.Array, bits: int) -> jax.Array:
    """Divides by 2**bits, halves rounded up."""
    return (values + (1 << (bits - 1))) >> bits


def _saturate(values: jax.Array) -> jax.Array:
    """Clips to 16 bits, as libjpeg-turbo's vector code does, so that later sums fit in 32."""
    return jnp.clip(values, -(1 << 15), (1 << 15) - 1)


def _quantize(scaled: jax.Array, table: Array) -> jax.Array:
    """Rounds scaled / (8 * table) to nearest, halves away from zero.

    ``scaled`` are coefficients times 8, as the forward transform leaves them. Integer division is
    slow, and a float32 reciprocal is exact here: |scaled| + 4 * table is below 2**19, and the half
    unit added to it keeps the quotient at least 1 / (16 * table) away from every integer, more than
    the error of float32.
    """
    divisor = jnp.asarray(table, jnp.float32)
    scaled = scaled.astype(jnp.float32)
    towards_zero = (scaled + jnp.copysign(4 * divisor + 0.5, scaled)) * (1 / (8 * divisor))
    return towards_zero.astype(jnp.int32)


def _split(blocks: jax.Array) -> jax.Array:
    return blocks.reshape(*blocks.shape[:-1], 8, 8)


def _join(blocks: jax.Array) -> jax.Array:
    return blocks.reshape(*blocks.shape[:-2], 64)


def _check_plane(values: ArrayLike) -> jax.Array:
    plane = jnp.asarray(values)
    if plane.dtype != jnp.uint8:
        raise ValueError(
            f"plane has dtype {plane.dtype}; expected uint8 levels 0..255: round and clip first,"
            " or call simulate"
        )
    if plane.ndim < 2 or 0 in plane.shape[-2:]:
        raise ValueError(
            f"plane has shape {plane.shape}; expected [..., H, W] with at least one pixel"
        )
    return plane


def _check_coefficients(values: ArrayLike) -> jax.Array:
    coefficients = jnp.asarray(values)
    if not jnp.issubdtype(coefficients.dtype, jnp.integer):
        raise ValueError(
            f"coefficients have dtype {coefficients.dtype}; expected the integers that a JPEG file"
            " holds, before the multiplication by the table"
        )
    check_channels(coefficients, "coefficients")
    return coefficients


def _check_broadcast(images: tuple[int, ...], tables: tuple[int, ...]) -> None:
    """Checks leading axes: there may be fewer tables than images, never more."""
    pairs = zip(reversed(tables), reversed(images), strict=False)
    if len(tables) > len(images) or any(table not in (1, image) for table, image in pairs):
        raise ValueError(
            f"tables of shape {(*tables, 8, 8)} do not fit images with leading axes {images};"
            " expected one table [8, 8] for all, or one for each image"
        )
