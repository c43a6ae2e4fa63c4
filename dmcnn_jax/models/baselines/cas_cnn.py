"""CAS-CNN: an auto-encoder over four scales (Cavigelli, Hager, Benini, IJCNN 2017).

    L. Cavigelli, P. Hager, L. Benini: CAS-CNN: a deep convolutional neural network for image
    compression artifact suppression. IJCNN 2017.

Twelve layers with hierarchical shortcuts and a loss at every scale, as its abstract says:

| scale | down | up (a 4×4 deconvolution of stride 2) | side output |
| --- | --- | --- | --- |
| 1 | A1 1→128, A2 128→128 | A3 256→128, with A2: 256 → 1, the output | |
| 1/2 | B1, B2 128→128 | B3 512→128, with B2: 256 | 256→1 |
| 1/4 | C1 128→256, C2 256→256 | C3 256→256, with C2: 512 | 512→1 |
| 1/8 | D1, D2 256→256 | | 256→1 |

5,133,697 weights, 5,142,916 with the side outputs; the paper counts 5.14 M. The receptive field is
at most 84 × 84 pixels.

Assumed: these widths, which the count confirms; downsampling by the mean of 2 × 2 pixels; outputs
are added to the JPEG; He initialisation; ReLU; all scales have the same weight in the loss, and a
second phase of training, with `side_weight` 0, continues from such weights.
"""

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax.models.base import Network
from dmcnn_jax.models.layers import Deconv, apply_mask, conv, mask_to_scale, near_zero_init
from dmcnn_jax.models.losses import average_pool, mse

_init = nn.initializers.he_normal()


class CASCNN(Network):
    """The network of the CAS-CNN paper.

    Its further estimates are "half", "quarter" and "eighth", [B, H/2, W/2, 1] and so on.

    Attributes:
        features: channels at full and half size; twice as many below.
        side_weight: weight of each side output's loss relative to that of the output.
        dtype: type to compute in.
    """

    features: int = 128
    side_weight: float = 1.0
    dtype: jnp.dtype = jnp.float32

    JAX_ONLY_FIELDS: ClassVar[tuple[str, ...]] = ("dtype", "side_weight")

    @property
    def halo_blocks(self) -> int:
        """The radius of the receptive field, in blocks."""
        return 7

    @nn.compact
    def restore_pixels(
        self,
        coefficients: jax.Array,
        table: jax.Array,
        decoded: jax.Array,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Runs the layers of the table above; see `Network.restore_pixels`."""
        del coefficients, table, train
        n = self.features
        masks = [mask_to_scale(mask, cells) for cells in (8, 4, 2, 1)]

        def layer(name: str, x: jax.Array, features: int, scale: int) -> jax.Array:
            x = conv(features, kernel_init=_init, dtype=self.dtype, name=name)(x)
            return apply_mask(nn.relu(x), masks[scale])

        def up(name: str, x: jax.Array, features: int, skip: jax.Array, scale: int) -> jax.Array:
            x = Deconv(features, kernel_init=_init, dtype=self.dtype, name=name)(x)
            return jnp.concatenate([apply_mask(nn.relu(x), masks[scale]), skip], axis=-1)

        def output(name: str, x: jax.Array, scale: int) -> jax.Array:
            x = conv(1, kernel_init=near_zero_init, dtype=self.dtype, name=name)(x)
            return average_pool(decoded, 2**scale) + x.astype(jnp.float32)

        a1 = layer("a1", apply_mask(decoded, masks[0]), n, 0)
        a2 = layer("a2", a1, n, 0)
        b1 = layer("b1", average_pool(a2, 2), n, 1)
        b2 = layer("b2", b1, n, 1)
        c1 = layer("c1", average_pool(b2, 2), 2 * n, 2)
        c2 = layer("c2", c1, 2 * n, 2)
        d1 = layer("d1", average_pool(c2, 2), 2 * n, 3)
        d2 = layer("d2", d1, 2 * n, 3)
        c3 = up("c3", d2, 2 * n, c2, 2)
        b3 = up("b3", c3, n, b2, 1)
        a3 = up("a3", b3, n, a2, 0)
        return {
            "image": output("a4", a3, 0),
            "half": output("b4", b3, 1),
            "quarter": output("c4", c3, 2),
            "eighth": output("d4", d2, 3),
            "jpeg": decoded,
        }

    def loss(self, estimates: Mapping[str, jax.Array], original: jax.Array) -> jax.Array:
        """Returns the mean squared error, plus `side_weight` times that of each other scale.

        The original at a scale is its mean over 2 × 2, 4 × 4 or 8 × 8 pixels.
        """
        side = [
            mse(estimates[name], average_pool(original, factor))
            for name, factor in (("half", 2), ("quarter", 4), ("eighth", 8))
        ]
        return mse(estimates["image"], original) + self.side_weight * sum(side)
