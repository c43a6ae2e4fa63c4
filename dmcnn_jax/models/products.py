"""Convolutions as matrix products, for GPUs whose library for convolutions is slow.

The pixels at the taps of a kernel are copied side by side ("im2col"), [B, H', W', h·w·C], and
multiplied by the kernel as a matrix, [h·w·C, N]. This takes several times the memory traffic of a
good convolution, but every GPU is fast at both steps, whatever the dilation.
"""

import jax
import jax.numpy as jnp
from jax import lax

Options = tuple[int, tuple[tuple[int, int], tuple[int, int]], int]
"""Stride, padding ((top, bottom), (left, right)) and dilation of a convolution."""


def convolve(options: Options, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `models.convolution.convolve`.

    Args:
        options: of the convolution.
        x: [B, H, W, C].
        kernel: [h, w, C, N], of the same dtype.

    Returns:
        [B, H', W', N].
    """
    patches = _patches(options, kernel.shape[:2], x)
    return patches @ kernel.reshape(-1, kernel.shape[3])


def gradients(
    options: Options, x: jax.Array, kernel: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes the gradients of `convolve` with respect to x and the kernel.

    Args:
        options: of the convolution.
        x: [B, H, W, C].
        kernel: [h, w, C, N].
        cotangent: [B, H', W', N].

    Returns:
        [B, H, W, C] and [h, w, C, N].
    """
    by_kernel = kernel_gradient(options, kernel.shape, x, cotangent)
    return _image_gradient(options, x, kernel, cotangent), by_kernel


def kernel_gradient(
    options: Options, shape: tuple[int, ...], x: jax.Array, cotangent: jax.Array
) -> jax.Array:
    """Computes the gradient of `convolve` with respect to the kernel.

    Args:
        options: of the convolution.
        shape: of the kernel, [h, w, C, N].
        x: [B, H, W, C].
        cotangent: [B, H', W', N].

    Returns:
        [h, w, C, N].
    """
    patches = _patches(options, shape[:2], x)
    return jnp.einsum("byxk,byxn->kn", patches, cotangent).reshape(shape)


def _image_gradient(
    options: Options, x: jax.Array, kernel: jax.Array, cotangent: jax.Array
) -> jax.Array:
    stride, padding, dilation = options
    if stride == 1:
        # A convolution with the kernel reversed, whose padding adds to the reach of its taps.
        reach = [dilation * (size - 1) for size in kernel.shape[:2]]
        sides = tuple((r - low, r - high) for r, (low, high) in zip(reach, padding, strict=True))
        if all(side >= 0 for pair in sides for side in pair):
            (top, bottom), (left, right) = sides
            options = 1, ((top, bottom), (left, right)), dilation
            return convolve(options, cotangent, kernel[::-1, ::-1].swapaxes(2, 3))
    of_patches = cotangent @ kernel.reshape(-1, kernel.shape[3]).T
    taps = kernel.shape[:2]
    return jax.linear_transpose(lambda x: _patches(options, taps, x), x)(of_patches)[0]


def _patches(options: Options, taps: tuple[int, ...], x: jax.Array) -> jax.Array:
    """Copies the pixels at all taps side by side: [B, H', W', h·w·C]."""
    stride, ((top, bottom), (left, right)), dilation = options
    rows, columns = taps
    if (rows, columns, stride) == (1, 1, 1) and not any((top, bottom, left, right)):
        return x
    x = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    batch, height, width, channels = x.shape
    height = (height - dilation * (rows - 1) - 1) // stride + 1
    width = (width - dilation * (columns - 1) - 1) // stride + 1

    def seen(i: int, j: int) -> jax.Array:
        y, x_ = dilation * i, dilation * j
        ends = y + stride * (height - 1) + 1, x_ + stride * (width - 1) + 1
        strides = 1, stride, stride, 1
        return lax.slice(x, (0, y, x_, 0), (batch, *ends, channels), strides)

    return jnp.concatenate([seen(i, j) for i in range(rows) for j in range(columns)], axis=-1)
