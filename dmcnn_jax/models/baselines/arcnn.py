"""ARCNN: four convolutions from the JPEG to the original (Dong, Deng, Loy, Tang, ICCV 2015).

    C. Dong, Y. Deng, C. C. Loy, X. Tang: Compression artifacts reduction by a deep convolutional
    network. ICCV 2015.

9×9 to 64 channels, 7×7 to 32, 1×1 to 16, 5×5 to 1, with ReLU between. It has no shortcut: it
predicts the image itself. Layers, initialisation (Gaussian, standard deviation 0.001), loss and the
learning rate of the last layer, a tenth of the others' by SGD, are those of the authors' Caffe
code.
106,561 weights, 106,448 of them in kernels; the receptive field is 19 × 19 pixels.

Assumed: padding by replication, as in the authors' test code. They train without padding, which is
the same as measuring the loss only where padding has no influence.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax.models.base import Network
from dmcnn_jax.models.convolution import convolve_inside
from dmcnn_jax.models.layers import add_bias, extend, pixel_mask, scale_gradient
from dmcnn_jax.models.losses import half_sum_squares

_init = nn.initializers.normal(0.001)
# Channels, side of the kernel, and learning rate relative to the others.
_LAYERS = ((64, 9, 1.0), (32, 7, 1.0), (16, 1, 1.0), (1, 5, 0.1))
# Radius of the receptive field, pixels.
_HALO = sum(size // 2 for _, size, _ in _LAYERS)


class ARCNN(Network):
    """The network of the ARCNN paper.

    Attributes:
        dtype: type to compute in.
    """

    dtype: jnp.dtype = jnp.float32
    pixel_masks = True

    @property
    def halo_blocks(self) -> int:
        """The radius of the receptive field, in blocks."""
        return -(-_HALO // 8)

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
        """Runs the four convolutions; see `Network.restore_pixels`."""
        del coefficients, table, train
        pixels = pixel_mask(mask, decoded)
        x = decoded
        for i, (features, size, rate) in enumerate(_LAYERS, start=1):
            x = _Conv(features, size, rate, self.dtype, name=f"conv{i}")(x, pixels)
            if i < len(_LAYERS):
                x = nn.relu(x)
        return {"image": x.astype(jnp.float32), "jpeg": decoded}

    def loss(self, estimates: Mapping[str, jax.Array], original: jax.Array) -> jax.Array:
        """Returns half the summed squared error of an image, averaged over images.

        It leaves out a border of 9 pixels, where padding has influence.

        Raises:
            ValueError: if the images have no pixels inside the border.
        """
        if min(original.shape[1:3]) <= 2 * _HALO:
            raise ValueError(
                f"images of {original.shape[1]} × {original.shape[2]} pixels are too small, as "
                f"ARCNN's loss leaves out a border of {_HALO}: set config.train.patch_sizes to 24 "
                "or more"
            )
        inside = slice(_HALO, -_HALO)
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
        x, kernel = (a.astype(self.dtype) for a in (x, kernel))
        y = convolve_inside(extend(x, self.size // 2, "edge", mask), kernel)
        return add_bias(y, bias)
