"""A network for the chroma of a colour JPEG, guided by its restored luma.

    x = P(U(D⁻¹(k·Q)) + t · h(U(D⁻¹(k·Q)), Y))

U brings Cb and Cr to full size as libjpeg does. h is a few convolutions at half scale that correct
them, guided by the edges of the restored luma Y, which subsampling and quantisation removed from
chroma. t, from 0 to 1, attenuates corrections where they could do harm (`correction_gate`). P is
the DCT rectify unit of chroma: averaged over its samples, the result lies in the intervals k·Q ±
Q/2 again (`jpeg.projection.project_upsampled`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from dmcnn_jax import jpeg
from dmcnn_jax.jpeg.projection import project_upsampled
from dmcnn_jax.models.layers import (
    PReLU,
    apply_mask,
    conv,
    depth_to_space,
    near_zero_init,
    space_to_depth,
)
from dmcnn_jax.models.losses import mse
from dmcnn_jax.models.table_conditioning import encode_tables, modulate_by_table
from dmcnn_jax.models.upsampling import interpolate, repeat, upsample

TRAINED_SUBSAMPLINGS = tuple(jpeg.SUBSAMPLING_FACTORS.values())
"""Rows and columns of the picture to a chroma sample that networks are trained for: 4:4:4, 4:2:2
and 4:2:0."""

# Chroma varies about a quarter as much as luma; this factor gives layers both in one range.
_CHROMA_SCALE = 4

# Mean quantisation step of chroma from which corrections are applied in full: that of quality 40.
_COARSE_STEP = 100


class ChromaInput(flax.struct.PyTreeNode):
    """The input of a `ChromaNet`: coefficients of chroma, and the restored luma.

    Attributes:
        coefficients: k of Cb and of Cr, integers [B, 2, h, w, 64].
        guide: the restored luma, float32 [B, H, W, 1], pixels scaled to [0, 1].
    """

    coefficients: jax.Array
    guide: jax.Array

    @property
    def subsampling(self) -> tuple[int, int]:
        """Rows and columns of the picture to a chroma sample, H / 8h and W / 8w."""
        rows, columns = self.coefficients.shape[2:4]
        return self.guide.shape[1] // (8 * rows), self.guide.shape[2] // (8 * columns)


class ChromaNet(nn.Module):
    """A network that restores Cb and Cr.

    Attributes:
        features: channels of the layers, at half scale.
        dilations: dilations of the layers between the first and the last.
        margin: grey levels by which P widens intervals on both sides, since the encoder rounds both
            chroma and its averages to whole numbers.
        rectify: whether P is applied.
    """

    features: int = 32
    dilations: Sequence[int] = (1, 2, 4, 8, 2, 1)
    margin: float = 0.25
    rectify: bool = True

    @property
    def halo_pixels(self) -> int:
        """The radius of a correction's receptive field, in pixels."""
        # At half scale, layers extend it by their dilation, the first and the last by one pixel; a
        # pixel of the picture may be the farther one of its pair.
        return 2 * (sum(self.dilations) + 2) + 1

    def halo(self, subsampling: tuple[int, int]) -> tuple[int, int]:
        """Returns the radius of the receptive field, down and across, in coded blocks of chroma.

        Args:
            subsampling: rows and columns of the picture to a chroma sample.
        """
        # Upsampling adds two samples, the nearest one and its neighbour.
        down, across = (math.ceil((self.halo_pixels + 2 * s) / (8 * s)) for s in subsampling)
        return down, across

    @staticmethod
    def example_input() -> tuple[ChromaInput, jax.Array]:
        """Returns the smallest arguments of `__call__`, zeros and ones."""
        chroma = ChromaInput(jnp.zeros((1, 2, 1, 1, 64), jnp.int32), jnp.zeros((1, 16, 16, 1)))
        return chroma, jnp.ones((1, 2, 8, 8), jnp.int32)

    def __call__(
        self,
        coefficients: ChromaInput,
        table: jax.Array,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Estimates the chroma of the original at full size.

        Args:
            coefficients: k of Cb and Cr, and the restored luma.
            table: Q of Cb and of Cr, integers [B, 2, 8, 8].
            mask: bool [B, h, w, 1], true on coded blocks of chroma that belong to the image; all
                outside is zero at every layer. None: every block belongs to it.
            train: not used; training and inference are the same.

        Returns:
            "image", Cb and Cr, float32 [B, H, W, 2], scaled to [0, 1], not clipped; and "jpeg", the
            same before its correction.
        """
        del train
        subsampling = coefficients.subsampling
        base = self.upsampled_centres(coefficients, table, mask)
        x = self.layer_input(coefficients, base, mask)
        correction = self._layers(x, encode_tables(table, subsampling), subsampling, mask)
        return self.add_correction(coefficients, table, base, correction, mask)

    def upsampled_centres(
        self, coefficients: ChromaInput, table: jax.Array, mask: jax.Array | None
    ) -> jax.Array:
        """Returns the interval centres as a picture: float32 [B, H, W, 2], in [0, 1]."""
        centre = jpeg.idct(jpeg.dequantize(coefficients.coefficients, table)) / 255 + 128 / 255
        planes = jnp.moveaxis(jnp.clip(centre, 0, 1), 1, -1)
        return upsample(planes, coefficients.subsampling, mask)

    def layer_input(
        self, coefficients: ChromaInput, base: jax.Array, mask: jax.Array | None
    ) -> jax.Array:
        """Returns the input of the layers, luma and chroma: float32 [B, H/2, W/2, 12]."""
        both = jnp.concatenate([coefficients.guide - 0.5, _CHROMA_SCALE * (base - 0.5)], axis=-1)
        return apply_mask(space_to_depth(both), _half_mask(mask, coefficients.subsampling))

    def add_correction(
        self,
        coefficients: ChromaInput,
        table: jax.Array,
        base: jax.Array,
        correction: jax.Array,
        mask: jax.Array | None,
    ) -> dict[str, jax.Array]:
        """Gates, adds and rectifies the output of the layers.

        Args:
            coefficients: as in `__call__`.
            table: as in `__call__`.
            base: what `upsampled_centres` returned.
            correction: output of the layers, float32 [B, H/2, W/2, 8].
            mask: as in `__call__`.

        Returns:
            As `__call__`.
        """
        k, subsampling = coefficients.coefficients, coefficients.subsampling
        gate = correction_gate(k, table, subsampling, mask)
        image = base + gate * (depth_to_space(correction) / _CHROMA_SCALE)
        if self.rectify:
            image = project_upsampled(image, k, table, self.margin)
        return {"image": image, "jpeg": base}

    @nn.compact
    def _layers(
        self,
        x: jax.Array,
        encoding: jax.Array,
        subsampling: tuple[int, int],
        mask: jax.Array | None,
    ) -> jax.Array:
        """Runs the convolutions h, [B, H/2, W/2, 12] → [B, H/2, W/2, 8]."""
        modulated = (1, len(self.dilations) // 2 + 1)
        modulate = modulate_by_table(encoding, dict.fromkeys(modulated, self.features))
        half = _half_mask(mask, subsampling)

        def layer(i: int, x: jax.Array, dilation: int = 1) -> jax.Array:
            x = conv(self.features, dilation=dilation, name=f"conv{i}")(x)
            return apply_mask(PReLU(name=f"prelu{i}")(modulate(i, x)), half)

        x = wire_layers(x, self.dilations, layer)
        return conv(8, kernel_init=near_zero_init, name=f"conv{len(self.dilations) + 2}")(x)

    def loss(self, estimates: Mapping[str, jax.Array], original: jax.Array) -> jax.Array:
        """Returns the mean squared error of Cb and Cr, scalar; `original` is [B, H, W, 2]."""
        return mse(estimates["image"], original)

    @staticmethod
    def decode(coefficients: ChromaInput, table: jax.Array) -> jax.Array:
        """Decodes and upsamples Cb and Cr as libjpeg does: uint8 [B, H, W, 2]."""
        planes = jpeg.decode(coefficients.coefficients, table).astype(jnp.float32)
        full = upsample(jnp.moveaxis(planes, 1, -1), coefficients.subsampling)
        return jnp.round(full).astype(jnp.uint8)


def wire_layers(x: Any, dilations: Sequence[int], layer: Callable) -> Any:
    """Connects all layers but the last, for Flax and for other engines.

    Args:
        x: input of the layers, an array, or its counterpart in another engine.
        dilations: of the layers after the first.
        layer: `layer(i, x, dilation=1)`, a 3 × 3 convolution and its activation.

    Returns:
        Input of the last layer.
    """
    x = first = layer(1, x)
    for i, dilation in enumerate(dilations):
        x = layer(i + 2, x, dilation=dilation)
    return x + first


def correction_gate(
    coefficients: jax.Array,
    table: jax.Array,
    subsampling: tuple[int, int],
    mask: jax.Array | None = None,
) -> jax.Array:
    """Returns the factor of corrections, from 0 to 1.

    It is 0 where a block of chroma and its neighbours have no coefficient, so that gray pictures
    stay gray. It is small if tables are fine, since little was lost, and h, which was also trained
    on coarse tables, mistakes smooth colour over detailed luma for a loss.

    Args:
        coefficients: k, integers [B, 2, h, w, 64].
        table: Q, integers [B, 2, 8, 8].
        subsampling: rows and columns of the picture to a chroma sample.
        mask: as in `ChromaNet.__call__`.

    Returns:
        float32 [B, 8h · subsampling[0], 8w · subsampling[1], 1].
    """
    weight = near_colour(coefficients, subsampling, mask)
    mean_step = table.astype(jnp.float32).mean(axis=(1, 2, 3))
    return weight * jnp.minimum(mean_step / _COARSE_STEP, 1)[:, None, None, None]


def near_colour(
    coefficients: jax.Array, subsampling: tuple[int, int], mask: jax.Array | None = None
) -> jax.Array:
    """Returns 1 near blocks of chroma that have coefficients, and 0 far from them.

    Args:
        coefficients: k, integers [B, 2, h, w, 64].
        subsampling: rows and columns of the picture to a chroma sample.
        mask: as in `ChromaNet.__call__`.

    Returns:
        A smooth transition, 0 where a block of chroma and its neighbours have no coefficient:
        float32 [B, 8h · subsampling[0], 8w · subsampling[1], 1].
    """
    colored = (coefficients != 0).any(axis=(1, 4))[..., None].astype(jnp.float32)
    if mask is not None:
        colored *= mask
    weight = nn.max_pool(colored, (3, 3), padding="SAME")
    # From a value per block to one per pixel, smoothly: doubled until it is 8 · subsampling times
    # as large.
    for level in range(4):
        down, across = (2 if 8 * factor >= 2 << level else 1 for factor in subsampling)
        weight = interpolate(weight, (down, across), mask)
        mask = None if mask is None else repeat(mask, (down, across))
    return weight


def _half_mask(mask: jax.Array | None, subsampling: tuple[int, int]) -> jax.Array | None:
    """Brings a mask of coded blocks to the grid of half the picture's size."""
    return None if mask is None else repeat(mask, (4 * subsampling[0], 4 * subsampling[1]))
