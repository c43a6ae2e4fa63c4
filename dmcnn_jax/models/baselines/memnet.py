"""MemNet: memory blocks of recursive and gated units (Tai, Yang, Liu, Xu, ICCV 2017).

    Y. Tai, J. Yang, X. Liu, C. Xu: MemNet: a persistent memory network for image restoration.
    ICCV 2017.

MemNet_M6R6, 80 layers, 64 wide, after the authors' network definition (Caffe): every convolution is
batch norm, ReLU, convolution, the first included. A memory block applies one residual unit six
times, two 3×3 convolutions whose kernels and biases are shared and whose batch norms are not; its
gate, a 1×1 convolution, sees the first features, what all blocks before gave, and the six states.
One 3×3 convolution turns each block's result into an image, added to the JPEG; the output is a
learned sum of the six. 695,497 weights, 676,992 of them in kernels (677 K published); it sees
149 × 149 pixels.

The definition gives biases a tenth of the learning rate, and sums seven losses, of the six images
and of the output, with equal weights. It leaves the sum's weights to Caffe's default, 1, so that
training starts from six times the image: here they start at 1/6. Batch statistics have a momentum
of 0.99, where Caffe's 0.999 would outlast a short training.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax.models.base import Network
from dmcnn_jax.models.layers import apply_mask, pixel_mask, scale_gradient
from dmcnn_jax.models.losses import half_sum_squares

_init = nn.initializers.he_normal()
_BIAS_RATE = 0.1


class MemNet(Network):
    """The network.

    Besides the image it estimates "block1" and so on, what each memory block makes of it.

    Attributes:
        features: channels.
        blocks: memory blocks.
        recursions: of the residual unit, in each block.
        dtype: type to compute in.
    """

    features: int = 64
    blocks: int = 6
    recursions: int = 6
    dtype: jnp.dtype = jnp.float32
    pixel_masks = True

    @property
    def halo_blocks(self) -> int:
        """How far it sees, in blocks."""
        return -(-2 * (1 + self.blocks * self.recursions) // 8)

    @nn.compact
    def restore_pixels(self, coefficients, table, decoded, *, mask=None, train=False):
        """The layers."""
        del coefficients, table
        pixels = pixel_mask(mask, decoded)

        def activate(name: str, x: jax.Array) -> jax.Array:
            norm = nn.BatchNorm(
                use_running_average=not train, momentum=0.99, dtype=self.dtype, name=name
            )
            return apply_mask(nn.relu(norm(x)), pixels)

        first = _Conv(self.features, dtype=self.dtype, name="conv1")
        reconstruct = _Conv(1, dtype=self.dtype, name="reconstruct")
        memories = [first(activate("norm1", decoded))]
        images = []
        for m in range(1, self.blocks + 1):
            conv_a = _Conv(self.features, dtype=self.dtype, name=f"block{m}_conv_a")
            conv_b = _Conv(self.features, dtype=self.dtype, name=f"block{m}_conv_b")
            gate = _Conv(self.features, size=1, dtype=self.dtype, name=f"block{m}_gate")
            state, states = memories[-1], []
            for r in range(1, self.recursions + 1):
                y = conv_a(activate(f"block{m}_norm{r}_a", state))
                state = state + conv_b(activate(f"block{m}_norm{r}_b", y))
                states.append(state)
            known = jnp.concatenate(memories + states, axis=-1)
            memories.append(gate(activate(f"block{m}_norm_gate", known)))
            residual = reconstruct(activate(f"block{m}_norm_end", memories[-1]))
            images.append(decoded + residual.astype(jnp.float32))
        weights = self.param("sum", nn.initializers.constant(1 / self.blocks), (self.blocks,))
        output = sum(weight * image for weight, image in zip(weights, images, strict=True))
        blocks = {f"block{m}": image for m, image in enumerate(images, start=1)}
        return {"image": output, "jpeg": decoded, **blocks}

    def loss(self, estimates: Mapping[str, jax.Array], original: jax.Array) -> jax.Array:
        """Half the summed squared errors of the output and the blocks' images, mean over images."""
        return sum(
            half_sum_squares(estimate, original)
            for name, estimate in estimates.items()
            if name != "jpeg"
        )


class _Conv(nn.Module):
    """A convolution padded by zeros, whose bias learns at a tenth of the rate."""

    features: int
    size: int = 3
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", _init, shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(1, 1),
            padding=[(self.size // 2, self.size // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + scale_gradient(bias, _BIAS_RATE)
