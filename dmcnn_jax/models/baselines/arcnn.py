"""ARCNN: four convolutions from the JPEG to the original (Dong, Deng, Loy, Tang, ICCV 2015).

    C. Dong, Y. Deng, C. C. Loy, X. Tang: Compression artifacts reduction by a deep convolutional
    network. ICCV 2015.

9×9 to 64 channels, 7×7 to 32, 1×1 to 16, 5×5 to 1, ReLU between; no shortcut, the image itself is
predicted. Layers, initialisation (Gaussian, of deviation 0.001), loss and the learning rate of the
last layer, a tenth of the others', are the authors' (Caffe). 106,561 weights, 106,448 of them in
kernels; it sees 19 × 19 pixels.

Assumed: padding by replication, as in the authors' test code; they train without padding, which is
the loss over what no padding reaches.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax.models.base import Network
from dmcnn_jax.models.layers import extend, pixel_mask, scale_gradient
from dmcnn_jax.models.losses import half_sum_squares

_init = nn.initializers.normal(0.001)
# (channels, side of the kernel, learning rate against the others)
_LAYERS = ((64, 9, 1.0), (32, 7, 1.0), (16, 1, 1.0), (1, 5, 0.1))
_REACH = sum(size // 2 for _, size, _ in _LAYERS)


class ARCNN(Network):
    """The network.

    Attributes:
        dtype: type to compute in.
    """

    dtype: jnp.dtype = jnp.float32
    pixel_masks = True

    @property
    def halo_blocks(self) -> int:
        """How far it sees, in blocks."""
        return -(-_REACH // 8)

    @nn.compact
    def restore_pixels(self, coefficients, table, decoded, *, mask=None, train=False):
        """The layers."""
        del coefficients, table, train
        pixels = pixel_mask(mask, decoded)
        x = decoded
        for i, (features, size, rate) in enumerate(_LAYERS, start=1):
            x = _Conv(features, size, rate, self.dtype, name=f"conv{i}")(x, pixels)
            if i < len(_LAYERS):
                x = nn.relu(x)
        return {"image": x.astype(jnp.float32), "jpeg": decoded}

    def loss(self, estimates: Mapping[str, jax.Array], original: jax.Array) -> jax.Array:
        """Half the summed squared error of an image inside a border of 9 pixels, mean over images.

        Raises:
            ValueError: if there is nothing inside the border.
        """
        if min(original.shape[1:3]) <= 2 * _REACH:
            raise ValueError(
                f"{original.shape[1]} × {original.shape[2]} pixels to measure; ARCNN's loss "
                f"leaves out a border of {_REACH}: set config.train.patch_sizes to 24 or more"
            )
        inside = slice(_REACH, -_REACH)
        return half_sum_squares(estimates["image"][:, inside, inside], original[:, inside, inside])


class _Conv(nn.Module):
    """A convolution padded by replication, whose gradient is scaled by `rate`."""

    features: int
    size: int
    rate: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", _init, shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        if self.rate != 1:
            kernel, bias = scale_gradient(kernel, self.rate), scale_gradient(bias, self.rate)
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        y = jax.lax.conv_general_dilated(
            extend(x, self.size // 2, "edge", mask),
            kernel,
            window_strides=(1, 1),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + bias
