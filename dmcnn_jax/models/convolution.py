"""Convolutions that are fast on CPUs, and on GPUs whose library is slow at them.

A convolution is XLA's own, except for its gradient with respect to the kernel: on CPUs, and on GPUs
if it is dilated. `use_products` replaces all of it by matrix products on GPUs, see
`models.products`.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from dmcnn_jax.models import products
from dmcnn_jax.models.products import Options


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: Sequence[Sequence[int]] = ((0, 0), (0, 0)),
    dilation: int = 1,
) -> jax.Array:
    """Computes `lax.conv_general_dilated`, with a faster kernel gradient on CPUs.

    It supports jit, grad and vmap. It doesn't support `jvp`, since that gradient is a custom VJP,
    except for batches of symbolic size, which don't have it.

    Args:
        x: [B, H, W, C].
        kernel: [h, w, C, N], of the same dtype.
        stride: distance between outputs, pixels.
        padding: zeros before and after, for each of both axes.
        dilation: distance between neighbouring taps, pixels.

    Returns:
        [B, H', W', N].
    """
    (top, bottom), (left, right) = padding
    options = stride, ((top, bottom), (left, right)), dilation
    # The batch is a symbol only in exported programs, which are not used for training.
    known = isinstance(x.shape[0], int)
    return (_convolve_trained if known else _convolve)(options, x, kernel)


def convolve_inside(x: jax.Array, kernel: jax.Array, *, exact: bool = False) -> jax.Array:
    """Computes `convolve` where the kernel lies within the image.

    XLA's convolutions on CPUs take up to seven times as long if there is no padding at all, so a
    row of zeros is appended here, and what depends on it is dropped.

    Args:
        x: [B, H, W, C].
        kernel: [h, w, C, N], of the same dtype.
        exact: whether GPUs and TPUs have to compute in float32 too, not in TensorFloat-32 or
            bfloat16.

    Returns:
        [B, H - h + 1, W - w + 1, N].
    """

    def padded(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolve(x, kernel, padding=((0, 1), (0, 0)))[:, :-1]

    def in_float32(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )

    if not exact:
        return padded(x, kernel)
    # CPUs compute in float32 anyway; if that is demanded, XLA has no fast convolutions for them.
    return lax.platform_dependent(x, kernel, cpu=padded, default=in_float32)


# Whether GPUs compute convolutions as matrix products.
_by_products = False


def use_products(enabled: bool) -> None:
    """Chooses how GPUs compute convolutions, for programs compiled after the call.

    Args:
        enabled: True: as matrix products; False: by the GPU's convolution library.
    """
    global _by_products
    if enabled != _by_products:
        _by_products = enabled
        # Programs already traced by JAX contain the previous choice.
        jax.clear_caches()


def uses_products() -> bool:
    """Returns the choice of `use_products`, initially False."""
    return _by_products


def _convolve(options: Options, x: jax.Array, kernel: jax.Array) -> jax.Array:
    own = partial(convolve_by_xla, options)
    if not _by_products:
        return own(x, kernel)
    return lax.platform_dependent(x, kernel, cuda=partial(products.convolve, options), default=own)


def convolve_by_xla(options: Options, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `lax.conv_general_dilated`; arguments as in `convolve`."""
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
def _convolve_trained(options: Options, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _convolve(options, x, kernel)


def _forward(
    options: Options, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(options, x, kernel), (x, kernel)


def _backward(
    options: Options, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    if _by_products:
        found: tuple[jax.Array, jax.Array] = lax.platform_dependent(
            x,
            kernel,
            cotangent,
            cuda=partial(products.gradients, options),
            default=partial(_gradients, options),
        )
        return found
    return _gradients(options, x, kernel, cotangent)


def _gradients(
    options: Options, x: jax.Array, kernel: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes both gradients; the kernel's by separate methods on CPUs and GPUs."""
    own = partial(convolve_by_xla, options)
    (by_x,) = jax.linear_transpose(lambda x: own(x, kernel), x)(cotangent)
    _, _, dilation = options
    ways = {
        "cpu": _fastest_kernel_gradient(options, x, cotangent),
        # XLA recognises a gradient with respect to the kernel by its stride of 1. That of a dilated
        # kernel has a stride, and becomes a convolution whose kernel is as large as the image.
        "cuda": products.kernel_gradient if dilation > 1 else xla_kernel_gradient,
        "default": xla_kernel_gradient,
    }
    bound = {name: partial(way, options, kernel.shape) for name, way in ways.items()}
    # Chosen when lowered, since a program may be compiled for another platform.
    return by_x, lax.platform_dependent(x, cotangent, **bound)


_convolve_trained.defvjp(_forward, _backward)

Shape = tuple[int, ...]
KernelGradient = Callable[[Options, Shape, jax.Array, jax.Array], jax.Array]

# With fewer channels or fewer pixels XLA's own gradient is nearly as fast and compiles sooner,
# unless the batch is odd, where its kernels are up to 15 times slower, or only the features are
# few: the gradient of 64 → 1 channels takes XLA as long as that of 64 → 64.
_FEW_CHANNELS, _FEW_PIXELS = 8, 100


def _fastest_kernel_gradient(
    options: Options, x: jax.Array, cotangent: jax.Array
) -> KernelGradient:
    """Returns the function that computes the kernel's gradient fastest on CPUs."""
    stride, _, dilation = options
    batch, height, width, features = cotangent.shape
    if features < _FEW_CHANNELS <= x.shape[3] and stride == 1:
        return narrow_kernel_gradient
    few = min(x.shape[3], features) < _FEW_CHANNELS or height * width < _FEW_PIXELS
    odd = batch > 1 and batch % 2 == 1
    # XLA is slow at convolutions with a kernel longer than the input.
    long = x.shape[1] > stride * height
    if (few and not odd) or long or (stride > 1 and dilation > 1):
        return xla_kernel_gradient
    return kernel_gradient


def xla_kernel_gradient(
    options: Options, shape: Shape, x: jax.Array, cotangent: jax.Array
) -> jax.Array:
    """Computes the result of `kernel_gradient` by XLA's own gradient; same arguments."""
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    own = partial(convolve_by_xla, options)
    return jax.linear_transpose(lambda kernel: own(x, kernel), kernel)(cotangent)[0]


def narrow_kernel_gradient(
    options: Options, shape: Shape, x: jax.Array, cotangent: jax.Array
) -> jax.Array:
    """Computes the result of `kernel_gradient` for few features; same arguments, a stride of 1.

    Copies of Y, one for each tap, are multiplied by X:

        G[i, j] = Σ over b, p, q of X[b, p, q]ᵀ · Y[b, p - d·i + top, q - d·j + left]
    """
    _, ((top, _), (left, _)), dilation = options
    rows, columns, channels, features = shape
    height, width = x.shape[1:3]
    zero = jnp.zeros((), cotangent.dtype)

    def shifted(i: int, j: int) -> jax.Array:
        """Returns Y at a tap, [B, H, W, N]."""
        above, before = dilation * i - top, dilation * j - left
        below = height - above - cotangent.shape[1]
        after = width - before - cotangent.shape[2]
        sides = (0, 0, 0), (above, below, 0), (before, after, 0), (0, 0, 0)
        return lax.pad(cotangent, zero, sides)

    copies = jnp.concatenate([shifted(i, j) for i in range(rows) for j in range(columns)], axis=3)
    gradient = x.reshape(-1, channels).T @ copies.reshape(-1, rows * columns * features)
    return gradient.reshape(channels, rows, columns, features).transpose(1, 2, 0, 3)


def kernel_gradient(
    options: Options, shape: Shape, x: jax.Array, cotangent: jax.Array
) -> jax.Array:
    """Computes the gradient of a convolution with respect to its kernel, fast on CPUs.

        G[i, j] = Σ over b, y, x of X[b, s·y + d·i - top, s·x + d·j - left]ᵀ · Y[b, y, x]

    XLA computes it as a convolution over y and x that contracts the examples of the batch. With so
    few channels, it takes two or three times as long as the forward pass. This function computes it
    as a convolution over y that contracts examples and columns at once, with copies of X, shifted
    by d·j, as its outputs.

    Args:
        options: stride s, padding and dilation d of the convolution; s or d is 1.
        shape: of the kernel, [h, w, C, N].
        x: X, [B, H, W, C], of a floating-point dtype.
        cotangent: Y, [B, H', W', N], of the same dtype.

    Returns:
        G, [h, w, C, N], of that dtype.
    """
    stride, ((top, _), (left, _)), dilation = options
    rows, columns, channels, features = shape
    batch, height, width, _ = cotangent.shape
    y = cotangent.transpose(3, 1, 0, 2).reshape(features, height, batch * width)
    reach = stride * (width - 1) + 1
    zero = jnp.zeros((), x.dtype)

    def shifted(j: int) -> jax.Array:
        """Returns the columns of X at tap j, [H, B, W', C]."""
        before = left - dilation * j
        sides = (0, 0, 0), (0, 0, 0), (before, reach - before - x.shape[2], 0), (0, 0, 0)
        return lax.pad(x, zero, sides)[:, :, ::stride].transpose(1, 0, 2, 3)

    x = jnp.stack([shifted(j) for j in range(columns)], axis=3)
    x = x.reshape(-1, batch * width, columns * channels)
    gradient = _gradient_along_rows(stride, top, dilation, rows, x, y)
    return gradient.reshape(rows, features, columns, channels).transpose(0, 2, 3, 1)


def _gradient_along_rows(
    stride: int, top: int, dilation: int, rows: int, x: jax.Array, y: jax.Array
) -> jax.Array:
    """Computes the gradient along one axis, X [H, K, C] and Y [N, H', K] → [rows, N, C].

    For a stride of 1 it is the convolution of Y by X, which gives the taps in reverse. For a larger
    stride, the taps that see the same rows of X, every `stride`-th one, are computed together.
    """
    taps = [jnp.zeros((y.shape[0], x.shape[2]), x.dtype)] * rows
    for phase in range(min(stride, rows)):
        count = len(range(phase, rows, stride))
        # These taps see rows s·m + phase - top of X; the first that isn't padding is at m = before.
        before = max(0, -(-(top - phase) // stride))
        seen = x[stride * before + phase - top :: stride]
        if not len(seen):
            continue  # They see only padding.
        reach = dilation * (count - 1)
        low = reach - before
        high = reach - low + seen.shape[0] - y.shape[1]
        # Rows of Y that see only padding are cut off here, since XLA's negative padding gives wrong
        # results on CPUs.
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
