"""DDCN: joint learning in the pixel and the DCT domain (Guo, Chao, ECCV 2016).

    J. Guo, H. Chao: Building dual-domain representations for compression artifacts reduction.
    ECCV 2016.

    X = DRU(k·Q + f(k·Q))                     the DCT branch, ten layers on the grid of blocks
    Õ = C + h(g(C), D⁻¹(X))                   g and h: ten layers each, joined by concatenation

According to other papers it has two branches learned jointly, a residual output, Adam, patches of
55 × 55, a receptive field of 41 × 41 pixels, and a DCT rectify unit with a leaky slope outside
k·Q ± Q/2.

Assumed, since the authors' code is not public: 3×3 layers throughout, 64 wide, with ReLU; ten
before the join and ten after it (twenty give the receptive field of 41; the DCT branch sees 21
blocks); slope 0.1; He initialisation; the mean squared error of the output as the only loss. This
gives 1,035,777 weights; the authors' count is not published.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax import jpeg
from dmcnn_jax.models.base import Network
from dmcnn_jax.models.layers import SLOPE, apply_mask, conv, mask_to_scale, near_zero_init

_init = nn.initializers.he_normal()
# Grey levels by which coefficients are divided to suit the input of a network.
_SCALE = 128


class DDCN(Network):
    """The network of the DDCN paper.

    A further estimate is "dct", that of the DCT branch, [B, H, W, 1].

    Attributes:
        features: channels of all layers.
        depth: number of layers of each of f, g and h.
        dtype: type that g and h compute in; f computes in float32.
    """

    features: int = 64
    depth: int = 10
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """Creates f, g and h."""
        self.f = _Stack(self.features, self.depth, 64)
        self.g = _Stack(self.features, self.depth, None, self.dtype)
        self.h = _Stack(self.features, self.depth, 1, self.dtype)

    @property
    def halo_blocks(self) -> int:
        """The radius of the receptive field, in blocks: of f, and of h after it."""
        return self.depth + -(-self.depth // 8)

    def restore_pixels(
        self,
        coefficients: jax.Array,
        table: jax.Array,
        decoded: jax.Array,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Runs both branches and the layers after their join; see `Network.restore_pixels`."""
        del train
        pixels = mask_to_scale(mask, 8)
        dct = self._estimate_coefficients(coefficients, table, mask)
        features = self.g(apply_mask(decoded, pixels), pixels)
        both = jnp.concatenate([features, apply_mask(dct, pixels).astype(self.dtype)], axis=-1)
        image = decoded + self.h(both, pixels).astype(jnp.float32)
        return {"image": image, "dct": dct, "jpeg": decoded}

    def _estimate_coefficients(
        self, coefficients: jax.Array, table: jax.Array, mask: jax.Array | None
    ) -> jax.Array:
        """Runs the DCT branch and returns D⁻¹(X), float32 [B, H, W, 1], scaled to [0, 1]."""
        x = jpeg.dequantize(coefficients, table)
        x = x + _SCALE * self.f(apply_mask(x / _SCALE, mask), mask)
        clipped = jnp.clip(x, *jpeg.interval(coefficients, table, margin=0.0))
        return (jpeg.idct(clipped + SLOPE * (x - clipped))[..., None] + 128) / 255


class _Stack(nn.Module):
    """A chain of 3×3 convolutions with ReLU.

    Attributes:
        features: channels.
        depth: number of convolutions.
        outputs: channels of the last convolution, which has no ReLU then; None: it is like the
            others.
        dtype: type to compute in.
    """

    features: int
    depth: int
    outputs: int | None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        hidden = self.depth - (self.outputs is not None)
        for i in range(1, hidden + 1):
            x = conv(self.features, kernel_init=_init, dtype=self.dtype, name=f"conv{i}")(x)
            x = apply_mask(nn.relu(x), mask)
        if self.outputs is None:
            return x
        name = f"conv{self.depth}"
        return conv(self.outputs, kernel_init=near_zero_init, dtype=self.dtype, name=name)(x)
