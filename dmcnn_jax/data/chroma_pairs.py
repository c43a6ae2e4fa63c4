"""Training pairs for networks of chroma: what Pillow's colour files hold, made on the device.

A colour JPEG holds Y, Cb and Cr, and of Cb and Cr mostly a sample for each two by two pixels. What
libjpeg does to get there is integer arithmetic, and is done here bit for bit. The luma of the same
file, restored by a network that is there already, is the guide.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.data.on_device import TileFeed, crop_patches
from dmcnn_jax.data.tiles import Tiles
from dmcnn_jax.images import color
from dmcnn_jax.inference.weights import find_weights, load_weights
from dmcnn_jax.jpeg.projection import project_plane
from dmcnn_jax.models import create_model
from dmcnn_jax.models.chroma import ChromaInput
from dmcnn_jax.system import devices

SUBSAMPLING = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}
"""Names of what there is training for: rows and columns of the picture to a chroma sample."""


class ColorInputs(flax.struct.PyTreeNode):
    """What a step makes its pairs of.

    Attributes:
        tiles: uint8 [N, side, side, 3], RGB, all there are, or those of the batch.
        indices: int32 [B], of those in the batch; None: all.
        guide: variables of the network that restores luma.
        step: rows and columns of the picture to a chroma sample. Each is a program of its own.
    """

    tiles: jax.Array
    indices: jax.Array | None
    guide: Any
    step: tuple[int, int] = flax.struct.field(pytree_node=False)


Tables = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Guide:
    """A network that restores luma.

    Attributes:
        module: the Flax module.
        variables: its variables.
    """

    module: Any
    variables: Any


@functools.cache
def load_guide(name: str) -> Guide:
    """Loads what `config.data.guide` names; errors as of `load_weights` and `find_weights`."""
    variables, about = load_weights(find_weights(name))
    return Guide(create_model(about["model"]), variables)


class ColorFeed(TileFeed):
    """A feed of tiles of RGB; the rest as of `TileFeed`."""

    def __init__(self, tiles: Tiles, config: Mapping[str, Any], mesh: jax.sharding.Mesh):
        super().__init__(tiles, config, mesh)
        self._steps = [SUBSAMPLING[name] for name in config.data.subsampling]
        everywhere = devices.replicated(mesh)
        self._guide = jax.tree.map(
            lambda x: devices.to_devices(np.asarray(x), everywhere),
            load_guide(config.data.guide).variables,
        )

    def inputs(self, stage: int, stage_step: int) -> ColorInputs:
        """Of a step; arguments as of `TileFeed.inputs`."""
        given = super().inputs(stage, stage_step)
        drawn = np.random.default_rng((self._seed, stage, stage_step)).integers(len(self._steps))
        return ColorInputs(
            given["tiles"], given.get("indices"), self._guide, self._steps[int(drawn)]
        )


def make_batch(
    inputs: ColorInputs,
    key: jax.Array,
    patch_size: int,
    config: Mapping[str, Any],
    batched: jax.sharding.NamedSharding,
) -> dict[str, Any]:
    """Crops, flips, turns and compresses.

    Args:
        inputs: what `ColorFeed.inputs` gave.
        key: a random key; decides all of it.
        patch_size: side of the patches, pixels, a multiple of 16.
        config: of the run.
        batched: sharding of a batch.

    Returns:
        As of `compress`.
    """
    tiles = inputs.tiles
    if inputs.indices is not None:
        tiles = tiles.at[inputs.indices].get(mode="promise_in_bounds")
        tiles = jax.lax.with_sharding_constraint(tiles, batched)
    corner_key, turn_key, quality_key = jax.random.split(key, 3)
    lowest, highest = tuple(config.quality_range) or (config.quality, config.quality)
    qualities = jax.random.randint(quality_key, (len(tiles),), lowest, highest + 1)
    tables = standard_tables(qualities)
    if config.random_table_prob:
        chosen_key, *keys = jax.random.split(jax.random.fold_in(quality_key, 1), 3)
        chosen = jax.random.bernoulli(chosen_key, config.random_table_prob, (len(tiles), 1, 1))
        tables = tuple(
            jnp.where(chosen, jpeg.varied_table(k, qualities, base), table)
            for k, base, table in zip(keys, _BASES, tables, strict=True)
        )
    guide = Guide(load_guide(config.data.guide).module, inputs.guide)
    original = crop_patches(tiles, corner_key, turn_key, patch_size)
    return compress(original, tables, inputs.step, guide)


def standard_tables(qualities: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The tables of luma and of chroma that qualities, integers [...], stand for: [..., 8, 8]."""
    luma, chroma = (jnp.asarray(jpeg.quality_table(qualities, base)) for base in _BASES)
    return luma, chroma


_BASES = (jpeg.STANDARD_LUMA, jpeg.STANDARD_CHROMA)


def compress(rgb: jax.Array, tables: Tables, step: tuple[int, int], guide: Guide) -> dict[str, Any]:
    """Pairs of pictures.

    Args:
        rgb: uint8 [B, H, W, 3], H and W multiples of 8 times `step`.
        tables: Q of luma and of chroma, integers [B, 8, 8].
        step: rows and columns of the picture to a chroma sample.
        guide: what restores luma.

    Returns:
        A batch: "original", Cb and Cr, uint8 [B, H, W, 2]; "coefficients", a `ChromaInput`; and
            "table", Q of Cb and Cr, int32 [B, 2, 8, 8].
    """
    luma, chroma = encode(rgb, tables, step)
    restored = guide.module.apply(guide.variables, *luma)["image"][..., 0]
    restored = jax.lax.stop_gradient(project_plane(restored, *luma)[..., None])
    return {
        "original": color.rgb_to_ycbcr(rgb, "full")[..., 1:],
        "coefficients": ChromaInput(chroma[0], restored),
        "table": chroma[1],
    }


def encode(
    rgb: jax.Array, tables: Tables, step: tuple[int, int]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """The coefficients that Pillow's colour files of pictures hold.

    Args:
        rgb: uint8 [..., H, W, 3], of any size.
        tables: Q of luma and of chroma, integers [..., 8, 8].
        step: rows and columns of the picture to a chroma sample.

    Returns:
        k and Q of luma, int32 [..., ⌈H/8⌉, ⌈W/8⌉, 64] and [..., 8, 8]; and of Cb and Cr, int32
        [..., 2, ⌈H/8s⌉, ⌈W/8t⌉, 64] and [..., 2, 8, 8].
    """
    ycbcr = jnp.moveaxis(color.rgb_to_ycbcr(jnp.asarray(rgb), "full"), -1, -3)
    luma = jpeg.encode(ycbcr[..., 0, :, :], tables[0]), tables[0]
    table = jnp.stack([tables[1], tables[1]], axis=-3)
    return luma, (jpeg.encode(downsample(ycbcr[..., 1:, :, :], step), table), table)


def downsample(planes: jax.Array, step: tuple[int, int]) -> jax.Array:
    """Averages samples as libjpeg does, in integers.

    Halves are rounded up and down by turns along a row, lest chroma drift. Rows and columns are
    repeated at the border first: rows up to a whole sample, columns up to whole blocks of samples.

    Args:
        planes: uint8 [..., H, W].
        step: rows and columns to a sample: (1, 1), (1, 2) or (2, 2).

    Returns:
        uint8 [..., ⌈H / step[0]⌉, 8 · ⌈W / (8 · step[1])⌉].
    """
    down, across = step
    height, width = planes.shape[-2:]
    edges = [(0, 0)] * (planes.ndim - 2) + [(0, -height % down), (0, -width % (8 * across))]
    wide = jnp.pad(planes, edges, mode="edge").astype(jnp.int32)
    *leading, height, width = wide.shape
    cells = wide.reshape(*leading, height // down, down, width // across, across)
    sums = cells.sum(axis=(-3, -1))
    bias = {(1, 1): (0, 0), (1, 2): (0, 1), (2, 2): (1, 2)}[step]
    bias = np.resize(np.array(bias, np.int32), width // across)
    return ((sums + bias) // (down * across)).astype(jnp.uint8)


def validation_batch(rgb: np.ndarray, config: Mapping[str, Any]) -> dict[str, Any]:
    """Pairs of whole tiles, uint8 [B, side, side, 3], at the quality of `config`: as `compress`."""
    step = SUBSAMPLING[config.data.subsampling[0]]
    guide = load_guide(config.data.guide)
    qualities = np.full(len(rgb), config.quality)
    return _compress(guide.module, guide.variables, rgb, qualities, step)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _compress(
    module: Any, variables: Any, rgb: jax.Array, qualities: jax.Array, step: Sequence[int]
) -> dict[str, Any]:
    return compress(rgb, standard_tables(qualities), step, Guide(module, variables))
