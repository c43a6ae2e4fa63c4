"""DnCNN-3: twenty convolutions that predict the artifacts (Zhang, Zuo, Chen, Meng, Zhang, 2017).

    K. Zhang, W. Zuo, Y. Chen, D. Meng, L. Zhang: Beyond a Gaussian denoiser: residual learning of
    deep CNN for image denoising. IEEE Transactions on Image Processing 26(7), 2017.

Layers, initialisation and loss follow the authors' MatConvNet code: 3×3 kernels, 64 wide; ReLU
after all layers but the last, batch normalisation before it in all but the first; the prediction is
subtracted from the input. 667,073 weights, 664,704 of them in kernels; 665,921 in the published
form, which merges batch normalisation into the convolutions. The receptive field is 41 × 41 pixels.

Assumed: convolutions followed by batch normalisation have no bias, since its shift is one. Batch
statistics have a momentum of 0.99: with 0.9, they cover only the last ten batches, which are noisy
if these are small.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax.models.base import Network
from dmcnn_jax.models.layers import apply_mask, conv, pixel_mask
from dmcnn_jax.models.losses import half_sum_squares

# The authors draw the weights of every layer with the variance of the middle layers.
_init = nn.initializers.normal((2 / (9 * 64)) ** 0.5)


class DnCNN(Network):
    """The network of the DnCNN paper.

    Attributes:
        features: channels.
        depth: number of layers.
        batch_norm: whether layers 2 to depth - 1 have batch normalisation, as for training; the
            weights that the authors published have none.
        dtype: type to compute in.
    """

    features: int = 64
    depth: int = 20
    batch_norm: bool = True
    dtype: jnp.dtype = jnp.float32
    pixel_masks = True

    @property
    def halo_blocks(self) -> int:
        """The radius of the receptive field, in blocks."""
        return -(-self.depth // 8)

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
        """Predicts the artifacts and subtracts them; see `Network.restore_pixels`."""
        del coefficients, table
        pixels = pixel_mask(mask, decoded)
        x = apply_mask(decoded, pixels)
        for i in range(1, self.depth):
            normalise = self.batch_norm and i > 1
            x = conv(
                self.features,
                kernel_init=_init,
                use_bias=not normalise,
                dtype=self.dtype,
                name=f"conv{i}",
            )(x)
            if normalise:
                x = nn.BatchNorm(
                    use_running_average=not train,
                    momentum=0.99,
                    dtype=self.dtype,
                    name=f"norm{i}",
                )(x)
            x = apply_mask(nn.relu(x), pixels)
        artifacts = conv(1, kernel_init=_init, dtype=self.dtype, name=f"conv{self.depth}")(x)
        return {"image": decoded - artifacts.astype(jnp.float32), "jpeg": decoded}

    def loss(self, estimates: Mapping[str, jax.Array], original: jax.Array) -> jax.Array:
        """Returns half the summed squared error of an image, averaged over images."""
        return half_sum_squares(estimates["image"], original)
