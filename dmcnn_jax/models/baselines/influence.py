"""TNRD's influence functions, sums of Gaussians, with a gradient that is fast on CPUs.

Centres μⱼ are as far apart as the Gaussians are wide, s. With τ = (z - c) / s, the nine Gaussians
around a centre c are therefore exp(-τ²/2) · exp(jτ) · exp(-j²/2), j = -4 … 4: polynomials in exp(τ)
and exp(-τ), so that three exponentials are enough for nine Gaussians.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

CENTRES = np.arange(-310, 311, 10)
"""Centres of the Gaussians, grey levels."""
WIDTH = 10
"""Standard deviation of the Gaussians, grey levels."""

# Gaussians to each side of the middle one that share exponentials.
_REACH = 4


@jax.custom_vjp
def influence(z: jax.Array, weights: jax.Array) -> jax.Array:
    """Computes φ(z) = Σⱼ wⱼ exp(-(z - μⱼ)² / 2s²), μ = -310, -300 … 310, s = 10, per channel.

    It doesn't support `jvp`.

    Args:
        z: float32 [..., C], grey levels.
        weights: float32 [63, C].

    Returns:
        float32 [..., C].
    """
    total = jnp.zeros_like(z)
    for middle, _, bump, up, down in _groups(z):
        above = below = jnp.zeros_like(z)
        for j in range(_REACH, 0, -1):
            above = (above + _scale(j) * weights[middle + j]) * up
            below = (below + _scale(j) * weights[middle - j]) * down
        total += bump * (above + weights[middle] + below)
    return total


def _forward(z: jax.Array, weights: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return influence(z, weights), (z, weights)


def _backward(
    residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    z, weights = residuals
    by_weights = lax.platform_dependent(
        z,
        cotangent,
        cpu=partial(_weight_gradient, chunk=_CHUNK),
        default=partial(_weight_gradient, chunk=z[0].size // z.shape[-1]),
    )
    return cotangent * _slope(z, weights), by_weights


influence.defvjp(_forward, _backward)


class _Group(NamedTuple):
    """Nine Gaussians: the middle one's index, τ, the Gaussian's value, exp(τ) and exp(-τ)."""

    middle: int
    tau: jax.Array
    bump: jax.Array
    up: jax.Array
    down: jax.Array


def _groups(z: jax.Array) -> Iterator[_Group]:
    for middle in range(_REACH, len(CENTRES), 2 * _REACH + 1):
        # Beyond 12 the Gaussians are below 1e-13, and exp(4τ) would soon overflow float32.
        tau = jnp.clip((z - CENTRES[middle]) / WIDTH, -12, 12)
        yield _Group(middle, tau, jnp.exp(-(tau**2) / 2), jnp.exp(tau), jnp.exp(-tau))


def _scale(j: int) -> float:
    return float(np.exp(-(j**2) / 2))


def _slope(z: jax.Array, weights: jax.Array) -> jax.Array:
    """Computes φ'(z) = Σⱼ wⱼ · (μⱼ - z) / s² · exp(-(z - μⱼ)² / 2s²)."""
    total = jnp.zeros_like(z)
    for middle, tau, bump, up, down in _groups(z):
        above = below = jnp.zeros_like(z)
        for j in range(_REACH, 0, -1):
            above = (above + _scale(j) * weights[middle + j] * (j - tau)) * up
            below = (below - _scale(j) * weights[middle - j] * (j + tau)) * down
        total += bump * (above - tau * weights[middle] + below)
    return total / WIDTH


# Pixels of an example summed at a time on CPUs. The terms of so few stay in the cache, so that a
# gradient takes a fifth of the time.
_CHUNK = 512


def _weight_gradient(z: jax.Array, cotangent: jax.Array, *, chunk: int) -> jax.Array:
    """Computes Σ over pixels of g · exp(-(z - μⱼ)² / 2s²): [63, C].

    Sums of examples stay separate until the end, since devices have an example each.
    """
    examples, channels = z.shape[0], z.shape[-1]
    pixels = z.size // (examples * channels)
    chunks = -(-pixels // chunk)

    def split(x: jax.Array) -> jax.Array:
        """Returns chunks of all examples: [chunks, chunk, examples, C]."""
        x = x.reshape(examples, pixels, channels)
        x = jnp.pad(x, ((0, 0), (0, chunks * chunk - pixels), (0, 0)))
        return x.reshape(examples, chunks, chunk, channels).transpose(1, 2, 0, 3)

    def add_chunk(total: jax.Array, parts: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        z, cotangent = parts
        # As a product by ones, since XLA's sums are slow beside an axis of one example.
        add_pixels = partial(jnp.einsum, "n,nbc->bc", jnp.ones(chunk, z.dtype), precision="highest")
        sums = [jnp.zeros((examples, channels))] * len(CENTRES)
        for middle, _, bump, up, down in _groups(z):
            above = below = cotangent * bump
            sums[middle] = add_pixels(above)
            for j in range(1, _REACH + 1):
                above, below = above * up, below * down
                sums[middle + j] = _scale(j) * add_pixels(above)
                sums[middle - j] = _scale(j) * add_pixels(below)
        return total + jnp.stack(sums, axis=1), None

    start = jnp.zeros((examples, len(CENTRES), channels), z.dtype)
    total: jax.Array = lax.scan(add_chunk, start, (split(z), split(cotangent)))[0]
    return total.sum(axis=0)
