"""Losses: of float32 [B, H, W, C], pixels scaled to [0, 1]; all results are scalars."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def mse(estimate: jax.Array, original: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """The mean squared error over all elements, in float32; with weights [B], of examples."""
    errors = jnp.square(estimate.astype(jnp.float32) - original.astype(jnp.float32))
    return jnp.mean(errors if weights is None else errors * weights.reshape(-1, 1, 1, 1))


def relative_weights(start: jax.Array, original: jax.Array) -> jax.Array:
    """What makes the error of each example count relative to that of what it starts from.

    A mean of squared errors is decided by the examples that are hard, a mean of PSNR by all alike:
    to first order in what is gained, that is this weighting.

    Args:
        start: C, [B, H, W, 1].
        original: O, [B, H, W, 1].

    Returns:
        1 / (MSE of an example + 1e-6), [B]; the constant is (¼ grey level)².
    """
    errors = jnp.square(start.astype(jnp.float32) - original.astype(jnp.float32))
    return 1 / (jnp.mean(errors, axis=(1, 2, 3)) + 1e-6)


def multi_scale_loss(
    estimates: Sequence[jax.Array],
    original: jax.Array,
    theta: float,
    weights: jax.Array | None = None,
) -> jax.Array:
    """Σᵢ θⁱ · MSE(Õᵢ, Oᵢ), the first term of equation 7 of the paper.

    Args:
        estimates: Õᵢ, i = 0, 1, …, [B, H / 2ⁱ, W / 2ⁱ, 1].
        original: O₀, [B, H, W, 1]; Oᵢ is its mean over 2ⁱ × 2ⁱ pixels.
        theta: weight of a scale against the next finer one.
        weights: of examples, [B]; None: 1.

    Returns:
        The loss, scalar float32.
    """
    terms = (
        theta**i * mse(estimate, average_pool(original, 2**i), weights)
        for i, estimate in enumerate(estimates)
    )
    return sum(terms, jnp.zeros((), jnp.float32))


def average_pool(x: jax.Array, factor: int) -> jax.Array:
    """The mean over factor × factor cells, [B, H, W, C] → [B, H / factor, W / factor, C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return x.mean(axis=(2, 4))


def half_sum_squares(estimate: jax.Array, original: jax.Array) -> jax.Array:
    """½ Σ (estimate - original)² of an image, mean over images: Caffe's and MatConvNet's L2 loss.

    Learning rates published for SGD with those packages are meant for this sum.
    """
    errors = jnp.square(estimate.astype(jnp.float32) - original.astype(jnp.float32))
    return jnp.sum(errors) / (2 * len(errors))
