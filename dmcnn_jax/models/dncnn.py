"""DnCNN-3: twenty convolutions that predict what JPEG added (Zhang, Zuo, Chen, Meng, Zhang, 2017).

    K. Zhang, W. Zuo, Y. Chen, D. Meng, L. Zhang: Beyond a Gaussian denoiser: residual learning of
    deep CNN for image denoising. IEEE Transactions on Image Processing 26(7), 2017.

Layers, initialisation and loss follow the authors' MatConvNet code: 3×3 throughout, 64 wide; ReLU
after all but the last, batch normalisation before it but in the first; the output is the input less
the prediction. 664,704 kernel weights; 665,921 with biases in the published form, whose batch
normalisation is merged into the convolutions. It sees 41 × 41 pixels.

Assumed: that convolutions with batch normalisation need no bias of their own (the shift is one),
and the momentum of its statistics.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax.losses import half_sum_squares
from dmcnn_jax.models.dmcnn import decode
from dmcnn_jax.models.layers import apply_mask, conv, pixel_mask

# The authors draw every layer's weights with the variance of the middle ones.
_init = nn.initializers.normal((2 / (9 * 64)) ** 0.5)


class DnCNN(nn.Module):
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

    @property
    def pixel_masks(self) -> bool:
        """That masks may be of pixels: its authors ran it on images of their exact size."""
        return True

    @property
    def halo_blocks(self) -> int:
        """How far it sees, in blocks."""
        return -(-self.depth // 8)

    def __call__(
        self,
        coefficients: jax.Array,
        table: jax.Array,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Estimates the original.

        Args:
            coefficients: k, integers [B, H/8, W/8, 64].
            table: Q, integers [B, 8, 8].
            mask: bool [B, H/8, W/8, 1] or [B, H, W, 1], true on blocks or pixels of the image;
                None: all are.
            train: whether batch statistics are used and updated.

        Returns:
            float32 [B, H, W, 1], pixels scaled to [0, 1], not clipped: "image", and "jpeg" (C).
        """
        decoded = decode(coefficients, table)
        return self.restore_pixels(coefficients, table, decoded, mask=mask, train=train)

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
        """As `__call__`, of a decoded image C, float32 [B, H, W, 1], scaled to [0, 1]."""
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
