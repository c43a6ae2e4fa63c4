"""DnCNN-3: twenty convolutions that predict what JPEG added (Zhang, Zuo, Chen, Meng, Zhang, 2017).

    K. Zhang, W. Zuo, Y. Chen, D. Meng, L. Zhang: Beyond a Gaussian denoiser: residual learning of
    deep CNN for image denoising. IEEE Transactions on Image Processing 26(7), 2017.

Layers, initialisation and loss follow the authors' MatConvNet code: 3×3 throughout, 64 wide; ReLU
after all but the last, batch normalisation before it but in the first; the output is the input less
the prediction. 667,073 weights, 664,704 of them in kernels; 665,921 in the published form, whose
batch normalisation is merged into the convolutions. It sees 41 × 41 pixels.

Assumed: that convolutions with batch normalisation need no bias of their own (the shift is one),
and the momentum of its statistics.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax.models.base import Network
from dmcnn_jax.models.layers import apply_mask, conv, pixel_mask
from dmcnn_jax.models.losses import half_sum_squares

# The authors draw every layer's weights with the variance of the middle ones.
_init = nn.initializers.normal((2 / (9 * 64)) ** 0.5)


class DnCNN(Network):
    """The network.

    Attributes:
        features: channels.
        depth: layers.
        batch_norm: whether layers 2 to depth - 1 have batch normalisation, to train; without it,
            the form that the authors published.
        dtype: type to compute in.
    """

    features: int = 64
    depth: int = 20
    batch_norm: bool = True
    dtype: jnp.dtype = jnp.float32
    pixel_masks = True

    @property
    def halo_blocks(self) -> int:
        """How far it sees, in blocks."""
        return -(-self.depth // 8)

    @nn.compact
    def restore_pixels(self, coefficients, table, decoded, *, mask=None, train=False):
        """The layers."""
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
                    momentum=0.9,
                    dtype=self.dtype,
                    name=f"norm{i}",
                )(x)
            x = apply_mask(nn.relu(x), pixels)
        artifacts = conv(1, kernel_init=_init, dtype=self.dtype, name=f"conv{self.depth}")(x)
        return {"image": decoded - artifacts.astype(jnp.float32), "jpeg": decoded}

    def loss(self, estimates: Mapping[str, jax.Array], original: jax.Array) -> jax.Array:
        """Half the summed squared error of an image, mean over images."""
        return half_sum_squares(estimates["image"], original)
