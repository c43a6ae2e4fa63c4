"""DMCNN: a dual-domain multi-scale network for JPEG artifacts (Zhang, Yang, Hu, Liu, ICIP 2018).

    ÕD = D⁻¹(DRU(k·Q + Q · f(k)))                 the DCT branch, 9 layers on the grid of blocks
    Õ0 = g(C, ÕD) + r·ÕD + (1 - r)·C              the pixel branch, 15 layers; r is learned

k are the integer coefficients in the JPEG file and Q its quantisation table. C is the image that
libjpeg decodes from them, D the blockwise orthonormal 8×8 DCT. Both branches are auto-encoders with
shortcuts between symmetric layers and dilated convolutions in the middle. All layers see centred
values (x - ½), so that the zeros of a convolution's padding are mid-gray. 4,426,628 weights at
F = 64.

`DMCNN` states the equations, `DCTBranch` the 9 layers of f, and `PixelBranch` with `wire_layers`
the 15 layers of g.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax import jpeg
from dmcnn_jax.models.base import Network, decode_luma
from dmcnn_jax.models.layers import (
    Deconv,
    PReLU,
    apply_mask,
    conv,
    keep_whole,
    mask_to_scale,
    near_zero_init,
)
from dmcnn_jax.models.losses import average_pool, mse, multi_scale_loss, relative_weights
from dmcnn_jax.models.table_conditioning import PREFIX, encode_table, modulate_by_table

RECTIFIERS = ("interval", "leaky", "decoded", "none")

FULL, HALF, QUARTER = 8, 4, 2
"""Scales of the pixel branch, as the side of a block of 8 × 8 pixels on its grid."""


class DMCNN(Network):
    """The network of the paper; each of its claims can be switched off.

    Its estimates are "image", Õ0, "dct", ÕD, and "jpeg", C, [B, H, W, 1]; with `multi_scale` also
    "half", Õ1, [B, H/2, W/2, 1], and "quarter", Õ2, [B, H/4, W/4, 1].

    Attributes:
        features: F, channels of the pixel branch at full size; 2F and 4F at half and quarter size.
        dct_features: channels of the DCT branch; None for 2F.
        dilations: of layers 7, 8 and 9 of the pixel branch.
        dct_dilations: of layers 4, 5 and 6 of the DCT branch.
        dct_branch: whether the network has a DCT branch; without it ÕD = C.
        rectifier: limits of the DCT branch's output. "interval": the file's interval, k·Q ±
            (Q/2 + margin); "leaky": the same, with a slope of 0.1 outside, as in DDCN; "decoded":
            D(C) ± (Q/2 + margin), as printed in the paper; "none": no limits.
        margin: ε, by which the interval is widened on both sides, grey levels.
        multi_scale: whether the estimates at half and quarter size exist and enter the loss.
        residual: initial value of r.
        learn_residual: whether r is learned or constant.
        condition_on_table: whether both branches are conditioned on the quantisation table, for one
            network at every quality.
        theta: θ of equation 7, the weight of a scale relative to the next finer one.
        dct_weight: λ of equation 7.
        relative_loss: whether the squared error of each example is divided by that of its JPEG, as
            in a mean of PSNR; False: the paper's loss.
        dtype: type that the pixel branch computes in. Parameters, the sums that make the output,
            and everything between D and D⁻¹ are float32.
    """

    features: int = 64
    dct_features: int | None = None
    dilations: tuple[int, int, int] = (2, 4, 8)
    dct_dilations: tuple[int, int, int] = (2, 4, 8)
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
    identity_init_prefixes: ClassVar[tuple[str, ...]] = (PREFIX,)

    def setup(self) -> None:
        """Creates both branches and r."""
        if self.rectifier not in RECTIFIERS:
            raise ValueError(f"rectifier is {self.rectifier!r}; expected one of {RECTIFIERS}")
        if self.dct_branch:
            self.f = DCTBranch(
                self.dct_features or 2 * self.features, self.dct_dilations, self.condition_on_table
            )
        self.g = PixelBranch(
            self.features, self.dilations, self.multi_scale, self.condition_on_table, self.dtype
        )
        r: jax.Array | float = self.residual
        if self.learn_residual and self.dct_branch:
            r = self.param("r", nn.initializers.constant(self.residual), ())
        self.r = r

    @property
    def halo_blocks(self) -> int | tuple[int, int]:
        """The radii of `restore_coefficients` and `restore_pixels`, or of a single pass."""
        # Layers 1 to 6 and 10 to 15 reach 16 pixels to either side, the dilated layers 4 ·
        # dilation.
        pixels = -(-(16 + 4 * sum(self.dilations)) // 8)
        return (6 + sum(self.dct_dilations), pixels) if self.dct_branch else pixels

    def restore_coefficients(
        self, coefficients: jax.Array, table: jax.Array, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Runs the DCT branch, k and Q → ÕD, float32 [B, H, W, 1]; arguments as in `__call__`."""
        if not self.dct_branch:
            return decode_luma(coefficients, table)
        steps = table.reshape(-1, 1, 1, 64).astype(jnp.float32)
        x = coefficients * steps + steps * self.f(coefficients, table, mask)
        if self.rectifier != "none":
            x = self._dct_rectify_unit(x, coefficients, table)
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
        """Runs the pixel branch, C and ÕD → all estimates.

        Args:
            coefficients: as in `__call__`.
            table: as in `__call__`.
            dct: ÕD, float32 [B, H, W, 1].
            mask: as in `__call__`.
            train: not used; training and inference are the same.

        Returns:
            As `__call__`.
        """
        del train
        corrections = self.g(self.pixel_input(coefficients, table, dct), table, mask)
        return self.add_corrections(coefficients, table, dct, corrections)

    def pixel_input(self, coefficients: jax.Array, table: jax.Array, dct: jax.Array) -> jax.Array:
        """Returns the input of the pixel branch, C and ÕD, centred: float32 [B, H, W, 1 or 2]."""
        # Without the DCT branch ÕD is C, and one channel is enough.
        if not self.dct_branch:
            return dct - 0.5
        return jnp.concatenate([decode_luma(coefficients, table), dct], axis=-1) - 0.5

    def add_corrections(
        self,
        coefficients: jax.Array,
        table: jax.Array,
        dct: jax.Array,
        corrections: Sequence[jax.Array],
    ) -> dict[str, jax.Array]:
        """Adds the corrections of the pixel branch to r·ÕD + (1 - r)·C.

        Args:
            coefficients: as in `__call__`.
            table: as in `__call__`.
            dct: ÕD, float32 [B, H, W, 1].
            corrections: at full size, and optionally at half and quarter size, [..., 1].

        Returns:
            As `__call__`, with as many scales as there are corrections.
        """
        decoded = decode_luma(coefficients, table) if self.dct_branch else dct
        # Written so that the gradient with respect to r is one sum of small numbers, not the
        # difference of two large sums.
        base = decoded + self.r * (dct - decoded)
        estimates = {"jpeg": decoded, "dct": dct}
        for i, name in enumerate(("image", "half", "quarter")[: len(corrections)]):
            estimates[name] = average_pool(base, 2**i) + corrections[i].astype(jnp.float32)
        return estimates

    def loss(self, estimates: Mapping[str, jax.Array], original: jax.Array) -> jax.Array:
        """Returns equation 7, Σᵢ θⁱ · MSE(Õᵢ, Oᵢ) + λ · MSE(ÕD, O); see `Network.loss`."""
        scales = [estimates[name] for name in ("image", "half", "quarter") if name in estimates]
        weights = relative_weights(estimates["jpeg"], original) if self.relative_loss else None
        loss = multi_scale_loss(scales, original, self.theta, weights)
        if not self.dct_branch:
            return loss
        return loss + self.dct_weight * mse(estimates["dct"], original, weights)

    def _dct_rectify_unit(
        self, x: jax.Array, coefficients: jax.Array, table: jax.Array
    ) -> jax.Array:
        """Applies the DCT rectify unit (DRU), equation 6, to [B, H/8, W/8, 64] in grey levels."""
        lower, upper = jpeg.interval(coefficients, table, self.margin)
        if self.rectifier == "decoded":
            # C differs from D⁻¹(k·Q) by rounding and clipping, which moves the interval.
            decoded = decode_luma(coefficients, table)[..., 0] * 255 - 128
            shift = jpeg.dct(decoded) - (lower + upper) / 2
            lower, upper = lower + shift, upper + shift
        clipped = jnp.clip(x, lower, upper)
        return clipped + 0.1 * (x - clipped) if self.rectifier == "leaky" else clipped


class DCTBranch(nn.Module):
    """f: 9 convolutions on the grid of blocks, from k to a correction in quantisation steps.

    In units of quantisation steps one network suits every quality, and the DRU clips the correction
    of k to ±½, widened by the margin. The receptive field is 41 × 41 blocks.

    Attributes:
        features: channels of layers 1 to 8.
        dilations: of layers 4, 5 and 6.
        condition_on_table: whether layers 1 and 4 are conditioned on the quantisation table.
    """

    features: int
    dilations: Sequence[int]
    condition_on_table: bool

    @nn.compact
    def __call__(
        self, coefficients: jax.Array, table: jax.Array, mask: jax.Array | None
    ) -> jax.Array:
        """Maps k, integers [B, H/8, W/8, 64], and Q [B, 8, 8] to float32 [B, H/8, W/8, 64]."""
        widths = {1: self.features, 4: self.features}
        modulate = _modulation(table, widths, self.condition_on_table)

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
    """g: 15 layers, an auto-encoder over three scales with a receptive field of 145 × 145 pixels.

    Attributes:
        features: F, channels at full size.
        dilations: of layers 7, 8 and 9.
        multi_scale: whether layers 11 and 9 have heads.
        condition_on_table: whether layers 1, 4 and 6 are conditioned on the quantisation table.
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
        """Maps centred [B, H, W, channels] to corrections at full, half and quarter size."""
        f = self.features
        masks = {scale: mask_to_scale(mask, scale) for scale in (FULL, HALF, QUARTER)}
        modulate = _modulation(table, {1: f, 4: 2 * f, 6: 4 * f}, self.condition_on_table)

        def layer(
            i: int, x: jax.Array, channels: int, scale: int, *, stride: int = 1, dilation: int = 1
        ) -> jax.Array:
            name = f"conv{i}"
            x = conv(channels, stride=stride, dilation=dilation, dtype=self.dtype, name=name)(x)
            return apply_mask(PReLU(name=f"prelu{i}")(modulate(i, x)), masks[scale])

        def up(i: int, x: jax.Array, channels: int, scale: int) -> jax.Array:
            x = Deconv(channels, dtype=self.dtype, name=f"deconv{i}")(x)
            return apply_mask(PReLU(name=f"prelu{i}")(x), masks[scale])

        def head(name: str, x: jax.Array) -> jax.Array:
            return conv(1, kernel_init=near_zero_init, dtype=self.dtype, name=name)(x)

        x = apply_mask(x, masks[FULL])
        full, half, quarter = wire_layers(x, f, self.dilations, layer, up)
        correction = head("conv15", full)
        if not self.multi_scale:
            return (correction,)
        return correction, head("head_half", half), head("head_quarter", quarter)


def wire_layers(
    x: Any,
    features: int,
    dilations: Sequence[int],
    layer: Callable,
    up: Callable,
    near: Callable = keep_whole,
) -> tuple[Any, Any, Any]:
    """Connects layers 1 to 14 of the pixel branch, for Flax and for other engines.

    Args:
        x: input of the branch, an array, or its counterpart in another engine.
        features: F.
        dilations: of layers 7, 8 and 9.
        layer: `layer(i, x, channels, scale, stride=1, dilation=1)`, a 3 × 3 convolution and its
            activation; `scale` is that of the output.
        up: `up(i, x, channels, scale)`, a 4 × 4 deconvolution of stride 2 and its
            activation.
        near: `near(x, scale, pixels, had)`, x within so many pixels of the part of the image that
            is wanted; `had` is how far x reaches around it, None: as far as the image.

    Returns:
        Inputs of the heads at full, half and quarter size: the outputs of layers 14, 11 and 9.
    """
    f = features
    # How far from the wanted part the outputs of layers 7, 8 and 9 matter: layers 10 to 15 see two
    # cells at quarter size, layers 8 and 9 their dilation.
    reach9 = 8
    reach8 = reach9 + 4 * dilations[2]
    reach7 = reach8 + 4 * dilations[1]
    x1 = layer(1, x, f, FULL)
    x2 = layer(2, x1, f, FULL)
    x3 = layer(3, x2, f, FULL)
    x4 = layer(4, x3, 2 * f, HALF, stride=2)
    x5 = layer(5, x4, 2 * f, HALF)
    x6 = layer(6, x5, 4 * f, QUARTER, stride=2)
    x7 = near(layer(7, x6, 4 * f, QUARTER, dilation=dilations[0]), QUARTER, reach7)
    x8 = near(layer(8, x7, 4 * f, QUARTER, dilation=dilations[1]), QUARTER, reach8, reach7)
    x9 = near(layer(9, x8, 4 * f, QUARTER, dilation=dilations[2]), QUARTER, reach9, reach8)
    x10 = up(10, x9, 2 * f, HALF) + near(x5, HALF, reach9)
    x11 = layer(11, x10, 2 * f, HALF)
    x12 = up(12, x11, f, FULL) + near(x3, FULL, reach9)
    x13 = layer(13, x12, f, FULL)
    x14 = layer(14, x13, f, FULL)
    return x14, x11, x9


def _compress(coefficients: jax.Array, table: jax.Array) -> jax.Array:
    """Brings coefficients k to a range that suits a network at every quality, in float32.

    AC coefficients are in quantisation steps, through asinh: linear near zero, where most of them
    are at low quality, and logarithmic at the hundreds that they reach at high quality. The DC
    coefficient, 8 times a block's mean, is in fixed units of 256 grey levels, since its range is
    the same at every quality and only differences between blocks matter.
    """
    steps = table.reshape(-1, 1, 1, 64)
    dc = coefficients[..., :1] * steps[..., :1] / 256
    return jnp.concatenate([dc, jnp.arcsinh(coefficients[..., 1:].astype(jnp.float32))], axis=-1)


def _modulation(
    table: jax.Array, channels: Mapping[int, int], enabled: bool
) -> Callable[[int, jax.Array], jax.Array]:
    """Returns the function of `modulate_by_table`, or the identity if conditioning is off."""
    if not enabled:
        return lambda i, x: x
    return modulate_by_table(encode_table(table), channels)
