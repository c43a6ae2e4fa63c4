"""A network for photographs in colour: Y, Cb and Cr of a JPEG at once, at every quality.

    x = P(B + s(Q) · clip(g(C, B, k, Q), ±32))

C are the planes that the file decodes to, Cb and Cr brought to full size as libjpeg does. B is the
same, but for Y, which a DMCNN for every quality has restored. That network is trained alone first,
then stays frozen while g learns, and is trained together with g at the end (`train.unfreeze`). g is
a U-Net that restores Cb and Cr, guided by B, and refines Y. It works on 2 × 2 pixels as channels at
half scale, and then at a quarter and at an eighth, where a cell is a block of luma, and where the
coefficients k join. A perceptron that reads the quantisation tables Q and the subsampling modulates
its residual blocks. s is the error to expect of such tables. P is the DCT rectify unit of each
plane: the result lies in the intervals k·Q ± Q/2 again, chroma averaged over its samples.

5,325,422 weights, 3,261,068 of them in g, and 490 thousand floating-point operations a pixel, 234
of them in g.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax import jpeg
from dmcnn_jax.jpeg.projection import project_upsampled
from dmcnn_jax.models import example_input
from dmcnn_jax.models.chroma import near_colour
from dmcnn_jax.models.dmcnn import DMCNN
from dmcnn_jax.models.layers import (
    PReLU,
    add_bias,
    apply_mask,
    conv,
    depth_to_space,
    keep_whole,
    mask_to_scale,
    space_to_depth,
)
from dmcnn_jax.models.photo_input import (
    EIGHTH,
    HALF,
    QUARTER,
    PhotoInput,
    chroma_mask,
    coefficient_features,
    decode_planes,
    encode_input,
    expected_errors,
    layer_input,
)
from dmcnn_jax.models.photo_loss import relative_error
from dmcnn_jax.models.table_conditioning import PREFIX, modulate_by_table
from dmcnn_jax.models.upsampling import upsample

# Second convolutions of residual blocks start small, so that the blocks start near the identity.
_small_init = nn.initializers.variance_scaling(0.1, "fan_in", "truncated_normal")


MAX_CORRECTION = 32
"""How many times the error to expect a correction is at most; those of trained networks are below
12. While networks learn, a picture now and then makes them overflow. P would move the result back,
but for rounding errors that grow with the correction, and whose gradients would drown all others.
"""


class PhotoNet(nn.Module):
    """The network for photographs.

    Attributes:
        features: channels at half, quarter and eighth scale.
        dilations: of the residual blocks at an eighth; at the other scales there is one block on
            the way down and one on the way up.
        margin: grey levels by which P widens intervals on both sides, since the encoder rounds
            planes and averages to whole numbers.
        rectify: whether P is applied.
        chroma_weight: weight of chroma's relative error in the loss; luma's is 1.
        luma_features: `DMCNN.features` of the network that restores luma first.
        luma_dct_features: its `DMCNN.dct_features`.
        dtype: type that layers compute in. Parameters, sums that make the output, and everything
            around DCTs are float32.
    """

    features: tuple[int, int, int] = (64, 128, 192)
    dilations: Sequence[int] = (1, 2, 1)
    margin: float = 0.25
    rectify: bool = True
    chroma_weight: float = 1.0
    luma_features: int = 32
    luma_dct_features: int = 128
    dtype: jnp.dtype = jnp.float32

    identity_init_prefixes: ClassVar[tuple[str, ...]] = (PREFIX,)
    JAX_ONLY_FIELDS: ClassVar[tuple[str, ...]] = ("dtype", "chroma_weight")

    def setup(self) -> None:
        """Creates the weights of the network that restores luma, frozen unless `train.unfreeze`."""

        def draw() -> Any:
            module = self.luma_network()
            return module.init(self.make_rng("params"), *example_input(module))["params"]

        self.luma_weights = self.variable("frozen", "luma", draw)

    def luma_network(self) -> DMCNN:
        """Returns the network that restores luma first; its weights are `frozen["luma"]`."""
        return DMCNN(
            features=self.luma_features,
            dct_features=self.luma_dct_features,
            condition_on_table=True,
            multi_scale=False,
            dtype=self.dtype,
            parent=None,
        )

    def start_from_luma(
        self, variables: Mapping[str, Any], luma: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns variables whose network of luma is a trained one.

        Args:
            variables: of this network, random ones.
            luma: those of a `DMCNN`, which may have estimates at several scales.
        """
        params = dict(luma["params"])
        heads = ("head_half", "head_quarter")
        params["g"] = {k: v for k, v in params["g"].items() if k not in heads}
        return {**variables, "frozen": {"luma": params}}

    def halo(self, subsampling: tuple[int, int]) -> tuple[int, int]:
        """Returns the distance seen down and across, in coded blocks of chroma.

        Args:
            subsampling: rows and columns of the picture to a chroma sample.
        """
        # Either way, three convolutions at half and two at quarter scale see 14 pixels; those of
        # the blocks at an eighth see their dilation, twice. Upsampling of chroma adds two samples,
        # the nearest one and its neighbour.
        pixels = 2 * 14 + 16 * sum(self.dilations)
        down, across = (math.ceil((pixels + 2 * s) / (8 * s)) for s in subsampling)
        return down, across

    @staticmethod
    def example_input() -> tuple[PhotoInput, jax.Array]:
        """Returns the smallest arguments of `__call__`, zeros and ones."""
        zeros = jnp.zeros((1, 2, 2, 64), jnp.int32), jnp.zeros((1, 2, 1, 1, 64), jnp.int32)
        return PhotoInput(*zeros), jnp.ones((1, 3, 8, 8), jnp.int32)

    def __call__(
        self,
        coefficients: PhotoInput,
        table: jax.Array,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Estimates Y, Cb and Cr of the original at full size.

        Args:
            coefficients: k of Y, Cb and Cr.
            table: Q of Y, Cb and Cr, integers [B, 3, 8, 8].
            mask: bool [B, h, w, 1], true on the rectangle of blocks of luma that is the image; it
                begins at a whole block of chroma. All outside is zero at every layer. None:
                everything is image.
            train: not used; training and inference are the same.

        Returns:
            "image", Y, Cb and Cr, float32 [B, 8h, 8w, 3], scaled to [0, 1], not clipped; and
            "jpeg", the same before its correction.
        """
        del train
        luma = self.restore_luma(coefficients.luma, table[:, 0], mask)
        return self.restore_from_luma(coefficients, table, luma, mask=mask)

    def restore_luma(
        self, coefficients: jax.Array, table: jax.Array, mask: jax.Array | None
    ) -> jax.Array:
        """Restores Y by a DMCNN: float32 [B, H, W, 1], scaled to [0, 1], within its intervals.

        Args:
            coefficients: k of Y, integers [B, h, w, 64].
            table: Q of Y, integers [B, 8, 8].
            mask: as in `__call__`.
        """
        weights = {"params": self.luma_weights.value}
        estimates: Any = self.luma_network().apply(weights, coefficients, table, mask=mask)
        return project_upsampled(estimates["image"], coefficients[:, None], table[:, None])

    def restore_from_luma(
        self,
        coefficients: PhotoInput,
        table: jax.Array,
        luma: jax.Array,
        *,
        mask: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Restores all planes where luma has been restored by a DMCNN.

        Args:
            coefficients: as in `__call__`.
            table: as in `__call__`.
            luma: what `restore_luma` returned.
            mask: as in `__call__`.

        Returns:
            As `__call__`.
        """
        base = decode_planes(coefficients, table, mask)
        x = layer_input(base, luma, table, mask)
        correction = self._layers(x, coefficients, table, mask)
        return self.add_correction(coefficients, table, base, luma, correction, mask)

    def add_correction(
        self,
        coefficients: PhotoInput,
        table: jax.Array,
        base: jax.Array,
        luma: jax.Array,
        correction: jax.Array,
        mask: jax.Array | None,
    ) -> dict[str, jax.Array]:
        """Limits, scales, gates, adds and rectifies the output of the layers.

        Args:
            coefficients: as in `__call__`.
            table: as in `__call__`.
            base: what `decode_planes` returned.
            luma: as in `restore_from_luma`.
            correction: output of the layers, float32 [B, H/2, W/2, 12].
            mask: as in `__call__`.

        Returns:
            As `__call__`.
        """
        gate = near_colour(
            coefficients.chroma, coefficients.subsampling, chroma_mask(mask, coefficients)
        )
        correction = jnp.clip(depth_to_space(correction), -MAX_CORRECTION, MAX_CORRECTION)
        correction *= expected_errors(table)
        restored = luma + correction[..., :1], base[..., 1:] + gate * correction[..., 1:]
        image = jnp.concatenate(restored, axis=-1)
        if self.rectify:
            image = self._rectify(image, coefficients, table)
        return {"image": image, "jpeg": base}

    def _rectify(self, image: jax.Array, coefficients: PhotoInput, table: jax.Array) -> jax.Array:
        """Applies P, the DCT rectify unit, to each plane of [B, H, W, 3]."""
        luma = project_upsampled(
            image[..., :1], coefficients.luma[:, None], table[:, :1], self.margin
        )
        chroma = project_upsampled(image[..., 1:], coefficients.chroma, table[:, 1:], self.margin)
        return jnp.concatenate([luma, chroma], axis=-1)

    @nn.compact
    def _layers(
        self, x: jax.Array, coefficients: PhotoInput, table: jax.Array, mask: jax.Array | None
    ) -> jax.Array:
        """Runs the U-Net: corrections in units of `expected_errors`.

        Args:
            x: what `layer_input` returned.
            coefficients: as in `__call__`.
            table: as in `__call__`.
            mask: as in `__call__`.

        Returns:
            float32 [B, H/2, W/2, 12].
        """
        half, quarter, eighth = self.features
        widths = [half, quarter, *[eighth] * len(self.dilations), quarter, half]
        modulate = modulate_by_table(
            encode_input(table, coefficients.subsampling), dict(enumerate(widths, start=1))
        )

        def block(i: int, x: jax.Array, cells: int, dilation: int = 1) -> jax.Array:
            """A residual block of two convolutions."""
            inside, convolution = mask_to_scale(mask, cells), partial(conv, widths[i - 1])
            first, second = (f"block{i}_conv{j}" for j in (1, 2))
            y = convolution(dilation=dilation, dtype=self.dtype, name=first)(x)
            y = apply_mask(PReLU(name=f"block{i}_prelu")(modulate(i, y)), inside)
            y = convolution(
                dilation=dilation, dtype=self.dtype, kernel_init=_small_init, name=second
            )(y)
            return x + apply_mask(y, inside)

        def resample(name: str, x: jax.Array, channels: int, cells: int) -> jax.Array:
            """A 1 × 1 convolution, linear, to the width of another scale."""
            x = conv(channels, 1, dtype=self.dtype, name=name)(x)
            return apply_mask(x, mask_to_scale(mask, cells))

        def features_layer(name: str, channels: int, x: jax.Array) -> jax.Array:
            return conv(channels, 1, dtype=self.dtype, name=name)(x)

        x = self._first_layer(x, mask)
        features = coefficient_features(coefficients, table, eighth, features_layer)
        features = apply_mask(features, mask)

        def down(name: str, x: jax.Array, channels: int, cells: int) -> jax.Array:
            return resample(name, space_to_depth(x), channels, cells)

        def up(name: str, x: jax.Array, channels: int, cells: int) -> jax.Array:
            return depth_to_space(resample(name, x, 4 * channels, cells))

        steps = Steps(block, down, up)
        x = wire_layers(x, features, self.features, self.dilations, steps)
        x = conv(12, kernel_init=nn.initializers.zeros_init(), dtype=self.dtype, name="last")(x)
        # Blocks of chroma at the border reach beyond those of luma; P averages over them whole.
        return apply_mask(x.astype(jnp.float32), mask_to_scale(mask, HALF))

    def _first_layer(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Maps the input of the layers to the first features, at half scale."""
        x = conv(self.features[0], dtype=self.dtype, name="first")(x)
        # A bias for each position in a block, whose borders the artifacts follow.
        shape = (HALF, HALF, self.features[0])
        bias = self.param("position_bias", nn.initializers.zeros_init(), shape)
        x = add_bias(x, jnp.tile(bias, (x.shape[1] // HALF, x.shape[2] // HALF, 1)))
        return apply_mask(PReLU(name="first_prelu")(x), mask_to_scale(mask, HALF))

    def loss(self, estimates: Mapping[str, jax.Array], original: jax.Array) -> jax.Array:
        """Returns the loss, scalar float32: `photo_loss.relative_error`.

        Args:
            estimates: result of `__call__`.
            original: Y, Cb and Cr, float32 [B, H, W, 3], scaled to [0, 1].
        """
        return relative_error(estimates, original, self.chroma_weight)

    @staticmethod
    def decode(coefficients: PhotoInput, table: jax.Array) -> jax.Array:
        """Decodes Y, Cb and Cr as libjpeg does, chroma upsampled: uint8 [B, H, W, 3]."""
        luma = jpeg.decode(coefficients.luma, table[:, 0])[..., None]
        planes = jpeg.decode(coefficients.chroma, table[:, 1:]).astype(jnp.float32)
        full = upsample(jnp.moveaxis(planes, 1, -1), coefficients.subsampling)
        return jnp.concatenate([luma, jnp.round(full).astype(jnp.uint8)], axis=-1)


class Steps(NamedTuple):
    """What `wire_layers` connects, in Flax or in another engine.

    Attributes:
        block: `block(i, x, cells, dilation=1)`, a residual block; `cells` is the side of a block of
            luma at its scale.
        down: `down(name, x, channels, cells)`, a 1 × 1 convolution after `space_to_depth`; `cells`
            is that of the convolution's scale, here and in `up`.
        up: `up(name, x, channels, cells)`, `depth_to_space` after a 1 × 1 convolution.
        near: `near(x, cells, pixels, had)`, x within so many pixels of the part of the image that
            is wanted; `had` is how far x reaches around it, None: as far as the image.
    """

    block: Callable
    down: Callable
    up: Callable
    near: Callable = keep_whole


def wire_layers(
    x: Any, features: Any, widths: tuple[int, int, int], dilations: Sequence[int], steps: Steps
) -> Any:
    """Connects all layers between the first and the last one.

    Args:
        x: the first features, at half scale: an array or what stands for one in another engine.
        features: what `coefficient_features` returned, likewise.
        widths: channels at half, quarter and eighth scale.
        dilations: of the blocks at an eighth.
        steps: the layers.

    Returns:
        Input of the last layer.
    """
    block, down, up, near = steps
    half, quarter, eighth = widths
    count = len(dilations) + 4
    x = at_half = block(1, x, HALF)
    x = down("to_quarter", x, quarter, QUARTER)
    x = at_quarter = block(2, x, QUARTER)
    x = down("to_eighth", x, eighth, EIGHTH) + features
    had = None
    for i, dilation in enumerate(dilations, start=3):
        # A block sees its dilation, twice; the layers after all of them see 14 pixels.
        pixels = 16 + 16 * sum(dilations[i - 3 :])
        x = block(i, near(x, EIGHTH, pixels, had), EIGHTH, dilation)
        had = pixels
    x = near(x, EIGHTH, 16, had)
    x = up("from_eighth", x, quarter, EIGHTH) + near(at_quarter, QUARTER, 16)
    x = block(count - 1, x, QUARTER)
    x = up("from_quarter", x, half, QUARTER) + near(at_half, HALF, 16)
    return block(count, x, HALF)
