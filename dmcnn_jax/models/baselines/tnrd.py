"""TNRD: four stages of trained reaction and diffusion (Chen, Pock, TPAMI 2017), for JPEG.

    Y. Chen, T. Pock: Trainable nonlinear reaction diffusion: a flexible framework for fast and
    effective image restoration. IEEE TPAMI 39(6), 2017.

    x = u - Σᵢ rot180(kᵢ) * φᵢ(kᵢ * u)         diffusion, i = 1 … 48, kernels of 7 × 7
    u' = D⁻¹(clip(D(x), k·Q ± 0.4·Q))         reaction: stays near the file's coefficients

This follows the authors' MATLAB code for deblocking. Each of the four stages has its own
parameters: a kernel is a sum of the 48 cosine patterns of 7 × 7 pixels that are not constant,
scaled to unit length; an influence function φ is a sum of 63 Gaussians. Images are mirrored at
their borders. The first u is D⁻¹(k·Q), clipped to the range of 8 bits but not rounded. Gradients
pass the reaction where it does not clip. 21,312 weights; the kernels see 49 × 49 pixels, and the
reaction extends that to whole blocks.

The authors train all stages jointly by L-BFGS, 300 iterations over 400 crops of 176 × 176, on the
squared error of the last stage, which is the loss here too.
"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.models.base import Network
from dmcnn_jax.models.baselines.influence import CENTRES, WIDTH, influence
from dmcnn_jax.models.convolution import convolve_inside
from dmcnn_jax.models.layers import extend, mask_to_scale
from dmcnn_jax.models.losses import half_sum_squares

_SIZE = 7
# Half the width of the reaction's interval, in quantisation steps.
_HALF_WIDTH = 0.4


class TNRD(Network):
    """The network of the TNRD paper; its estimate "jpeg" is the first u.

    Attributes:
        strengths: initial strength of each stage's diffusion: φ starts as strength · 2z / (400 +
            z²).
        reaction: whether stages end with the reaction.
    """

    strengths: Sequence[float] = (10.0, 5.0, 1.0, 1.0)
    reaction: bool = True

    @property
    def halo_blocks(self) -> int:
        """The distance seen to every side, in blocks: each stage sees 6 pixels, so a block."""
        return len(self.strengths)

    def restore_coefficients(
        self, coefficients: jax.Array, table: jax.Array, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Returns the first u, scaled to [0, 1]; see `Network.restore_coefficients`."""
        del mask
        u = jnp.clip(jpeg.idct(jpeg.dequantize(coefficients, table)), -128, 128)
        return (u[..., None] + 128) / 255

    @nn.compact
    def restore_pixels(
        self,
        coefficients: jax.Array,
        table: jax.Array,
        initial: jax.Array,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Runs the stages; see `Network.restore_pixels`."""
        del train
        pixels = mask_to_scale(mask, 8)
        steps = jpeg.per_block(table).astype(jnp.float32)
        centre = jpeg.dequantize(coefficients, table)
        u = initial * 255 - 128
        for i, strength in enumerate(self.strengths, start=1):
            u = _Diffusion(strength, name=f"stage{i}")(u, pixels)
            if self.reaction:
                x = jpeg.dct(u[..., 0])
                x = jnp.clip(x, centre - _HALF_WIDTH * steps, centre + _HALF_WIDTH * steps)
                u = jpeg.idct(x)[..., None]
        return {"image": (u + 128) / 255, "jpeg": initial}

    def loss(self, estimates: Mapping[str, jax.Array], original: jax.Array) -> jax.Array:
        """Returns half the summed squared error of an image, averaged over images."""
        return half_sum_squares(estimates["image"], original)


class _Diffusion(nn.Module):
    """One step of diffusion, u - Σᵢ rot180(kᵢ) * φᵢ(kᵢ * u), u [B, H, W, 1] in grey levels."""

    strength: float

    @nn.compact
    def __call__(self, u: jax.Array, mask: jax.Array | None) -> jax.Array:
        patterns = jnp.asarray(cosine_patterns())
        count = patterns.shape[-1]
        mixture = self.param("filters", lambda _: jnp.eye(count))  # [pattern, filter]
        weights = self.param(
            "influence", lambda _: jnp.asarray(_fit(self.strength))[:, None].repeat(count, 1)
        )  # [Gaussian, filter]
        mixture = mixture / jnp.linalg.norm(mixture, axis=0)
        kernels = jnp.einsum("yxp,pf->yxf", patterns, mixture, precision="highest")[:, :, None]
        responses = influence(_convolve(u, kernels, mask), weights)
        # Turned by 180°, and from 48 channels to one.
        back = kernels[::-1, ::-1].transpose(0, 1, 3, 2)
        return u - _convolve(responses, back, mask)


def cosine_patterns() -> np.ndarray:
    """Returns the basis of the 7 × 7 DCT without the constant: float32 [7, 7, 48], unit length."""
    frequency, position = np.mgrid[:_SIZE, :_SIZE]
    basis = np.cos((2 * position + 1) * frequency * np.pi / (2 * _SIZE))
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    patterns = np.einsum("vy,ux->yxvu", basis, basis).reshape(_SIZE, _SIZE, -1)
    return patterns[..., 1:].astype(np.float32)


def _fit(strength: float) -> np.ndarray:
    """Fits Gaussians to strength · 2z / (400 + z²) and returns their weights, float32 [63]."""
    z = np.arange(CENTRES[0], CENTRES[-1] + 1.0)
    gaussians = np.exp(-((z[:, None] - CENTRES) ** 2) / (2 * WIDTH**2))
    return np.linalg.lstsq(gaussians, strength * 2 * z / (400 + z**2))[0].astype(np.float32)


def _convolve(x: jax.Array, kernels: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Convolves [B, H, W, C] with [7, 7, C, N], mirroring the image at its border."""
    return convolve_inside(extend(x, _SIZE // 2, "symmetric", mask), kernels, exact=True)
