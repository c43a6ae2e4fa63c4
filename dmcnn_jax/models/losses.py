"""Losses of images, float32 [B, H, W, C] with pixels scaled to [0, 1]; all are scalars."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def mse(estimate: jax.Array, original: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """Returns the mean squared error in float32, optionally with weights [B] of examples."""
    errors = jnp.square(estimate.astype(jnp.float32) - original.astype(jnp.float32))
    return jnp.mean(errors if weights is None else errors * weights.reshape(-1, 1, 1, 1))


def relative_weights(start: jax.Array, original: jax.Array) -> jax.Array:
    """Returns weights that make each example's error relative to its error before restoration.

    Hard examples dominate a mean of squared errors, while all count alike in a mean of PSNR. To
    first order in the improvement, this weighting optimises the mean of PSNR.

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
    """Returns Σᵢ θⁱ · MSE(Õᵢ, Oᵢ), the first term of equation 7 of the paper.

    Args:
        estimates: Õᵢ, i = 0, 1, …, [B, H / 2ⁱ, W / 2ⁱ, 1].
        original: O₀, [B, H, W, 1]; Oᵢ is its mean over 2ⁱ × 2ⁱ pixels.
        theta: weight of a scale relative to the next finer one.
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
    """Averages factor × factor cells, [B, H, W, C] → [B, H / factor, W / factor, C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return x.mean(axis=(2, 4))


def half_sum_squares(estimate: jax.Array, original: jax.Array) -> jax.Array:
    """Returns ½ Σ (estimate - original)² per image, averaged over images.

    This is the L2 loss of Caffe and MatConvNet; learning rates published for SGD with these
    packages assume it.
    """
    errors = jnp.square(estimate.astype(jnp.float32) - original.astype(jnp.float32))
    return jnp.sum(errors) / (2 * len(errors))
