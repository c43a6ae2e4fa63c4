"""Projects planes onto the quantisation intervals of a JPEG file."""

import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg

BAND = 64
"""Rows of blocks that `project_in_bands` projects at a time."""

INTERVAL_INSET = 0.01
"""By how much intervals shrink at either end, grey levels."""


@jax.jit
def project_plane(plane: jax.Array, coefficients: jax.Array, table: jax.Array) -> jax.Array:
    """Returns the nearest plane that quantises to given coefficients.

    The transform is orthonormal, so the nearest point is found by clipping each coefficient to its
    interval, k·Q ± Q/2. Intervals shrink by `INTERVAL_INSET`: encoders break ties differently.

    Args:
        plane: float32 [..., H, W], pixels scaled to [0, 1].
        coefficients: k, integers [..., H/8, W/8, 64].
        table: Q, integers [..., 8, 8].

    Returns:
        float32 [..., H, W], with round(D(255 · plane - 128) / Q) = k.
    """
    lower, upper = jpeg.interval(coefficients, table, margin=-INTERVAL_INSET)
    x = jpeg.dct(plane * 255 - 128)
    # Computed as a correction, so that planes within their intervals keep their bits.
    return plane + jpeg.idct(jnp.clip(x, lower, upper) - x) / 255


def project_in_bands(plane: np.ndarray, coefficients: np.ndarray, table: np.ndarray) -> None:
    """Applies `project_plane` in place, a band of blocks at a time: for planes of any size.

    Args:
        plane: float32 [H, W], pixels scaled to [0, 1].
        coefficients: k, integers [H/8, W/8, 64].
        table: Q, integers [8, 8].
    """
    for top in range(0, len(coefficients), BAND):
        rows = slice(8 * top, 8 * (top + BAND))
        plane[rows] = project_plane(plane[rows], coefficients[top : top + BAND], table)
