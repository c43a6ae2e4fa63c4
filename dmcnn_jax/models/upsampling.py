"""Upsampling of chroma inside a network, as libjpeg does it but without its rounding.

`jpeg.resampling.upsample` is the same filter in NumPy: on whole planes, in libjpeg's integer
arithmetic, even for planes of at most two columns. Networks need the filter in JAX, in floating
point, on batches of masked tiles, with a gradient. A test compares the two implementations.
"""

import jax
import jax.numpy as jnp

from dmcnn_jax.models.layers import extend


def upsample(
    planes: jax.Array, subsampling: tuple[int, int], mask: jax.Array | None = None
) -> jax.Array:
    """Brings planes to full size.

    By a factor of two, a new sample is 3/4 of the nearer old one and 1/4 of the other, along either
    axis; at the border it equals the old one. By other factors, samples are repeated.

    Args:
        planes: float32 [B, h, w, C].
        subsampling: rows and columns of the result to a sample.
        mask: bool [B, h / 8, w / 8, 1], true on blocks of the image, whose border then counts as
            the border of the planes.

    Returns:
        float32 [B, subsampling[0] · h, subsampling[1] · w, C]; arbitrary outside of the image.
    """
    planes = interpolate(planes, subsampling, None if mask is None else repeat(mask, (8, 8)))
    down, across = (1 if factor == 2 else factor for factor in subsampling)
    return repeat(planes, (down, across))


def interpolate(
    planes: jax.Array, factors: tuple[int, int], mask: jax.Array | None = None
) -> jax.Array:
    """Doubles planes by the filter of `upsample`, along the axes whose factor is 2.

    Args:
        planes: float32 [B, h, w, C].
        factors: of rows and of columns; other factors than 2 leave an axis as it is.
        mask: bool [B, h, w, 1], true on samples of the image.

    Returns:
        float32 [B, h or 2h, w or 2w, C].
    """
    if 2 not in factors:
        return planes
    padded = extend(planes, 1, "edge", mask)
    for axis, factor in enumerate(factors, start=1):
        if factor == 2:
            padded = _double(padded, axis)
        else:
            padded = jax.lax.slice_in_dim(padded, 1, padded.shape[axis] - 1, axis=axis)
    return padded


def repeat(x: jax.Array, factors: tuple[int, int]) -> jax.Array:
    """Repeats rows and columns, [B, H, W, C] → [B, factors[0] · H, factors[1] · W, C]."""
    return jnp.repeat(jnp.repeat(x, factors[0], axis=1), factors[1], axis=2)


def _double(x: jax.Array, axis: int) -> jax.Array:
    """Doubles an axis, whose first and last samples are only neighbours of the others."""
    before, x, after = (
        jax.lax.slice_in_dim(x, i, x.shape[axis] - 2 + i, axis=axis) for i in range(3)
    )
    pairs = jnp.stack([(3 * x + before) / 4, (3 * x + after) / 4], axis=axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
