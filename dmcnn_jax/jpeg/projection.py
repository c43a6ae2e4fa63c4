"""Projection of planes onto the quantisation intervals of a JPEG file.

A plane quantises to the file's coefficients k if each coefficient of its DCT lies in k·Q ± Q/2. The
transform is orthonormal, so clipping each coefficient to its interval gives the nearest such plane.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax.jpeg.dct import dct, idct, interval

INTERVAL_INSET = 0.01
"""Intervals shrink by this many grey levels on both sides, since encoders break ties differently.
"""

PROJECTED_ROWS = 64
"""Rows of blocks that are projected at a time, to bound memory."""


@jax.jit
def project_plane(plane: jax.Array, coefficients: jax.Array, table: jax.Array) -> jax.Array:
    """Returns the nearest plane that quantises to given coefficients.

    Args:
        plane: float32 [..., H, W], pixels scaled to [0, 1].
        coefficients: k, integers [..., H/8, W/8, 64].
        table: Q, integers [..., 8, 8].

    Returns:
        float32 [..., H, W], with round(D(255 · plane - 128) / Q) = k.
    """
    return plane + _correction(plane, coefficients, table, -INTERVAL_INSET)


def project_upsampled(
    image: jax.Array, coefficients: jax.Array, table: jax.Array, margin: float = -INTERVAL_INSET
) -> jax.Array:
    """Returns the nearest image whose averages over chroma samples lie in the intervals.

    An encoder averages chroma over the pixels of a sample before it quantises. The nearest image
    with given averages differs by the same amount in all pixels of a sample, so this averages,
    projects the averages, and repeats their change.

    Args:
        image: planes at full size, float32 [B, H, W, C], scaled to [0, 1].
        coefficients: k, integers [B, C, h, w, 64]; the subsampling is H / 8h by W / 8w.
        table: Q, integers [B, C, 8, 8].
        margin: grey levels by which intervals are widened on both sides; negative: shrunk.

    Returns:
        float32 [B, H, W, C].
    """
    rows, columns = coefficients.shape[2:4]
    batch, height, width, channels = image.shape
    down, across = height // (8 * rows), width // (8 * columns)
    cells = image.reshape(batch, 8 * rows, down, 8 * columns, across, channels)
    planes = jnp.moveaxis(cells.mean(axis=(2, 4)), -1, 1)
    moved = jnp.moveaxis(_correction(planes, coefficients, table, margin), 1, -1)
    return image + jnp.repeat(jnp.repeat(moved, down, axis=1), across, axis=2)


def project_in_bands(plane: np.ndarray, coefficients: np.ndarray, table: np.ndarray) -> None:
    """Projects a plane of any size in place, as `project_plane`, a band of blocks at a time.

    Args:
        plane: float32 [H, W], pixels scaled to [0, 1].
        coefficients: k, integers [H/8, W/8, 64].
        table: Q, integers [8, 8].
    """
    for top in range(0, len(coefficients), PROJECTED_ROWS):
        rows = slice(8 * top, 8 * (top + PROJECTED_ROWS))
        plane[rows] = project_plane(plane[rows], coefficients[top : top + PROJECTED_ROWS], table)


def project_upsampled_in_bands(
    plane: np.ndarray, coefficients: np.ndarray, table: np.ndarray, subsampling: tuple[int, int]
) -> None:
    """Projects an upsampled plane of any size in place, a band of blocks at a time.

    Arguments as in `project_upsampled_band`.
    """
    block = 8 * subsampling[0]
    for first in range(0, len(coefficients), PROJECTED_ROWS):
        last = min(first + PROJECTED_ROWS, len(coefficients))
        band = plane[block * first : block * last]
        project_upsampled_band(band, coefficients[first:last], table, subsampling)


def project_upsampled_band(
    plane: np.ndarray, coefficients: np.ndarray, table: np.ndarray, subsampling: tuple[int, int]
) -> None:
    """Projects a band of one upsampled plane in place, as `project_upsampled`.

    Args:
        plane: float32 [8h · subsampling[0], 8w · subsampling[1]], levels 0 to 255.
        coefficients: k, integers [h, w, 64].
        table: Q, integers [8, 8].
        subsampling: rows and columns of the plane to a sample.
    """
    down, across = subsampling
    rows, columns, _ = coefficients.shape
    samples = plane.reshape(8 * rows, down, 8 * columns, across).mean(axis=(1, 3))
    moved = np.asarray(project_plane(samples / 255, coefficients, table)) * 255 - samples
    plane += np.repeat(np.repeat(moved, down, axis=0), across, axis=1)


def _correction(
    plane: jax.Array, coefficients: jax.Array, table: jax.Array, margin: float
) -> jax.Array:
    """Returns the correction to add to a plane; exactly zero for blocks within their intervals."""
    lower, upper = interval(coefficients, table, margin)
    x = dct(plane * 255 - 128)
    return idct(jnp.clip(x, lower, upper) - x) / 255
