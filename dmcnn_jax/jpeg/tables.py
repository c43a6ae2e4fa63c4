"""JPEG quantisation tables: the standard tables, and their scaling by quality.

A table Q is an integer array ``[..., 8, 8]`` in natural order: ``Q[v, u]`` is the quantisation
step, in grey levels of the orthonormal DCT, of vertical frequency v and horizontal frequency u.
A JPEG file stores it in zigzag order (``ZIGZAG``).
"""

from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

Array = np.ndarray | jax.Array

# ITU-T T.81, table K.1.
STANDARD_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=np.int32,
)
# ITU-T T.81, table K.2.
STANDARD_CHROMA = np.array(
    [
        [17, 18, 24, 47, 99, 99, 99, 99],
        [18, 21, 26, 66, 99, 99, 99, 99],
        [24, 26, 56, 99, 99, 99, 99, 99],
        [47, 66, 99, 99, 99, 99, 99, 99],
        [99, 99, 99, 99, 99, 99, 99, 99],
        [99, 99, 99, 99, 99, 99, 99, 99],
        [99, 99, 99, 99, 99, 99, 99, 99],
        [99, 99, 99, 99, 99, 99, 99, 99],
    ],
    dtype=np.int32,
)
STANDARD_LUMA.flags.writeable = False
STANDARD_CHROMA.flags.writeable = False

MAX_STEP = 65535
"""The largest quantisation step: an entry has 8 or 16 bits in a file."""


def _zigzag() -> np.ndarray:
    v, u = np.divmod(np.arange(64), 8)
    # Diagonal after diagonal; odd ones run downwards, even ones upwards.
    return np.lexsort((np.where((v + u) % 2, v, u), v + u))


ZIGZAG = _zigzag()
"""Natural index 8*v + u of each zigzag position: int64 [64] (T.81, figure A.6)."""
ZIGZAG.flags.writeable = False


@overload
def quality_table(quality: int | np.ndarray, base: np.ndarray = ...) -> np.ndarray: ...
@overload
def quality_table(quality: jax.Array, base: Array = ...) -> jax.Array: ...
@overload
def quality_table(quality: int | Array, base: jax.Array) -> jax.Array: ...


def quality_table(quality: int | Array, base: Array = STANDARD_LUMA) -> Array:
    """Returns the quantisation table of a quality in libjpeg, and so in most programs.

    libjpeg scales the base table to 5000/quality per cent below quality 50, to 200 - 2*quality per
    cent from there on (``jpeg_quality_scaling``), in integers, and clips the steps to 1..255, as
    baseline JPEG requires.

    Args:
        quality: integer or integer array [...] from 1 (worst) to 100. JAX arrays, whose values may
            not be known yet, are clipped to that range, as libjpeg does.
        base: integer table [..., 8, 8]; leading axes broadcast against those of ``quality``.

    Returns:
        int32 tables [..., 8, 8], natural order: a JAX array if an argument is, else a NumPy array.

    Raises:
        ValueError: the quality is not an integer or, where its value is known, not in 1..100; or
            the base is not a table.
    """
    base = check_table(base, name="base")
    xp = jnp if isinstance(quality, jax.Array) or isinstance(base, jax.Array) else np
    if not isinstance(quality, jax.Array):
        quality = np.asarray(quality)
    if not np.issubdtype(quality.dtype, np.integer):
        raise ValueError(
            f"quality {_brief(quality)} has dtype {quality.dtype}; expected integers from 1 to 100:"
            " convert with int() or astype(int)"
        )
    if isinstance(quality, np.ndarray) and np.any((quality < 1) | (quality > 100)):
        raise ValueError(
            f"quality {_brief(quality)} is out of range; expected integers from 1 (worst) to 100"
        )
    # Clipped in its own dtype first: a quality may be a uint8, which cannot hold 5000.
    quality = xp.clip(quality, 1, 100).astype(np.int32)[..., None, None]
    percent = xp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    scaled = (xp.asarray(base, dtype=np.int32) * percent + 50) // 100
    return xp.clip(scaled, 1, 255).astype(np.int32)


def nearest_quality(table: np.ndarray, base: np.ndarray = STANDARD_LUMA) -> int:
    """Returns the quality, 1 to 100, whose standard table is nearest in log₂ of its steps.

    Args:
        table: Q, integers [8, 8].
        base: the standard table at quality 50: of luma or of chroma.
    """
    standard = quality_table(np.arange(1, 101), base)
    distances = np.abs(np.log2(standard) - np.log2(table)).mean(axis=(1, 2))
    return int(np.argmin(distances)) + 1


def varied_table(key: jax.Array, quality: jax.Array, base: np.ndarray = STANDARD_LUMA) -> jax.Array:
    """Draws a random table, similar to those of cameras and other encoders.

    With log2 of the base table, S, and its mean m: m + shift + contrast * (S - m) + noise, as
    powers of 2, scaled by the quality as in libjpeg. Contrast is uniform from 0 (flat) over 1 (as
    steep as the base) to 1.3; shift, in octaves, uniform from -1 to 0.5; noise is normal with
    standard deviation 0.1, so that neighbouring steps differ.

    Args:
        key: a random JAX key.
        quality: JAX integer array [...], 1 to 100.
        base: integers [8, 8], natural order.

    Returns:
        int32 tables [..., 8, 8], natural order, steps of 1 to 255.
    """
    contrast_key, shift_key, noise_key = jax.random.split(key, 3)
    shape = (*quality.shape, 1, 1)
    contrast = jax.random.uniform(contrast_key, shape, maxval=1.3)
    shift = jax.random.uniform(shift_key, shape, minval=-1.0, maxval=0.5)
    noise = 0.1 * jax.random.normal(noise_key, (*quality.shape, 8, 8))
    standard = np.log2(base).astype(np.float32)
    mean = standard.mean()
    octaves = mean + shift + contrast * (standard - mean) + noise
    varied = jnp.clip(jnp.round(jnp.exp2(octaves)), 1, 1000).astype(jnp.int32)
    return quality_table(quality, varied)


@overload
def per_block(table: np.ndarray) -> np.ndarray: ...
@overload
def per_block(table: jax.Array) -> jax.Array: ...


def per_block(table: Array) -> Array:
    """Reshapes a table to broadcast against coefficients: [..., 8, 8] -> [..., 1, 1, 64]."""
    return table.reshape(*table.shape[:-2], 1, 1, 64)


def check_table(table: ArrayLike, name: str = "table") -> Array:
    """Checks an integer table [..., 8, 8] and returns it as an array.

    Values are checked only in NumPy arrays, since reading a JAX array would wait for its device.

    Raises:
        ValueError: the last two axes are not 8 by 8, the dtype is not integer, or a
            quantisation step is not in 1..65535.
    """
    if not isinstance(table, jax.Array):
        table = np.asarray(table)
    if table.ndim < 2 or table.shape[-2:] != (8, 8):
        raise ValueError(
            f"{name} has shape {table.shape}; expected a quantisation table [..., 8, 8] in natural"
            " order"
        )
    if not np.issubdtype(table.dtype, np.integer):
        raise ValueError(
            f"{name} has dtype {table.dtype}; expected integers: quantisation steps are whole"
            " numbers"
        )
    if isinstance(table, np.ndarray) and np.any((table < 1) | (table > MAX_STEP)):
        raise ValueError(
            f"{name} holds steps from {table.min()} to {table.max()}; expected 1..{MAX_STEP}, the"
            " steps that a JPEG file can hold"
        )
    return table


def _brief(array: Array) -> str:
    return str(array) if array.ndim == 0 else f"of shape {array.shape}"
