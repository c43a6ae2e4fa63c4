"""A network for the chroma of a colour JPEG, guided by its restored luma.

    x = P(U(D⁻¹(k·Q)) + t · h(U(D⁻¹(k·Q)), Y))

Cb and Cr are brought to full size as libjpeg does (U), and h, a few convolutions at half scale,
corrects them there, where the restored luma Y shows the edges that subsampling and quantisation
took from chroma. t, from 0 to 1, says how far h is trusted (`trust`). P is the DRU of chroma, on
its own plane: what was k·Q ± Q/2 when the encoder averaged chroma over its samples has to be so
again. The nearest such picture differs by the same in all pixels of a sample, so that P averages,
clips coefficients to their intervals, and repeats the difference.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from dmcnn_jax import jpeg
from dmcnn_jax.models.layers import (
    PReLU,
    apply_mask,
    conv,
    extend,
    near_zero_init,
)
from dmcnn_jax.models.losses import mse

STEPS = ((1, 1), (1, 2), (2, 2))
"""Rows and columns of the picture to a chroma sample, for which there is training: 4:4:4, 4:2:2
and 4:2:0."""


# Chroma varies about a quarter as much as luma: layers see both alike, and answer likewise.
_UNITS = 4


class ChromaInput(flax.struct.PyTreeNode):
    """What a file holds of chroma, and the luma that guides.

    How much chroma is subsampled follows from the sizes: by H / 8h rows and W / 8w columns.

    Attributes:
        coefficients: k of Cb and of Cr, integers [B, 2, h, w, 64].
        guide: the restored luma, float32 [B, H, W, 1], pixels scaled to [0, 1].
    """

    coefficients: jax.Array
    guide: jax.Array

    @property
    def step(self) -> tuple[int, int]:
        """Rows and columns of the picture to a chroma sample."""
        rows, columns = self.coefficients.shape[2:4]
        return self.guide.shape[1] // (8 * rows), self.guide.shape[2] // (8 * columns)


class ChromaNet(nn.Module):
    """The network.

    Attributes:
        features: channels of the layers, at half scale.
        dilations: of the layers between the first and the last.
        margin: what intervals are widened by on both sides in P, grey levels: the encoder's
            average is of whole numbers, and a whole number.
        rectify: whether there is P.
    """

    features: int = 32
    dilations: Sequence[int] = (1, 2, 4, 8, 2, 1)
    margin: float = 0.25
    rectify: bool = True

    @property
    def reach(self) -> int:
        """How far a correction sees, pixels: two for each step at half scale, and its alignment."""
        return 2 * (sum(self.dilations) + 2) + 1

    def halo(self, step: tuple[int, int]) -> tuple[int, int]:
        """How far it sees down and across, in coded blocks of chroma, upsampling included.

        Args:
            step: rows and columns of the picture to a chroma sample.
        """
        down, across = (math.ceil((self.reach + 2 * s) / (8 * s)) for s in step)
        return down, across

    @staticmethod
    def example() -> tuple[ChromaInput, jax.Array]:
        """The smallest arguments of `__call__`, of zeros and ones."""
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
            coefficients: what the file holds, and the guide.
            table: Q of Cb and of Cr, integers [B, 2, 8, 8].
            mask: bool [B, h, w, 1], true on coded blocks of chroma that belong to the image: with
                it, all outside is zero at every layer. None: every block is.
            train: not used; here training and running are the same.

        Returns:
            "image": Cb and Cr, float32 [B, H, W, 2], scaled to [0, 1], not clipped; and "jpeg",
            the same before its correction.
        """
        del train
        base = self.base(coefficients, table, mask)
        x = self.input(coefficients, base, mask)
        correction = self._correct(x, told(table, coefficients.step), coefficients.step, mask)
        return self.add_correction(coefficients, table, base, correction, mask)

    def base(
        self, coefficients: ChromaInput, table: jax.Array, mask: jax.Array | None
    ) -> jax.Array:
        """The middles of intervals, at full size: float32 [B, H, W, 2], scaled to [0, 1]."""
        middle = jpeg.idct(jpeg.dequantize(coefficients.coefficients, table)) / 255 + 128 / 255
        return upsample(jnp.moveaxis(jnp.clip(middle, 0, 1), 1, -1), coefficients.step, mask)

    def input(
        self, coefficients: ChromaInput, base: jax.Array, mask: jax.Array | None
    ) -> jax.Array:
        """What the layers see, luma and chroma, centred: float32 [B, H/2, W/2, 12]."""
        both = jnp.concatenate([coefficients.guide - 0.5, _UNITS * (base - 0.5)], axis=-1)
        return apply_mask(_to_depth(both), _half(mask, coefficients.step))

    def add_correction(
        self,
        coefficients: ChromaInput,
        table: jax.Array,
        base: jax.Array,
        correction: jax.Array,
        mask: jax.Array | None,
    ) -> dict[str, jax.Array]:
        """The answer from what the layers gave, float32 [B, H/2, W/2, 8]."""
        k, step = coefficients.coefficients, coefficients.step
        image = base + trust(k, table, step, mask) * (_to_space(correction) / _UNITS)
        if self.rectify:
            image = project(image, k, table, self.margin)
        return {"image": image, "jpeg": base}

    @nn.compact
    def _correct(
        self, x: jax.Array, told: jax.Array, step: tuple[int, int], mask: jax.Array | None
    ) -> jax.Array:
        modulate = self._modulations(told)
        half = _half(mask, step)

        def layer(i: int, x: jax.Array, dilation: int = 1) -> jax.Array:
            x = conv(self.features, dilation=dilation, name=f"conv{i}")(x)
            return apply_mask(PReLU(name=f"prelu{i}")(modulate(i, x)), half)

        x = connect(x, self.dilations, layer)
        return conv(8, kernel_init=near_zero_init, name=f"conv{len(self.dilations) + 2}")(x)

    def loss(self, estimates: Mapping[str, jax.Array], original: jax.Array) -> jax.Array:
        """The mean squared error of Cb and Cr, scalar; `original` is float32 [B, H, W, 2]."""
        return mse(estimates["image"], original)

    @staticmethod
    def decode(coefficients: ChromaInput, table: jax.Array) -> jax.Array:
        """Cb and Cr as libjpeg decodes and upsamples them: uint8 [B, H, W, 2]."""
        planes = jpeg.decode(coefficients.coefficients, table).astype(jnp.float32)
        return jnp.round(upsample(jnp.moveaxis(planes, 1, -1), coefficients.step)).astype(jnp.uint8)

    def _modulations(self, told: jax.Array):
        """How it is told Q and the sampling: some layers' x becomes x · (1 + scale) + shift."""
        # Cb and Cr mostly have one table; of two, the mean of what they say.
        code = PReLU(name="table_prelu")(nn.Dense(64, name="table_dense")(told).mean(axis=1))
        zeros = nn.initializers.zeros_init()
        scale_shift = {
            i: nn.Dense(2 * self.features, kernel_init=zeros, name=f"table_dense{i}")(code)
            for i in (1, len(self.dilations) // 2 + 1)
        }

        def modulate(i: int, x: jax.Array) -> jax.Array:
            if i not in scale_shift:
                return x
            scale, shift = jnp.split(scale_shift[i][:, None, None], 2, axis=-1)
            return x * (1 + scale) + shift

        return modulate


def connect(x: Any, dilations: Sequence[int], layer: Callable) -> Any:
    """How the layers but for the last follow one another, whoever computes them.

    Args:
        x: their input.
        dilations: as of `ChromaNet`.
        layer: `layer(i, x, dilation=1)`, a 3 × 3 convolution and its rectifier.

    Returns:
        What the last layer sees.
    """
    x = first = layer(1, x)
    for i, dilation in enumerate(dilations):
        x = layer(i + 2, x, dilation=dilation)
    return x + first


def told(table: jax.Array, step: tuple[int, int]) -> jax.Array:
    """How tables and the sampling are told, [B, 2, 8, 8] → float32 [B, 2, 66]: by logarithms."""
    log_steps = jnp.log2(table.reshape(-1, 2, 64).astype(jnp.float32) / 16) / 2
    sampling = jnp.log2(jnp.asarray(step, jnp.float32))
    sampling = jnp.broadcast_to(sampling, (*log_steps.shape[:2], 2))
    return jnp.concatenate([log_steps, sampling], axis=-1)


def trust(
    coefficients: jax.Array,
    table: jax.Array,
    step: tuple[int, int],
    mask: jax.Array | None = None,
) -> jax.Array:
    """How far to go with a correction, where a wrong one would do harm.

    None of it where a block of chroma and its neighbours have no coefficient at all: a gray picture
    stays gray. And less where tables are fine: what they lost is little, and h, which was trained
    on coarse ones too, takes smooth colour over detailed luma for something that was lost.

    Args:
        coefficients: k, integers [B, 2, h, w, 64].
        table: Q, integers [B, 2, 8, 8].
        step: rows and columns of the picture to a chroma sample.
        mask: as of `ChromaNet.__call__`.

    Returns:
        float32 [B, 8h · step[0], 8w · step[1], 1], 0 to 1.
    """
    colored = (coefficients != 0).any(axis=(1, 4))[..., None].astype(jnp.float32)
    if mask is not None:
        colored *= mask
    weight = nn.max_pool(colored, (3, 3), padding="SAME")
    for level in range(4):
        # 8 · step times as large: by two as often as need be, smoothly.
        factors = tuple(2 if 8 * s >= 2 << level else 1 for s in step)
        weight = _stretch(weight, factors, mask)
        mask = None if mask is None else _repeat(mask, factors)
    steps = table.astype(jnp.float32).mean(axis=(1, 2, 3))
    return weight * jnp.minimum(steps / _COARSE, 1)[:, None, None, None]


# Mean quantisation step of chroma from which on corrections are trusted in full: quality 40's.
_COARSE = 100


def upsample(planes: jax.Array, step: tuple[int, int], mask: jax.Array | None = None) -> jax.Array:
    """Brings planes to full size as libjpeg does, without its rounding.

    By two, a new sample is 3/4 of the nearer old one and 1/4 of the other, along either axis; at
    the border the sample itself. By other factors samples are repeated.

    Args:
        planes: float32 [B, h, w, C].
        step: rows and columns of the result to a sample.
        mask: bool [B, h / 8, w / 8, 1], true on blocks of the image, whose border counts then.

    Returns:
        float32 [B, step[0] · h, step[1] · w, C]; outside of the image, anything.
    """
    planes = _stretch(planes, step, None if mask is None else _repeat(mask, (8, 8)))
    return _repeat(planes, tuple(1 if factor == 2 else factor for factor in step))


def project(
    image: jax.Array, coefficients: jax.Array, table: jax.Array, margin: float
) -> jax.Array:
    """The nearest picture whose chroma, averaged over its samples, lies in its intervals.

    Args:
        image: Cb and Cr at full size, float32 [B, H, W, 2], scaled to [0, 1].
        coefficients: k, integers [B, 2, h, w, 64].
        table: Q, integers [B, 2, 8, 8].
        margin: what intervals are widened by on both sides, grey levels.

    Returns:
        float32 [B, H, W, 2].
    """
    rows, columns = coefficients.shape[2:4]
    batch, height, width, channels = image.shape
    step = height // (8 * rows), width // (8 * columns)
    cells = image.reshape(batch, 8 * rows, step[0], 8 * columns, step[1], channels)
    planes = jnp.moveaxis(cells.mean(axis=(2, 4)), -1, 1)
    lower, upper = jpeg.interval(coefficients, table, margin)
    x = jpeg.dct(planes * 255 - 128)
    # As a correction, what lies within keeps its bits.
    moved = jpeg.idct(jnp.clip(x, lower, upper) - x) / 255
    return image + _repeat(jnp.moveaxis(moved, 1, -1), step)


def _stretch(planes: jax.Array, factors: tuple[int, int], mask: jax.Array | None) -> jax.Array:
    """Planes twice as large along axes whose factor is 2; `mask` is of their samples."""
    if 2 not in factors:
        return planes
    padded = extend(planes, 1, "edge", mask)
    for axis, factor in enumerate(factors, start=1):
        if factor == 2:
            padded = _double(padded, axis)
        else:
            padded = jax.lax.slice_in_dim(padded, 1, padded.shape[axis] - 1, axis=axis)
    return padded


def _double(x: jax.Array, axis: int) -> jax.Array:
    """Twice as many samples along an axis, of which the first and the last only help."""
    before, x, after = (
        jax.lax.slice_in_dim(x, i, x.shape[axis] - 2 + i, axis=axis) for i in range(3)
    )
    pairs = jnp.stack([(3 * x + before) / 4, (3 * x + after) / 4], axis=axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])


def _repeat(x: jax.Array, factors: tuple[int, int]) -> jax.Array:
    return jnp.repeat(jnp.repeat(x, factors[0], axis=1), factors[1], axis=2)


def _half(mask: jax.Array | None, step: tuple[int, int]) -> jax.Array | None:
    """A mask of coded blocks on the grid of half the picture's size."""
    return None if mask is None else _repeat(mask, (4 * step[0], 4 * step[1]))


def _to_depth(x: jax.Array) -> jax.Array:
    """[B, H, W, C] → [B, H/2, W/2, 4C], the pixels of each square of two by two."""
    batch, height, width, channels = x.shape
    cells = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, 4 * channels)


def _to_space(x: jax.Array) -> jax.Array:
    """The inverse."""
    batch, height, width, channels = x.shape
    cells = x.reshape(batch, height, width, 2, 2, channels // 4)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, channels // 4)
