"""Training pairs of whole colour files made on the device, inside the jitted training step.

They differ from those of `chroma_pairs` in that all planes are restored, without a guide. A pair is
the coefficients of the file that Pillow would write for a patch, and the patch itself in YCbCr.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.config.types import Config
from dmcnn_jax.data.chroma_pairs import (
    ColorSampler,
    Tables,
    draw_color_tables,
    encode,
    standard_tables,
)
from dmcnn_jax.data.luma_pairs import crop_patches, select_tiles
from dmcnn_jax.images import color
from dmcnn_jax.models.photo_input import PhotoInput

VALIDATION_QUALITIES = (10, 30, 70)
"""Qualities of validation tiles, in turn."""

# Share of patches whose colour is removed, so that the network learns gray pictures.
_GRAY_SHARE = 1 / 16


class PhotoInputs(flax.struct.PyTreeNode):
    """The inputs from which a training step makes pairs.

    Attributes:
        tiles: RGB, uint8 [N, side, side, 3]: all tiles, or those of the batch.
        indices: int32 [B], which tiles are in the batch; None: all of them.
        qualities: lowest and highest JPEG quality, int32 [2].
        subsampling: vertical and horizontal subsampling factors; steps are compiled for each.
    """

    tiles: jax.Array
    indices: jax.Array | None
    qualities: jax.Array
    subsampling: tuple[int, int] = flax.struct.field(pytree_node=False)


class PhotoFeed(ColorSampler):
    """A feed of RGB tiles, from which the training step makes pairs of all planes."""

    def inputs(self, stage: int, stage_step: int) -> PhotoInputs:
        """Returns the inputs of a training step, with a subsampling drawn at random.

        Args:
            stage: index of the stage.
            stage_step: number of steps done in the stage.
        """
        drawn = self.draw_tiles(stage, stage_step)
        subsampling = self.draw_subsampling(stage, stage_step)
        return PhotoInputs(drawn["tiles"], drawn.get("indices"), self.qualities, subsampling)


def make_batch(
    inputs: PhotoInputs,
    key: jax.Array,
    patch_size: int,
    config: Config,
    batched: jax.sharding.NamedSharding,
) -> dict[str, Any]:
    """Makes pairs: crops, flips and transposes tiles at random, and compresses them.

    The colour of some patches is removed first.

    Args:
        inputs: result of `PhotoFeed.inputs`.
        key: random key; everything random follows from it.
        patch_size: side of the patches, pixels, a multiple of 16.
        config: configuration of the run.
        batched: sharding of a batch.

    Returns:
        A batch, as `compress` returns it.
    """
    tiles = select_tiles(inputs.tiles, inputs.indices, batched)
    corner_key, turn_key, quality_key, gray_key = jax.random.split(key, 4)
    rgb = crop_patches(tiles, corner_key, turn_key, patch_size)
    gray = jax.random.bernoulli(gray_key, _GRAY_SHARE, (len(rgb), 1, 1, 1))
    rgb = jnp.where(gray, color.rgb_to_y(rgb, "full")[..., None], rgb)
    tables = draw_color_tables(quality_key, len(rgb), inputs.qualities, config.random_table_prob)
    return compress(rgb, tables, inputs.subsampling)


def compress(rgb: jax.Array, tables: Tables, subsampling: tuple[int, int]) -> dict[str, Any]:
    """Makes pairs of pictures.

    Args:
        rgb: uint8 [B, H, W, 3], H and W multiples of 8 times the subsampling factors.
        tables: Q of luma and of chroma, integers [B, 8, 8].
        subsampling: vertical and horizontal subsampling factors.

    Returns:
        A batch: "original", Y, Cb and Cr, uint8 [B, H, W, 3]; "coefficients", a `PhotoInput`; and
        "table", Q of Y, Cb and Cr, int32 [B, 3, 8, 8].
    """
    luma, chroma = encode(rgb, tables, subsampling)
    return {
        "original": color.rgb_to_ycbcr(rgb, "full"),
        "coefficients": PhotoInput(luma[0], chroma[0]),
        "table": jnp.concatenate([luma[1][:, None], chroma[1]], axis=1),
    }


def validation_batch(rgb: np.ndarray, indices: np.ndarray, config: Config) -> dict[str, Any]:
    """Makes pairs of whole tiles, of `VALIDATION_QUALITIES` in turn.

    Args:
        rgb: uint8 [B, side, side, 3].
        indices: [B], of the tiles among all validation tiles. They select the qualities, so that
            these don't depend on the number of devices, which share a batch.
        config: configuration of the run, whose first subsampling is used.

    Returns:
        A batch, as `compress` returns it.
    """
    subsampling = jpeg.SUBSAMPLING_FACTORS[config.data.subsampling[0]]
    qualities = np.asarray(VALIDATION_QUALITIES)[indices % len(VALIDATION_QUALITIES)]
    return compress_at(rgb, qualities, subsampling)


@functools.partial(jax.jit, static_argnums=2)
def compress_at(
    rgb: jax.Array | np.ndarray, qualities: jax.Array | np.ndarray, subsampling: tuple[int, int]
) -> dict[str, Any]:
    """Makes pairs as `compress` does, with the standard tables of qualities [B]."""
    return compress(jnp.asarray(rgb), standard_tables(qualities), subsampling)
