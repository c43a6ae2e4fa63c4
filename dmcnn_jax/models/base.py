"""What every network here is: what it takes, what it gives back, how it is measured."""

import abc
from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax import jpeg
from dmcnn_jax.models.losses import mse


class Network(nn.Module, abc.ABC):
    """A network that turns what a JPEG file holds of luma into estimates of the original.

    In two passes: `restore_coefficients` makes a first image of what the file holds, by default
    what libjpeg decodes; `restore_pixels` makes the estimates of that, and is what a new network
    has to write. Whatever is a Network is trained, evaluated, tiled, exported and compared by the
    commands that are there.
    """

    # Whether masks may be of pixels: of networks that their authors ran on images of their exact
    # size, where a JPEG's last blocks reach beyond it.
    pixel_masks: ClassVar[bool] = False
    # Fields that alter the loss or the precision of a computation in JAX, and nothing of what the
    # weights compute: exports to other frameworks leave them out.
    JAX_ONLY_FIELDS: ClassVar[tuple[str, ...]] = ("dtype",)
    # Whether the weights of a narrower one are a start for it (`inference.widen_variables`): of
    # networks whose layers take other layers' channels as they are, or added, never side by side.
    supports_widening: ClassVar[bool] = False

    @property
    def halo_blocks(self) -> int | tuple[int, int] | None:
        """How far it sees to every side, in blocks of 8 pixels, rounded up.

        A pair: in `restore_coefficients` and in `restore_pixels`, for a first pass that sees
        further. None: nobody knows, so that images are never tiled.
        """
        return None

    def __call__(
        self,
        coefficients: jax.Array,
        table: jax.Array,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Estimates the original from what the file holds.

        Args:
            coefficients: k, integers [B, H/8, W/8, 64].
            table: Q, integers [B, 8, 8].
            mask: bool [B, H/8, W/8, 1], true on the rectangle of blocks that is the image: with it,
                what lies outside has no influence, as if the image ended there. With
                `pixel_masks`, also bool [B, H, W, 1], of pixels. None: all is image.
            train: whether batch statistics are used and updated, in networks that have them.

        Returns:
            float32 estimates of the original, pixels scaled to [0, 1], not clipped: "image", the
            answer, and "jpeg", C or what stands for it, [B, H, W, 1]; others as the loss wants.
        """
        first = self.restore_coefficients(coefficients, table, mask=mask)
        return self.restore_pixels(coefficients, table, first, mask=mask, train=train)

    def restore_coefficients(
        self, coefficients: jax.Array, table: jax.Array, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """The first pass, k and Q → float32 [B, H, W, 1]; arguments as of `__call__`."""
        del mask
        return decode(coefficients, table)

    @abc.abstractmethod
    def restore_pixels(
        self,
        coefficients: jax.Array,
        table: jax.Array,
        first: jax.Array,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """The second pass: what `__call__` returns, of the first image, the rest as there."""

    def loss(self, estimates: Mapping[str, jax.Array], original: jax.Array) -> jax.Array:
        """What training makes small: here the mean squared error of the answer.

        Args:
            estimates: what `__call__` returned.
            original: O, float32 [B, H, W, 1], pixels scaled to [0, 1].

        Returns:
            The loss, scalar float32.
        """
        return mse(estimates["image"], original)


def decode(coefficients: jax.Array, table: jax.Array) -> jax.Array:
    """C, the image as libjpeg decodes it: float32 [B, H, W, 1], scaled to [0, 1]."""
    return jpeg.decode(coefficients, table)[..., None].astype(jnp.float32) / 255
