"""Transposed convolutions that are fast on CPUs, GPUs and TPUs."""

import jax
import jax.numpy as jnp
from jax import lax

from dmcnn_jax.models.convolution import (
    convolve,
    convolve_by_xla,
    uses_products,
    xla_kernel_gradient,
)


@jax.custom_vjp
def deconvolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes a 4×4 transposed convolution of stride 2 and padding 1.

    On CPUs, and on GPUs after `use_products`, it is four 2×2 convolutions, one for each phase of
    the output, since XLA's own transposed convolution is slow there. Elsewhere it is XLA's own,
    which needs one pass over the output instead of four and an interleaving. It doesn't support
    `jvp`.

    Args:
        x: [B, H, W, C].
        kernel: [4, 4, C, N], of the same dtype: input m reaches output 2m - 1 + t through tap t.

    Returns:
        [B, 2H, 2W, N].
    """
    return _by_platform(x, kernel)


def _by_platform(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.platform_dependent(
        x,
        kernel,
        **dict.fromkeys(_platforms_of_phases(), deconvolve_by_phases),
        default=deconvolve_by_dilation,
    )


def _platforms_of_phases() -> tuple[str, ...]:
    return ("cpu", "cuda") if uses_products() else ("cpu",)


def _deconvolve_forward(
    x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _by_platform(x, kernel), (x, kernel)


def _deconvolve_backward(
    residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    found: tuple[jax.Array, jax.Array] = lax.platform_dependent(
        *residuals,
        cotangent,
        **dict.fromkeys(_platforms_of_phases(), _gradients_of_phases),
        default=gradients_by_striding,
    )
    return found


deconvolve.defvjp(_deconvolve_forward, _deconvolve_backward)


def deconvolve_by_phases(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `deconvolve` as four 2×2 convolutions, whose outputs are interleaved.

    Along an axis, output 2m depends on inputs m - 1 and m through taps 3 and 1, and output 2m + 1
    on inputs m and m + 1 through taps 2 and 0.
    """
    batch, height, width, _ = x.shape

    def phase(p: int, q: int) -> jax.Array:  # [B, H, W, N], outputs (2m + p, 2n + q)
        return convolve(x, kernel[3 - p :: -2, 3 - q :: -2], padding=((1 - p, p), (1 - q, q)))

    rows = [jnp.stack([phase(p, 0), phase(p, 1)], axis=3) for p in (0, 1)]
    y = jnp.stack(rows, axis=2)  # [B, H, 2, W, 2, N]
    return y.reshape(batch, 2 * height, 2 * width, kernel.shape[3])


def deconvolve_by_dilation(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `deconvolve` as one convolution of the input with zeros between its pixels.

    XLA recognises it as the gradient of a strided convolution, for which GPUs have special kernels.
    """
    return lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1],
        (1, 1),
        ((2, 2), (2, 2)),
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _gradients_of_phases(
    x: jax.Array, kernel: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes the gradients of `deconvolve_by_phases`."""
    return jax.vjp(deconvolve_by_phases, x, kernel)[1](cotangent)


def gradients_by_striding(
    x: jax.Array, kernel: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes the gradients of `deconvolve` as those of the convolution that it transposes.

    That convolution S has a stride of 2. With y = Sᵀ(x), the gradient with respect to x is S of the
    cotangent, and the gradient with respect to the kernel is that of S, with the cotangent as its
    input and x as its cotangent.

    Args:
        x: [B, H, W, C].
        kernel: [4, 4, C, N].
        cotangent: [B, 2H, 2W, N].

    Returns:
        The gradients with respect to x and the kernel.
    """
    options = 2, ((1, 1), (1, 1)), 1
    strided = kernel.swapaxes(2, 3)
    by_kernel = xla_kernel_gradient(options, strided.shape, cotangent, x)
    return convolve_by_xla(options, cotangent, strided), by_kernel.swapaxes(2, 3)
