"""A convolution whose gradient by the kernel is fast on CPUs, too."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: Any = ((0, 0), (0, 0)),
    dilation: int = 1,
) -> jax.Array:
    """`lax.conv_general_dilated`, with a gradient by the kernel of our own on CPUs.

    Jit, grad and vmap it. `jvp` is refused, since that gradient is a custom VJP, except for batches
    of unknown size, which have none.

    Args:
        x: [B, H, W, C].
        kernel: [h, w, C, N], of the same type.
        stride: step between outputs, pixels.
        padding: zeros before and after, of both axes.
        dilation: distance between neighbouring taps, pixels.

    Returns:
        [B, H', W', N].
    """
    options = stride, tuple(map(tuple, padding)), dilation
    # Of exported programs, which nobody trains by, the batch is a symbol.
    known = isinstance(x.shape[0], int)
    return (_convolve_trained if known else _convolve)(options, x, kernel)


def _convolve(options: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    stride, padding, dilation = options
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve_trained(options: Any, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _convolve(options, x, kernel)


def _forward(options, x, kernel):
    return _convolve(options, x, kernel), (x, kernel)


def _backward(options, residuals, cotangent):
    x, kernel = residuals
    (x_gradient,) = jax.linear_transpose(lambda x: _convolve(options, x, kernel), x)(cotangent)
    on_cpu = kernel_gradient if _suits(options, x, cotangent) else xla_kernel_gradient
    on_cpu, default = (
        partial(function, options, kernel.shape) for function in (on_cpu, xla_kernel_gradient)
    )
    # Decided where it is lowered: a program may be compiled for another platform than this one.
    return x_gradient, lax.platform_dependent(x, cotangent, cpu=on_cpu, default=default)


_convolve_trained.defvjp(_forward, _backward)

# Of fewer channels, or on fewer pixels, XLA's own gradient is nearly as good and sooner compiled,
# unless the batch is odd: its kernels for odd numbers of examples are up to 15 times slower.
_FEW_CHANNELS, _FEW_PIXELS = 8, 100


def _suits(options: Any, x: jax.Array, cotangent: jax.Array) -> bool:
    """Whether `kernel_gradient` is the faster one; it is right in any case."""
    stride, _, dilation = options
    batch, height, width, features = cotangent.shape
    few = min(x.shape[3], features) < _FEW_CHANNELS or height * width < _FEW_PIXELS
    odd = batch > 1 and batch % 2 == 1
    # A convolution whose kernel is longer than what it goes over is a slow one.
    long = x.shape[1] > stride * height
    return (odd or not few) and not long and (stride == 1 or dilation == 1)


def xla_kernel_gradient(
    options: Any, shape: tuple[int, int, int, int], x: jax.Array, cotangent: jax.Array
) -> jax.Array:
    """What `kernel_gradient` computes, by XLA."""
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    return jax.linear_transpose(lambda kernel: _convolve(options, x, kernel), kernel)(cotangent)[0]


def kernel_gradient(
    options: Any, shape: tuple[int, int, int, int], x: jax.Array, cotangent: jax.Array
) -> jax.Array:
    """The gradient of a convolution by its kernel, as CPUs are fast at it.

        G[i, j] = Σ over b, y, x of X[b, s·y + d·i - top, s·x + d·j - left]ᵀ · Y[b, y, x]

    XLA computes it as one convolution over y and x whose channels are the examples of the batch:
    few, so that it takes two or three times as long as the forward one. This is one over y whose
    channels are examples and columns at once; copies of X, shifted by d·j, are its outputs.

    Args:
        options: stride s, padding ((top, bottom), (left, right)), dilation d; one of s and d is 1.
        shape: of the kernel, [h, w, C, N].
        x: X, [B, H, W, C], of a floating-point type.
        cotangent: Y, [B, H', W', N], of the same type.

    Returns:
        [h, w, C, N], of that type.
    """
    stride, ((top, _), (left, _)), dilation = options
    rows, columns, channels, features = shape
    batch, height, width, _ = cotangent.shape
    y = cotangent.transpose(3, 1, 0, 2).reshape(features, height, batch * width)
    reach = stride * (width - 1) + 1
    zero = jnp.zeros((), x.dtype)

    def shifted(j: int) -> jax.Array:
        """The columns of X that tap j sees, [H, B, W', C]."""
        before = left - dilation * j
        sides = (0, 0, 0), (0, 0, 0), (before, reach - before - x.shape[2], 0), (0, 0, 0)
        return lax.pad(x, zero, sides)[:, :, ::stride].transpose(1, 0, 2, 3)

    x = jnp.stack([shifted(j) for j in range(columns)], axis=3)
    x = x.reshape(-1, batch * width, columns * channels)
    gradient = _gradient_along_rows((stride, top, dilation), rows, x, y)
    return gradient.reshape(rows, features, columns, channels).transpose(0, 2, 3, 1)


def _gradient_along_rows(options: Any, rows: int, x: jax.Array, y: jax.Array) -> jax.Array:
    """The same along one axis: X [H, K, C] and Y [N, H', K] → [rows, N, C].

    For a stride of 1 it is the convolution of Y by X, which gives the taps in reverse. For a larger
    one, taps that see the same rows of X, every `stride`-th, are such a case each.
    """
    stride, top, dilation = options
    taps = [jnp.zeros((y.shape[0], x.shape[2]), x.dtype)] * rows
    for phase in range(min(stride, rows)):
        count = len(range(phase, rows, stride))
        # Of these taps' rows, s·m + phase - top, the first that isn't padding.
        before = max(0, -(-(top - phase) // stride))
        seen = x[stride * before + phase - top :: stride]
        if not len(seen):
            continue  # They see nothing but padding.
        reach = dilation * (count - 1)
        low = reach - before
        high = reach - low + seen.shape[0] - y.shape[1]
        # Rows of Y that see nothing but padding are cut off: XLA takes negative padding, but on a
        # CPU the result is wrong.
        within = y[:, max(0, -low) : y.shape[1] - max(0, -high)]
        found = lax.conv_general_dilated(
            within,
            seen,
            (dilation,),
            ((max(0, low), max(0, high)),),
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        for i in range(count):
            taps[phase + stride * i] = found[:, count - 1 - i]
    return jnp.stack(taps)
