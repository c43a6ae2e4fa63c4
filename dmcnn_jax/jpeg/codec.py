"""libjpeg's lossy half as integer JAX, bit for bit: pixels -> quantised coefficients -> pixels.

This is what libjpeg's default ("islow") encoder and decoder compute for one component, so what Pillow, OpenCV and TensorFlow
(``INTEGER_ACCURATE``) write and read, without the entropy coding, which loses nothing.

libjpeg factors its 8-point DCT as Loeffler, Ligtenberg and Moschytz do (*Practical fast 1-D DCT algorithms with 11
multiplications*, ICASSP 1989), with constants rounded to 13 bits, once along the rows and once along the columns. The
factored form matters only because the constants are rounded: within a pass, sums of integers are exact, and the one rounding
is the shift at its end. So each pass is an integer 8x8 matrix, found by putting unit vectors through the factored form, and
a rounding shift. Products of small integer matrices are what compilers do well.

Everything fits in 32 bits. Blocks are independent, so cropping at multiples of 8 and compressing commute.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax.jpeg.dct import from_blocks, to_blocks
from dmcnn_jax.jpeg.tables import check_table, per_block


def encode(plane, table):
    """The quantised DCT coefficients that a JPEG file of this plane holds.

    Args:
        plane: uint8 [..., H, W], levels 0..255. Where H or W is not a multiple of 8, the last row or column is repeated to
            whole blocks, as libjpeg does.
        table: integers [..., 8, 8] from 1 to 65535, natural order; leading axes broadcast against those of the plane.

    Returns:
        int32 coefficients [..., ceil(H/8), ceil(W/8), 64], natural order.

    Raises:
        ValueError: the plane is not uint8 or has no pixels, or the table is no table or does not broadcast.
    """
    plane, table = _check_plane(plane), check_table(table)
    _check_broadcast(plane.shape[:-2], table.shape[:-2])
    height, width = plane.shape[-2:]
    padding = [(0, 0)] * (plane.ndim - 2) + [(0, -height % 8), (0, -width % 8)]
    if height % 8 or width % 8:
        plane = jnp.pad(plane, padding, mode="edge")
    pixels = _split(to_blocks(plane).astype(jnp.int32) - 128)
    rows = _descale(jnp.einsum("...yx,ux->...yu", pixels, _FORWARD), 11)
    columns = _descale(jnp.einsum("...yu,vy->...vu", rows, _FORWARD), 15)
    return _quantize(_join(columns), per_block(table))


def decode(coefficients, table):
    """The pixels that libjpeg decodes from quantised DCT coefficients.

    Args:
        coefficients: integers [..., h, w, 64] within 16 bits, natural order.
        table: integers [..., 8, 8] from 1 to 65535, natural order; leading axes broadcast against those of the coefficients.

    Returns:
        uint8 plane [..., 8*h, 8*w]: whole blocks. An image whose size is not a multiple of 8 is its top left corner.

    Raises:
        ValueError: the coefficients are not integers [..., h, w, 64], or the table is no table or does not broadcast.
    """
    coefficients, table = _check_coefficients(coefficients), check_table(table)
    _check_broadcast(coefficients.shape[:-3], table.shape[:-2])
    # Saturation to 16 bits is what libjpeg-turbo's vector code does between the passes. No encoder's output comes near.
    values = _saturate(coefficients.astype(jnp.int32) * jnp.asarray(per_block(table), jnp.int32))
    columns = _saturate(_descale(jnp.einsum("...vu,vy->...yu", _split(values), _FORWARD), 11))
    pixels = _descale(jnp.einsum("...yu,ux->...yx", columns, _FORWARD), 18) + 128
    return from_blocks(_join(jnp.clip(pixels, 0, 255).astype(jnp.uint8)))


def roundtrip(plane, table):
    """What JPEG makes of a plane: the pixels of the decoded file.

    Args:
        plane: uint8 [..., H, W], levels 0..255, of any size.
        table: integers [..., 8, 8] from 1 to 65535, natural order; leading axes broadcast against those of the plane, so
            that every image of a batch can have its own.

    Returns:
        uint8 [..., H, W].

    Raises:
        ValueError: the plane is not uint8 or has no pixels, or the table is no table or does not broadcast.
    """
    plane = _check_plane(plane)
    height, width = plane.shape[-2:]
    return decode(encode(plane, table), table)[..., :height, :width]


def simulate(plane, table):
    """JPEG as a layer: the values of ``roundtrip``, with a straight-through gradient.

    The plane is clipped to 0..255 and rounded to whole levels first, as for storage. The derivative is that of the clipping
    alone: 1 for values in 0..255 and 0 outside, as if rounding, in pixels and in coefficients, were the identity.

    Args:
        plane: float [..., H, W], levels 0..255, of any size.
        table: integers [..., 8, 8] from 1 to 65535; leading axes broadcast against those of the plane.

    Returns:
        float32 [..., H, W], whole levels 0..255.

    Raises:
        ValueError: the plane is not floating point or has no pixels, or the table is no table or does not broadcast.
    """
    plane = jnp.asarray(plane)
    if not jnp.issubdtype(plane.dtype, jnp.floating):
        raise ValueError(
            f"plane has dtype {plane.dtype}; simulate takes floating point levels 0..255: for uint8 call roundtrip"
        )
    return _straight_through(plane, check_table(table))


@jax.custom_jvp
def _straight_through(plane, table):
    levels = jnp.round(jnp.clip(plane, 0, 255)).astype(jnp.uint8)
    return roundtrip(levels, table).astype(jnp.float32)


@_straight_through.defjvp
def _straight_through_jvp(primals, tangents):
    plane, table = primals
    inside = (plane >= 0) & (plane <= 255)
    return _straight_through(plane, table), jnp.where(inside, tangents[0], 0).astype(jnp.float32)


def _factored_dct(x):
    """libjpeg's 8-point forward DCT before its final shift: eight integer arrays in, eight out, scaled by 8192*sqrt(8)."""

    def fix(value):
        return round(value * 8192)

    sums = [x[i] + x[7 - i] for i in range(4)]
    differences = [x[3 - i] - x[4 + i] for i in range(4)]  # innermost pair first

    even = [sums[0] + sums[3], sums[1] + sums[2], sums[1] - sums[2], sums[0] - sums[3]]
    rotation = (even[2] + even[3]) * fix(0.541196100)
    y0 = (even[0] + even[1]) * 8192
    y4 = (even[0] - even[1]) * 8192
    y2 = rotation + even[3] * fix(0.765366865)
    y6 = rotation - even[2] * fix(1.847759065)

    a, b, c, d = differences
    shared = (a + c + b + d) * fix(1.175875602)
    ad = (a + d) * -fix(0.899976223)
    bc = (b + c) * -fix(2.562915447)
    ac = (a + c) * -fix(1.961570560) + shared
    bd = (b + d) * -fix(0.390180644) + shared
    y7 = a * fix(0.298631336) + ad + ac
    y5 = b * fix(2.053119869) + bc + bd
    y3 = c * fix(3.072711026) + bc + ac
    y1 = d * fix(1.501321110) + ad + bd
    return [y0, y1, y2, y3, y4, y5, y6, y7]


# [8, 8]: frequency, position. The factored inverse is the transpose of the factored forward transform, constants included.
_FORWARD = np.stack(_factored_dct(list(np.eye(8, dtype=np.int32)))).astype(np.int32)


def _descale(values, bits):
    """Division by 2**bits, rounding half up."""
    return (values + (1 << (bits - 1))) >> bits


def _quantize(scaled, table):
    """Rounds scaled / (8*table) half away from zero; ``scaled`` are coefficients times 8, as libjpeg's transform leaves them.

    Integers divide slowly. Here |scaled| + 4*table < 2**19, and half a unit added to it keeps the quotient at least
    1/(16*table) from the next integer, so truncating a float32 product with the reciprocal is exact, to spare.
    """
    step = jnp.asarray(table, jnp.float32)
    values = scaled.astype(jnp.float32)
    return ((values + jnp.copysign(4 * step + 0.5, values)) * (1 / (8 * step))).astype(jnp.int32)


def _saturate(values):
    return jnp.clip(values, -(1 << 15), (1 << 15) - 1)


def _split(blocks):
    return blocks.reshape(*blocks.shape[:-1], 8, 8)


def _join(blocks):
    return blocks.reshape(*blocks.shape[:-2], 64)


def _check_plane(plane):
    plane = jnp.asarray(plane)
    if plane.dtype != jnp.uint8:
        raise ValueError(
            f"plane has dtype {plane.dtype}; expected uint8 levels 0..255: round and clip first, or call simulate"
        )
    if plane.ndim < 2 or 0 in plane.shape[-2:]:
        raise ValueError(
            f"plane has shape {plane.shape}; expected [..., H, W] with at least one pixel"
        )
    return plane


def _check_coefficients(coefficients):
    coefficients = jnp.asarray(coefficients)
    if not jnp.issubdtype(coefficients.dtype, jnp.integer):
        raise ValueError(
            f"coefficients have dtype {coefficients.dtype}; expected the integers k that a JPEG file holds, "
            "before the multiplication by the table"
        )
    if coefficients.ndim < 3 or coefficients.shape[-1] != 64:
        raise ValueError(
            f"coefficients have shape {coefficients.shape}; expected [..., rows of blocks, columns of blocks, 64]"
        )
    return coefficients


def _check_broadcast(images, tables):
    """Tables may be fewer than images, never more: the result has the leading axes of the images."""
    if len(tables) > len(images) or any(
        t not in (1, n) for t, n in zip(reversed(tables), reversed(images), strict=False)
    ):
        raise ValueError(
            f"tables with leading axes {tables} do not broadcast against images with leading axes {images}; "
            "expected one table [8, 8] for all, or one for each image [..., 8, 8]"
        )
