"""The input of the network for photographs: coefficients, planes, and features made of both."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from dmcnn_jax import jpeg
from dmcnn_jax.models.layers import apply_mask, depth_to_space, mask_to_scale, space_to_depth
from dmcnn_jax.models.table_conditioning import encode_tables
from dmcnn_jax.models.upsampling import upsample

HALF, QUARTER, EIGHTH = 4, 2, 1
"""Side of a block of 8 × 8 pixels at half, quarter and eighth scale, in cells."""

# Chroma varies about a quarter as much as luma; scaled by this, layers see both in one range.
_CHROMA_SCALE = 4


class PhotoInput(flax.struct.PyTreeNode):
    """The input of a `PhotoNet`: the coefficients of a colour JPEG.

    A gray file is one whose chroma has no coefficients: it then stays gray.

    Attributes:
        luma: k of Y, integers [B, h, w, 64].
        chroma: k of Cb and Cr, integers [B, 2, h / s, w / t, 64].
    """

    luma: jax.Array
    chroma: jax.Array

    @property
    def subsampling(self) -> tuple[int, int]:
        """Rows and columns of the picture to a chroma sample, (s, t)."""
        rows, columns = self.chroma.shape[2:4]
        return self.luma.shape[1] // rows, self.luma.shape[2] // columns


def decode_planes(
    coefficients: PhotoInput, table: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Decodes Y, Cb and Cr without rounding, chroma upsampled as libjpeg does.

    Args:
        coefficients: k of Y, Cb and Cr.
        table: Q of Y, Cb and Cr, integers [B, 3, 8, 8].
        mask: as in `PhotoNet.__call__`.

    Returns:
        float32 [B, H, W, 3], in [0, 1].
    """

    def plane(k: jax.Array, q: jax.Array) -> jax.Array:
        return jnp.clip(jpeg.idct(jpeg.dequantize(k, q)) / 255 + 128 / 255, 0, 1)

    chroma = jnp.moveaxis(plane(coefficients.chroma, table[:, 1:]), 1, -1)
    full = upsample(chroma, coefficients.subsampling, chroma_mask(mask, coefficients))
    return jnp.concatenate([plane(coefficients.luma, table[:, 0])[..., None], full], axis=-1)


def layer_input(
    base: jax.Array, luma: jax.Array, table: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Returns the input of the layers: the planes, and how luma was changed by its network.

    Args:
        base: what `decode_planes` returned, [B, H, W, 3].
        luma: as in `PhotoNet.restore_from_luma`, [B, H, W, 1].
        table: Q of Y, Cb and Cr, integers [B, 3, 8, 8].
        mask: as in `PhotoNet.__call__`.

    Returns:
        float32 [B, H/2, W/2, 17].
    """
    scales = jnp.array([1, _CHROMA_SCALE, _CHROMA_SCALE], jnp.float32)
    change = (luma - base[..., :1]) / expected_errors(table)[..., :1]
    x = space_to_depth(jnp.concatenate([scales * (base - 0.5), change], axis=-1))
    x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
    # The last channel is 1 inside of the picture and 0 outside, where the others are gray.
    return apply_mask(x, mask_to_scale(mask, HALF))


def coefficient_features(
    coefficients: PhotoInput, table: jax.Array, width: int, layer: Callable
) -> jax.Array:
    """Maps the coefficients of all planes to features at an eighth, a cell a block of luma.

    Args:
        coefficients: k of Y, Cb and Cr.
        table: Q of Y, Cb and Cr, integers [B, 3, 8, 8].
        width: channels of the result.
        layer: `layer(name, channels, x)`, a 1 × 1 convolution.

    Returns:
        [B, h, w, width].
    """
    luma = _compress(coefficients.luma, table[:, 0])
    x = layer("luma_coefficients", width, luma)
    both = [_compress(coefficients.chroma[:, i], table[:, 1 + i]) for i in range(2)]
    quarters = layer("chroma_coefficients", 4 * width, jnp.concatenate(both, axis=-1))
    return x + _spread(quarters, coefficients.subsampling)


def encode_input(table: jax.Array, subsampling: tuple[int, int]) -> jax.Array:
    """Encodes the tables of Y, Cb and Cr and the subsampling: float32 [B, 3 · 66]."""
    return encode_tables(table, subsampling).reshape(table.shape[0], -1)


def expected_errors(table: jax.Array) -> jax.Array:
    """Returns the scale of the network's output, [B, 1, 1, 3], so that it suits every quality.

    From quality 10 to 97 the errors of luma have a root mean square of 0.64 to 0.76 · √(mean of Q)
    grey levels in photographs, and those of chroma about half of that.
    """
    roots = jnp.sqrt(table.astype(jnp.float32).mean(axis=(2, 3))) / 255
    return (roots * jnp.array([1, 0.5, 0.5], jnp.float32))[:, None, None]


def chroma_mask(mask: jax.Array | None, coefficients: PhotoInput) -> jax.Array | None:
    """Brings a mask of blocks of luma to those of chroma that reach into the image."""
    if mask is None:
        return None
    batch, height, width, _ = mask.shape
    down, across = coefficients.subsampling
    cells = mask.reshape(batch, height // down, down, width // across, across, 1)
    return cells.any(axis=(2, 4))


def _compress(coefficients: jax.Array, table: jax.Array) -> jax.Array:
    """Brings k to a range that suits every quality: asinh of AC, DC in units of 256 levels."""
    steps = table.reshape(-1, 1, 1, 64)
    dc = coefficients[..., :1] * steps[..., :1] / 256
    return jnp.concatenate([dc, jnp.arcsinh(coefficients[..., 1:].astype(jnp.float32))], axis=-1)


def _spread(quarters: jax.Array, subsampling: tuple[int, int]) -> jax.Array:
    """Brings features of blocks of chroma to the blocks of luma that they cover.

    Args:
        quarters: features of the four quarters of each block, [B, h, w, 4C].
        subsampling: rows and columns of the picture to a chroma sample, 1 or 2 each.

    Returns:
        [B, h · subsampling[0], w · subsampling[1], C]; of a block of luma that covers more than a
        quarter, the mean of its quarters.
    """
    fine = depth_to_space(quarters)
    batch, height, width, channels = fine.shape
    down, across = (2 // factor for factor in subsampling)
    cells = fine.reshape(batch, height // down, down, width // across, across, channels)
    return cells.mean(axis=(2, 4))
