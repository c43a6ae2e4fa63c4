"""MemNet: memory blocks of recursive and gated units (Tai, Yang, Liu, Xu, ICCV 2017).

    Y. Tai, J. Yang, X. Liu, C. Xu: MemNet: a persistent memory network for image restoration.
    ICCV 2017.

MemNet_M6R6, 80 layers, 64 wide, follows the authors' network definition (Caffe). Every convolution,
the first included, comes after batch normalisation and ReLU. A memory block applies a residual unit
of two 3×3 convolutions six times, with shared kernels and biases but separate batch normalisations.
Its gate, a 1×1 convolution, sees the first features, the outputs of all earlier blocks, and the six
states. One 3×3 convolution turns each block's output into an image that is added to the JPEG; the
output is a learned weighted sum of the six images. 695,497 weights, 676,992 of them in kernels (677
K published); the receptive field is 149 × 149 pixels.

The definition gives biases a tenth of the learning rate, and sums seven losses, of the six images
and of the output, with equal weights. It leaves the weights of the sum at Caffe's default, 1, so
that training starts from six times the image; here they start at 1/6. Batch statistics have a
momentum of 0.99, since Caffe's 0.999 is too slow for a short training.
"""

from collections.abc import Mapping
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax.models.base import Network
from dmcnn_jax.models.convolution import convolve
from dmcnn_jax.models.layers import add_bias, apply_mask, pixel_mask, scale_gradient
from dmcnn_jax.models.losses import half_sum_squares

_init = nn.initializers.he_normal()
_BIAS_RATE = 0.1


class MemNet(Network):
    """The network of the MemNet paper.

    Its further estimates are "block1" and so on, the image of each memory block.

    Attributes:
        features: channels.
        blocks: number of memory blocks.
        recursions: how often a block applies its residual unit.
        dtype: type to compute in.
    """

    features: int = 64
    blocks: int = 6
    recursions: int = 6
    dtype: jnp.dtype = jnp.float32
    pixel_masks = True

    @property
    def halo_blocks(self) -> int:
        """The distance seen to every side, in blocks."""
        return -(-2 * (1 + self.blocks * self.recursions) // 8)

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
        """Runs the memory blocks and sums their images; see `Network.restore_pixels`."""
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
        """Returns half the summed squared errors of output and blocks, averaged over images."""
        restored = (estimate for name, estimate in estimates.items() if name != "jpeg")
        return cast(jax.Array, sum(half_sum_squares(estimate, original) for estimate in restored))


class _Conv(nn.Module):
    """A zero-padded convolution whose bias has a tenth of the learning rate."""

    features: int
    size: int = 3
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", _init, shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel = (a.astype(self.dtype) for a in (x, kernel))
        y = convolve(x, kernel, padding=((self.size // 2, self.size // 2),) * 2)
        return add_bias(y, scale_gradient(bias, _BIAS_RATE))
