"""DMCNN: a dual-domain multi-scale network for JPEG artifacts (Zhang, Yang, Hu, Liu, ICIP 2018).

    ÕD = D⁻¹(DRU(k·Q + Q · f(k)))                 the DCT branch, 9 layers on the grid of blocks
    Õ0 = g(C, ÕD) + r·ÕD + (1 - r)·C              the pixel branch, 15 layers; r is learned

A JPEG is what its file holds: the integer coefficients k and the quantisation table Q. C is the
image that libjpeg decodes from them, D the blockwise orthonormal 8×8 DCT. Both branches are
auto-encoders with shortcuts between symmetric layers and dilated convolutions in the middle; all
layers see centred values (x - ½), so that the zeros of a convolution's padding are mid-gray.
4,426,628 weights at F = 64.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax import jpeg
from dmcnn_jax.models.base import Network, decode
from dmcnn_jax.models.layers import (
    Deconv,
    PReLU,
    apply_mask,
    conv,
    mask_to_scale,
    near_zero_init,
)
from dmcnn_jax.models.losses import average_pool, mse, multi_scale_loss, relative_weights

RECTIFIERS = ("interval", "leaky", "decoded", "none")


class DMCNN(Network):
    """The network of the paper; each of its claims can be switched off.

    Of the estimates, "image" is Õ0, "dct" ÕD and "jpeg" C, [B, H, W, 1]; with `multi_scale` there
    are "half", Õ1, [B, H/2, W/2, 1], and "quarter", Õ2, [B, H/4, W/4, 1].

    Attributes:
        features: F, channels of the pixel branch at full size; 2F and 4F at half and quarter size.
        dct_features: channels of the DCT branch; None for 2F.
        dilations: of layers 7, 8 and 9 of the pixel branch.
        dct_dilations: of layers 4, 5 and 6 of the DCT branch.
        dct_branch: whether there is one; without it ÕD = C.
        rectifier: what the DCT branch may answer. "interval": within the file's interval, k·Q ±
            (Q/2 + margin); "leaky": outside at a slope of 0.1, as DDCN has it; "decoded": within
            D(C) ± (Q/2 + margin), as the paper prints it; "none": anything.
        margin: ε, what the interval is widened by on both sides, grey levels.
        multi_scale: whether the estimates at half and quarter size exist and enter the loss.
        residual: r's first value.
        learn_residual: whether r is learned or stays.
        condition_on_table: whether both branches are told Q, for one network at every quality.
        theta: θ of equation 7, the weight of a scale against the next finer one.
        dct_weight: λ of equation 7.
        relative_loss: whether the error of each example counts relative to its JPEG's, as in a mean
            of PSNR; without it as it is, the paper's loss.
        dtype: type that the pixel branch computes in. Parameters, the sums that make the output,
            and everything between D and D⁻¹ are float32.
    """

    features: int = 64
    dct_features: int | None = None
    dilations: Sequence[int] = (2, 4, 8)
    dct_dilations: Sequence[int] = (2, 4, 8)
    dct_branch: bool = True
    rectifier: str = "interval"
    margin: float = 0.25
    multi_scale: bool = True
    residual: float = 0.5
    learn_residual: bool = True
    condition_on_table: bool = False
    theta: float = 0.618
    dct_weight: float = 0.9
    relative_loss: bool = False
    dtype: jnp.dtype = jnp.float32

    JAX_ONLY_FIELDS: ClassVar[tuple[str, ...]] = (
        "dtype",
        "theta",
        "dct_weight",
        "relative_loss",
    )
    supports_widening: ClassVar[bool] = True

    def setup(self):
        """Makes the branches and r."""
        if self.rectifier not in RECTIFIERS:
            raise ValueError(f"rectifier is {self.rectifier!r}; expected one of {RECTIFIERS}")
        if self.dct_branch:
            self.f = DCTBranch(
                self.dct_features or 2 * self.features, self.dct_dilations, self.condition_on_table
            )
        self.g = PixelBranch(
            self.features, self.dilations, self.multi_scale, self.condition_on_table, self.dtype
        )
        if self.learn_residual and self.dct_branch:
            self.r = self.param("r", nn.initializers.constant(self.residual), ())
        else:
            self.r = self.residual

    @property
    def neutral(self) -> tuple[str, ...]:
        """What layers' names begin with that change nothing at first: those that are told Q."""
        return ("table_",)

    @property
    def halo_blocks(self) -> int | tuple[int, int]:
        """How far it sees, blocks: `restore_coefficients` and `restore_pixels`, or in one pass."""
        # Layers 1 to 6 and 10 to 15 see 16 pixels to either side, dilated ones 4 per dilation.
        pixels = -(-(16 + 4 * sum(self.dilations)) // 8)
        return (6 + sum(self.dct_dilations), pixels) if self.dct_branch else pixels

    def restore_coefficients(
        self, coefficients: jax.Array, table: jax.Array, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """The DCT branch, k and Q → ÕD, float32 [B, H, W, 1]; arguments as of `__call__`."""
        if not self.dct_branch:
            return decode(coefficients, table)
        steps = table.reshape(-1, 1, 1, 64).astype(jnp.float32)
        x = coefficients * steps + steps * self.f(coefficients, table, mask)
        if self.rectifier != "none":
            x = self._rectify(x, coefficients, table)
        return (jpeg.idct(x)[..., None] + 128) / 255

    def restore_pixels(
        self,
        coefficients: jax.Array,
        table: jax.Array,
        dct: jax.Array,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """The pixel branch, C and ÕD → all estimates. `dct` is ÕD, the rest as of `__call__`."""
        del train
        corrections = self.g(self.pixel_input(coefficients, table, dct), table, mask)
        return self.add_corrections(coefficients, table, dct, corrections)

    def pixel_input(self, coefficients: jax.Array, table: jax.Array, dct: jax.Array) -> jax.Array:
        """What the pixel branch sees, C and ÕD, centred: float32 [B, H, W, 1 or 2]."""
        # Without the DCT branch, what stands for its result is C.
        if not self.dct_branch:
            return dct - 0.5
        return jnp.concatenate([decode(coefficients, table), dct], axis=-1) - 0.5

    def add_corrections(
        self,
        coefficients: jax.Array,
        table: jax.Array,
        dct: jax.Array,
        corrections: Sequence[jax.Array],
    ) -> dict[str, jax.Array]:
        """Estimates from the pixel branch's corrections, of full size and maybe of smaller ones."""
        decoded = decode(coefficients, table) if self.dct_branch else dct
        # r·ÕD + (1 - r)·C, written so that its gradient by r is one sum of small numbers, not the
        # difference of two large sums.
        base = decoded + self.r * (dct - decoded)
        estimates = {"jpeg": decoded, "dct": dct}
        for i, name in enumerate(("image", "half", "quarter")[: len(corrections)]):
            estimates[name] = average_pool(base, 2**i) + corrections[i].astype(jnp.float32)
        return estimates

    def loss(self, estimates: Mapping[str, jax.Array], original: jax.Array) -> jax.Array:
        """Equation 7: Σᵢ θⁱ · MSE(Õᵢ, Oᵢ) + λ · MSE(ÕD, O); arguments as of `Network.loss`."""
        scales = [estimates[name] for name in ("image", "half", "quarter") if name in estimates]
        weights = relative_weights(estimates["jpeg"], original) if self.relative_loss else None
        loss = multi_scale_loss(scales, original, self.theta, weights)
        if not self.dct_branch:
            return loss
        return loss + self.dct_weight * mse(estimates["dct"], original, weights)

    def _rectify(self, x: jax.Array, coefficients: jax.Array, table: jax.Array) -> jax.Array:
        """The DCT rectify unit, equation 6, on coefficients [B, H/8, W/8, 64] in grey levels."""
        lower, upper = jpeg.interval(coefficients, table, self.margin)
        if self.rectifier == "decoded":
            # C strays from D⁻¹(k·Q) by its rounding and clipping, and the interval with it.
            decoded = decode(coefficients, table)[..., 0] * 255 - 128
            shift = jpeg.dct(decoded) - (lower + upper) / 2
            lower, upper = lower + shift, upper + shift
        clipped = jnp.clip(x, lower, upper)
        return clipped + 0.1 * (x - clipped) if self.rectifier == "leaky" else clipped


class DCTBranch(nn.Module):
    """f: 9 convolutions on the grid of blocks, from k to a correction in quantisation steps.

    In units of steps one network makes sense at every quality, and the rectifier is a clip to ±½.
    It sees 41 × 41 blocks.

    Attributes:
        features: channels of layers 1 to 8.
        dilations: of layers 4, 5 and 6.
        condition_on_table: whether it is told Q.
    """

    features: int
    dilations: Sequence[int]
    condition_on_table: bool

    @nn.compact
    def __call__(
        self, coefficients: jax.Array, table: jax.Array, mask: jax.Array | None
    ) -> jax.Array:
        """Integers [B, H/8, W/8, 64], Q [B, 8, 8] → float32 [B, H/8, W/8, 64]."""
        modulate = _modulations(
            table, {1: self.features, 4: self.features}, self.condition_on_table
        )

        def layer(i: int, x: jax.Array, dilation: int = 1) -> jax.Array:
            x = conv(self.features, dilation=dilation, name=f"conv{i}")(x)
            return apply_mask(PReLU(name=f"prelu{i}")(modulate(i, x)), mask)

        x0 = apply_mask(_compress(coefficients, table), mask)
        x1 = layer(1, x0)
        x2 = layer(2, x1)
        x3 = layer(3, x2)
        x4 = layer(4, x3, self.dilations[0])
        x5 = layer(5, x4, self.dilations[1])
        x6 = layer(6, x5, self.dilations[2]) + x3
        x7 = layer(7, x6) + x2
        x8 = layer(8, x7) + x1
        return conv(64, kernel_init=near_zero_init, name="conv9")(x8)


class PixelBranch(nn.Module):
    """g: 15 layers, an auto-encoder over three scales; sees 145 × 145 pixels from every position.

    Attributes:
        features: F, channels at full size.
        dilations: of layers 7, 8 and 9.
        multi_scale: whether layers 11 and 9 have heads.
        condition_on_table: whether it is told Q.
        dtype: type to compute in.
    """

    features: int
    dilations: Sequence[int]
    multi_scale: bool
    condition_on_table: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: jax.Array, table: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, ...]:
        """[B, H, W, channels], centred → corrections at full, half and quarter size, [..., 1]."""
        f = self.features
        masks = {cells: mask_to_scale(mask, cells) for cells in (8, 4, 2)}
        modulate = _modulations(table, {1: f, 4: 2 * f, 6: 4 * f}, self.condition_on_table)

        def layer(i, x, features, cells, **options):
            x = conv(features, dtype=self.dtype, name=f"conv{i}", **options)(x)
            return apply_mask(PReLU(name=f"prelu{i}")(modulate(i, x)), masks[cells])

        def up(i, x, features, cells):
            x = Deconv(features, dtype=self.dtype, name=f"deconv{i}")(x)
            return apply_mask(PReLU(name=f"prelu{i}")(x), masks[cells])

        def head(name, x):
            return conv(1, kernel_init=near_zero_init, dtype=self.dtype, name=name)(x)

        full, half, quarter = connect(apply_mask(x, masks[8]), f, self.dilations, layer, up)
        correction = head("conv15", full)
        if not self.multi_scale:
            return (correction,)
        return correction, head("head_half", half), head("head_quarter", quarter)


def connect(
    x: Any, features: int, dilations: Sequence[int], layer: Callable, up: Callable
) -> tuple[Any, Any, Any]:
    """How the pixel branch's layers follow one another, whoever computes them.

    Args:
        x: its input.
        features: F.
        dilations: of layers 7, 8 and 9.
        layer: `layer(i, x, channels, cells, stride=1, dilation=1)`, a 3 × 3 convolution and its
            rectifier; `cells` are those along a block at the scale of its result.
        up: `up(i, x, channels, cells)`, a 4 × 4 deconvolution of stride 2 and its rectifier.

    Returns:
        What heads see at full, half and quarter size: the results of layers 14, 11 and 9.
    """
    f = features
    x1 = layer(1, x, f, 8)
    x2 = layer(2, x1, f, 8)
    x3 = layer(3, x2, f, 8)
    x4 = layer(4, x3, 2 * f, 4, stride=2)
    x5 = layer(5, x4, 2 * f, 4)
    x6 = layer(6, x5, 4 * f, 2, stride=2)
    x7 = layer(7, x6, 4 * f, 2, dilation=dilations[0])
    x8 = layer(8, x7, 4 * f, 2, dilation=dilations[1])
    x9 = layer(9, x8, 4 * f, 2, dilation=dilations[2])
    x10 = up(10, x9, 2 * f, 4) + x5
    x11 = layer(11, x10, 2 * f, 4)
    x12 = up(12, x11, f, 8) + x3
    x13 = layer(13, x12, f, 8)
    x14 = layer(14, x13, f, 8)
    return x14, x11, x9


def _compress(coefficients: jax.Array, table: jax.Array) -> jax.Array:
    """Coefficients k as float32 of a range that suits a network, whatever the quality.

    AC coefficients in steps, through asinh: slope 1 at zero, where most of them are at low quality,
    logarithmic at the hundreds that they reach at high quality. The DC coefficient in fixed units
    of 256 grey levels (a block's mean times 8): its range is the same at every quality, and what
    matters of it are differences between blocks.
    """
    steps = table.reshape(-1, 1, 1, 64)
    dc = coefficients[..., :1] * steps[..., :1] / 256
    return jnp.concatenate([dc, jnp.arcsinh(coefficients[..., 1:].astype(jnp.float32))], axis=-1)


def _modulations(table: jax.Array, widths: Mapping[int, int], enabled: bool):
    """How a branch is told Q: at some layers, x becomes x · (1 + scale(Q)) + shift(Q).

    Scale and shift come from log₂ Q by a small perceptron.

    Args:
        table: Q, [B, 8, 8].
        widths: layer → its channels.
        enabled: without it, nothing is created and nothing is changed.

    Returns:
        A function of a layer's number and its output before the rectifier. It starts as the
        identity.
    """
    if not enabled:
        return lambda i, x: x
    code = PReLU(name="table_prelu")(nn.Dense(64, name="table_dense")(told(table)))
    scale_shift = {
        i: nn.Dense(2 * width, kernel_init=nn.initializers.zeros_init(), name=f"table_dense{i}")(
            code
        )
        for i, width in widths.items()
    }

    def modulate(i: int, x: jax.Array) -> jax.Array:
        if i not in scale_shift:
            return x
        scale, shift = jnp.split(scale_shift[i].astype(x.dtype)[:, None, None], 2, axis=-1)
        return x * (1 + scale) + shift

    return modulate


def told(table: Any, numpy: Any = jnp) -> Any:
    """How a table is told, Q [B, 8, 8] → float32 [B, 64]: by the logarithms of its steps.

    `numpy` is the module to compute with.
    """
    # Steps run from 1 to 255; 16 is about their middle on a logarithmic scale.
    return numpy.log2(table.reshape(-1, 64).astype(numpy.float32) / 16) / 2
