"""The loss of the network for photographs."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from dmcnn_jax.images.color import LUMA_WEIGHTS

# Added to the squared error of a JPEG before it divides that of the result: (2 grey levels)². What
# is nearly perfect already, and chroma that is nearly gray, then weighs less.
_ERROR_FLOOR = (2 / 255) ** 2


def relative_error(
    estimates: Mapping[str, jax.Array], original: jax.Array, chroma_weight: float
) -> jax.Array:
    """Returns the mean over pictures of the errors of luma and chroma, relative to the JPEG's.

        (E(Y) + w · E(C)) / (1 + w),   E = (MSE of the result) / (MSE of the JPEG + floor)

    Relative errors are what a mean of PSNRs measures, and let neither coarse pictures nor luma
    drown the others. Cb and Cr weigh in C as in the error of RGB (`rgb_error_weights`).

    Args:
        estimates: result of `PhotoNet.__call__`.
        original: Y, Cb and Cr, float32 [B, H, W, 3], scaled to [0, 1].
        chroma_weight: w.

    Returns:
        The loss, scalar float32.
    """
    weights = jnp.asarray(rgb_error_weights())

    def errors(planes: jax.Array) -> tuple[jax.Array, jax.Array]:
        squares = jnp.square(planes - original).mean(axis=(1, 2)) * weights
        return squares[:, 0], squares[:, 1] + squares[:, 2]

    luma, chroma = (
        after / (before + _ERROR_FLOOR)
        for after, before in zip(errors(estimates["image"]), errors(estimates["jpeg"]), strict=True)
    )
    return jnp.mean(luma + chroma_weight * chroma) / (1 + chroma_weight)


def rgb_error_weights() -> tuple[float, float, float]:
    """Returns how squared errors of Y, Cb and Cr add to the mean squared error of R, G and B.

    By BT.601, R = Y + 1.402·Cr, G = Y - 0.344·Cb - 0.714·Cr and B = Y + 1.772·Cb. Products of
    errors of different planes are left out.
    """
    red, green, blue = LUMA_WEIGHTS
    to_red, to_blue = 2 * (1 - red), 2 * (1 - blue)
    of_cb = to_blue**2 + (to_blue * blue / green) ** 2
    of_cr = to_red**2 + (to_red * red / green) ** 2
    return 1.0, of_cb / 3, of_cr / 3
