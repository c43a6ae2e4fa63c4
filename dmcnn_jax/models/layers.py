"""Layers that several networks share.

All take and return NHWC arrays, keep their parameters in float32 and compute in `dtype`. Padding is
zero and symmetric, at stride 2 too, where `SAME` would pad one side only and shift the image by a
pixel.
"""

from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax.models.convolution import convolve
from dmcnn_jax.models.deconvolution import deconvolve

# He initialisation for a PReLU whose negative slope starts at 0.1: variance 2 / (1 + 0.1²) /
# fan-in.
SLOPE = 0.1
he_init = nn.initializers.variance_scaling(2 / (1 + SLOPE**2), "fan_in", "truncated_normal")

# For last layers, so that a network that adds its output to the JPEG starts from the JPEG.
near_zero_init = nn.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")


def conv(
    features: int,
    size: int = 3,
    *,
    stride: int = 1,
    dilation: int = 1,
    kernel_init: Callable = he_init,
    dtype: jnp.dtype = jnp.float32,
    use_bias: bool = True,
    name: str | None = None,
) -> "Conv":
    """Creates a convolution, [B, H, W, C] → [B, ⌈H / stride⌉, ⌈W / stride⌉, features].

    Args:
        features: output channels.
        size: side of the square kernel, odd.
        stride: distance between outputs, pixels.
        dilation: distance between neighbouring taps, pixels.
        kernel_init: initialiser of the kernel, [size, size, C, features].
        dtype: type to compute in and to return.
        use_bias: whether a bias is added.
        name: name of the submodule.

    Returns:
        The Flax module, padded by `dilation · (size - 1) / 2` zeros on every side.
    """
    return Conv(
        features=features,
        size=size,
        stride=stride,
        dilation=dilation,
        kernel_init=kernel_init,
        dtype=dtype,
        use_bias=use_bias,
        name=name,
    )


class Conv(nn.Module):
    """A convolution made by `conv`; parameters are named and shaped as those of `nn.Conv`."""

    features: int
    size: int
    stride: int
    dilation: int
    kernel_init: Callable
    dtype: jnp.dtype
    use_bias: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves, [B, H, W, C] → [B, ⌈H / stride⌉, ⌈W / stride⌉, features]."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        pad = self.dilation * (self.size - 1) // 2
        y = convolve(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=((pad, pad), (pad, pad)),
            dilation=self.dilation,
        )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
            y = add_bias(y, bias)
        return y


class Deconv(nn.Module):
    """A 4×4 transposed convolution of stride 2, [B, H, W, C] → [B, 2H, 2W, features].

    It computes PyTorch's `ConvTranspose2d(4, stride=2, padding=1)`, see `deconvolve`.

    Attributes:
        features: output channels.
        kernel_init: initialiser of a phase's kernel, [2, 2, C, features].
        dtype: type to compute in and to return.

    The parameter `kernel` is [4, 4, C, features]: input m reaches output 2m - 1 + t through tap t.
    """

    features: int
    kernel_init: Callable = he_init
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves, [B, H, W, C] → [B, 2H, 2W, features]."""
        channels = x.shape[-1]

        def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            # An output depends on 2×2 taps, not 4×4, so the fan-in is that of a phase.
            drawn = [
                self.kernel_init(k, (2, 2, *shape[2:]), jnp.float32)
                for k in jax.random.split(key, 4)
            ]
            phases = jnp.stack(drawn).reshape(2, 2, 2, 2, *shape[2:])  # [p, q, j, i, C, N]
            return phases.transpose(2, 0, 3, 1, 4, 5).reshape(shape)[::-1, ::-1]

        kernel = self.param("kernel", init, (4, 4, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return add_bias(deconvolve(x.astype(self.dtype), kernel.astype(self.dtype)), bias)


class PReLU(nn.Module):
    """A leaky rectifier with learned slopes (He et al., 2015): max(x, 0) + slope · min(x, 0).

    Attributes:
        initial_slope: initial value of the slopes, one for each channel.
    """

    initial_slope: float = SLOPE

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the activation to [..., C], keeping shape and dtype."""
        slope = self.param("slope", nn.initializers.constant(self.initial_slope), (x.shape[-1],))
        wide = widen(x)
        return jnp.where(wide >= 0, wide, slope * wide).astype(x.dtype)


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias, [C] or of more axes, to [..., C]; returns the dtype of `x`."""
    return (widen(x) + bias).astype(x.dtype)


def widen(x: jax.Array) -> jax.Array:
    """Converts bfloat16 to float32, for arithmetic with a parameter shared by many pixels.

    The gradient of such a parameter is a sum over all pixels. In bfloat16, whose numbers have 8
    significant bits, a sum stops growing at 256 terms of one size. The conversions cost nothing:
    compilers fuse them with the arithmetic.
    """
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def mask_to_scale(mask: jax.Array | None, cells: int) -> jax.Array | None:
    """Brings a mask of blocks to a finer grid.

    Args:
        mask: bool [B, H/8, W/8, 1], true on blocks of the image. None: everything is image.
        cells: side of a block on the finer grid: 8 for pixels, 4 and 2 at half and quarter size.

    Returns:
        bool [B, cells · H/8, cells · W/8, 1], or None.
    """
    if mask is None:
        return None
    return jnp.repeat(jnp.repeat(mask, cells, axis=1), cells, axis=2)


def pixel_mask(mask: jax.Array | None, image: jax.Array) -> jax.Array | None:
    """Brings a mask to the pixels of an image [B, H, W, C], unless it already is one of pixels."""
    return mask if mask is None or mask.shape[1] == image.shape[1] else mask_to_scale(mask, 8)


def apply_mask(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Sets `x` to zero where the mask is false; returns all of `x` without a mask."""
    return x if mask is None else jnp.where(mask, x, jnp.zeros((), x.dtype))


def extend(x: jax.Array, pad: int, mode: str, mask: jax.Array | None = None) -> jax.Array:
    """Pads an image with its own pixels, for networks whose authors did not pad with zeros.

    Args:
        x: [B, H, W, C].
        pad: pixels to add on every side.
        mode: "edge" (the border repeated) or "symmetric" (mirrored, the border included).
        mask: bool [B, H, W, 1], true on a rectangle, the image, whose sides are at least `pad`
            pixels; its border is extended. None: everything is image.

    Returns:
        [B, H + 2 pad, W + 2 pad, C]; arbitrary at more than `pad` pixels from the image.
    """
    if mask is None and all(isinstance(side, int) for side in x.shape):
        # XLA fuses `jnp.pad` with the layer before it, and then computes that six times as slowly.
        for axis in (1, 2):
            pixels = np.pad(np.arange(x.shape[axis]), pad, mode=cast(Any, mode))
            x = jnp.take(x, pixels, axis=axis, mode="clip")
        return x
    if mask is None:  # of an exported program for images of any size
        return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)
    for axis in (1, 2):
        inside = mask.any(axis=(3 - axis, 3))  # [B, length]
        length = inside.shape[1]
        first = jnp.argmax(inside, axis=1, keepdims=True)
        last = length - 1 - jnp.argmax(inside[:, ::-1], axis=1, keepdims=True)
        index = jnp.arange(-pad, length + pad)[None]
        if mode == "symmetric":
            index = jnp.where(index < first, 2 * first - 1 - index, index)
            index = jnp.where(index > last, 2 * last + 1 - index, index)
        index = jnp.expand_dims(jnp.clip(index, first, last), (3 - axis, 3))
        x = jnp.take_along_axis(x, index, axis=axis)
    return x


def space_to_depth(x: jax.Array) -> jax.Array:
    """Turns 2 × 2 pixels into channels, [B, H, W, C] → [B, H/2, W/2, 4C]."""
    batch, height, width, channels = x.shape
    cells = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, 4 * channels)


def depth_to_space(x: jax.Array) -> jax.Array:
    """Turns channels into 2 × 2 pixels, [B, H, W, 4C] → [B, 2H, 2W, C]."""
    batch, height, width, channels = x.shape
    cells = x.reshape(batch, height, width, 2, 2, channels // 4)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, channels // 4)


def keep_whole(x: Any, scale: int, pixels: int, had: int | None = None) -> Any:
    """Returns x: the hook `near` of `wire_layers` where layers run over whole images."""
    del scale, pixels, had
    return x


def scale_gradient(x: jax.Array, factor: float) -> jax.Array:
    """Returns `x`, with its gradient scaled: under SGD this scales a parameter's learning rate."""
    return factor * x + (1 - factor) * jax.lax.stop_gradient(x)
