"""The interface of networks that restore luma: inputs, estimates, receptive field and loss."""

import abc
from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax import jpeg
from dmcnn_jax.models.losses import mse


class Network(nn.Module, abc.ABC):
    """A network that estimates the original luma from the coefficients of a JPEG.

    It runs in two passes. `restore_coefficients` makes a first image from the coefficients, by
    default the one that libjpeg decodes. `restore_pixels` makes the estimates from that image, and
    is the only method that a new network has to write. Every `Network` can be trained, evaluated,
    tiled, exported and compared by the existing commands.

    Attributes:
        pixel_masks: whether a mask may be one of pixels, if the last blocks of a JPEG extend beyond
            its picture. This is for networks whose authors ran them on pictures of exact size.
        JAX_ONLY_FIELDS: fields that affect only the loss, or the precision of JAX's arithmetic;
            exports to other frameworks omit them.
        supports_widening: whether the weights of a narrower network can initialise this one
            (`inference.variables.widen_variables`). This needs layers whose inputs are other
            layers' channels, unchanged or added, never concatenated.
        identity_init_prefixes: prefixes of the names of layers that are initialised to change
            nothing, so that weights without them can be loaded.
    """

    pixel_masks: ClassVar[bool] = False
    JAX_ONLY_FIELDS: ClassVar[tuple[str, ...]] = ("dtype",)
    supports_widening: ClassVar[bool] = False
    identity_init_prefixes: ClassVar[tuple[str, ...]] = ()

    @property
    def halo_blocks(self) -> int | tuple[int, int] | None:
        """The radius of the receptive field, in blocks of 8 pixels, rounded up.

        A pair gives it for `restore_coefficients` and for `restore_pixels`, if the first pass has
        the larger one. None: the receptive field is unknown, and tiling is disabled.
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
        """Estimates the original from a JPEG's coefficients.

        Args:
            coefficients: k, integers [B, H/8, W/8, 64].
            table: Q, integers [B, 8, 8].
            mask: bool [B, H/8, W/8, 1], true on the rectangle of blocks that is the image. Values
                outside have no influence, as if the image ended there. With `pixel_masks` it may be
                bool [B, H, W, 1], of pixels. None: everything is image.
            train: whether batch statistics are used and updated, in networks that have them.

        Returns:
            float32 estimates of the original, pixels scaled to [0, 1], not clipped: "image", the
            result, and "jpeg", the starting image (C for most networks), both [B, H, W, 1]; and
            further ones that the loss needs.
        """
        initial = self.restore_coefficients(coefficients, table, mask=mask)
        return self.restore_pixels(coefficients, table, initial, mask=mask, train=train)

    def restore_coefficients(
        self, coefficients: jax.Array, table: jax.Array, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Runs the first pass, from k and Q to an image; arguments as in `__call__`.

        Returns:
            float32 [B, H, W, 1], scaled to [0, 1].
        """
        del mask
        return decode_luma(coefficients, table)

    @abc.abstractmethod
    def restore_pixels(
        self,
        coefficients: jax.Array,
        table: jax.Array,
        initial: jax.Array,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Runs the second pass, from the first image to the estimates.

        Args:
            coefficients: as in `__call__`.
            table: as in `__call__`.
            initial: the image that `restore_coefficients` returned, float32 [B, H, W, 1].
            mask: as in `__call__`.
            train: as in `__call__`.

        Returns:
            As in `__call__`.
        """

    def loss(self, estimates: Mapping[str, jax.Array], original: jax.Array) -> jax.Array:
        """Returns the loss to minimise, here the mean squared error of the result.

        Args:
            estimates: what `__call__` returned.
            original: O, float32 [B, H, W, 1], pixels scaled to [0, 1].

        Returns:
            The loss, scalar float32.
        """
        return mse(estimates["image"], original)


def decode_luma(coefficients: jax.Array, table: jax.Array) -> jax.Array:
    """Returns C, the image as libjpeg decodes it: float32 [B, H, W, 1], scaled to [0, 1]."""
    return jpeg.decode(coefficients, table)[..., None].astype(jnp.float32) / 255
