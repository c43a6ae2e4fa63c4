"""Training pairs of chroma made on the device, inside the jitted training step.

A colour JPEG holds Y, Cb and Cr, and mostly subsamples Cb and Cr by 2 × 2. The pairs equal the
contents of Pillow's files: libjpeg's colour conversion and subsampling are integer arithmetic,
which is repeated here bit for bit. The luma of the same file, restored by an existing network, is
the guide.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.config.types import Config
from dmcnn_jax.data.luma_pairs import TileSampler, crop_patches, draw_tables, select_tiles
from dmcnn_jax.data.tiles import Tiles
from dmcnn_jax.images import color
from dmcnn_jax.inference.weights import find_weights, load_weights
from dmcnn_jax.jpeg.projection import project_plane
from dmcnn_jax.models import create_model
from dmcnn_jax.models.chroma import ChromaInput
from dmcnn_jax.system import devices

Tables = tuple[jax.Array, jax.Array]
"""Q of luma and of chroma, int32 [..., 8, 8]."""

_BASES = (jpeg.STANDARD_LUMA, jpeg.STANDARD_CHROMA)


class ColorInputs(flax.struct.PyTreeNode):
    """The inputs from which a training step makes chroma pairs.

    Attributes:
        tiles: RGB, uint8 [N, side, side, 3]: all tiles, or those of the batch.
        indices: int32 [B], which tiles are in the batch; None: all of them.
        qualities: lowest and highest JPEG quality, int32 [2].
        guide: variables of the network that restores luma.
        subsampling: vertical and horizontal subsampling factors; steps are compiled for each.
    """

    tiles: jax.Array
    indices: jax.Array | None
    qualities: jax.Array
    guide: Any
    subsampling: tuple[int, int] = flax.struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class Guide:
    """A network that restores luma.

    Attributes:
        module: Flax module.
        variables: its variables.
    """

    module: nn.Module
    variables: Any


@functools.cache
def load_guide(name: str) -> Guide:
    """Loads the network named by `config.data.guide`, once.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if the file is not a weights file.
    """
    variables, about = load_weights(find_weights(name))
    return Guide(create_model(about["model"]), variables)


class ColorSampler(TileSampler):
    """A source of each training step's RGB tiles, and of the subsampling of their chroma."""

    def __init__(self, tiles: Tiles, config: Config, mesh: jax.sharding.Mesh) -> None:
        super().__init__(tiles, config, mesh)
        self._subsamplings = [jpeg.SUBSAMPLING_FACTORS[name] for name in config.data.subsampling]

    @property
    def subsamplings(self) -> list[tuple[int, int]]:
        """Vertical and horizontal factors that may be drawn, each once."""
        return sorted(set(self._subsamplings))

    def draw_subsampling(self, stage: int, stage_step: int) -> tuple[int, int]:
        """Draws vertical and horizontal subsampling factors; arguments as in `draw_tiles`."""
        rng = np.random.default_rng((self._seed, stage, stage_step))
        return self._subsamplings[int(rng.integers(len(self._subsamplings)))]


class ColorFeed(ColorSampler):
    """A feed of RGB tiles, from which the training step makes chroma pairs."""

    def __init__(self, tiles: Tiles, config: Config, mesh: jax.sharding.Mesh) -> None:
        super().__init__(tiles, config, mesh)
        everywhere = devices.replicated(mesh)
        self._guide = jax.tree.map(
            lambda x: devices.to_devices(np.asarray(x), everywhere),
            load_guide(config.data.guide).variables,
        )

    def inputs(self, stage: int, stage_step: int) -> ColorInputs:
        """Returns the inputs of a training step, with a subsampling drawn at random.

        Args:
            stage: index of the stage.
            stage_step: number of steps done in the stage.
        """
        drawn = self.draw_tiles(stage, stage_step)
        subsampling = self.draw_subsampling(stage, stage_step)
        return ColorInputs(
            drawn["tiles"], drawn.get("indices"), self.qualities, self._guide, subsampling
        )


def make_batch(
    inputs: ColorInputs,
    key: jax.Array,
    patch_size: int,
    config: Config,
    batched: jax.sharding.NamedSharding,
) -> dict[str, Any]:
    """Makes pairs: crops, flips and transposes tiles at random, and compresses them.

    Args:
        inputs: result of `ColorFeed.inputs`.
        key: random key; everything random follows from it.
        patch_size: side of the patches, pixels, a multiple of 16.
        config: configuration of the run.
        batched: sharding of a batch.

    Returns:
        A batch, as `compress` returns it.
    """
    tiles = select_tiles(inputs.tiles, inputs.indices, batched)
    corner_key, turn_key, quality_key = jax.random.split(key, 3)
    tables = draw_color_tables(quality_key, len(tiles), inputs.qualities, config.random_table_prob)
    guide = Guide(load_guide(config.data.guide).module, inputs.guide)
    original = crop_patches(tiles, corner_key, turn_key, patch_size)
    return compress(original, tables, inputs.subsampling, guide)


def draw_color_tables(
    key: jax.Array, count: int, qualities: jax.Array | Sequence[int], random_table_prob: float
) -> Tables:
    """Draws tables of luma and chroma for a batch, int32 [count, 8, 8] each; see `draw_tables`."""
    return cast(Tables, draw_tables(key, count, qualities, random_table_prob, _BASES))


def standard_tables(qualities: jax.Array | np.ndarray) -> Tables:
    """Returns the standard tables of luma and chroma at qualities [...]: int32 [..., 8, 8]."""
    luma, chroma = (jnp.asarray(jpeg.quality_table(qualities, base)) for base in _BASES)
    return luma, chroma


def compress(
    rgb: jax.Array, tables: Tables, subsampling: tuple[int, int], guide: Guide
) -> dict[str, Any]:
    """Makes pairs of pictures.

    Args:
        rgb: uint8 [B, H, W, 3], H and W multiples of 8 times the subsampling factors.
        tables: Q of luma and of chroma, integers [B, 8, 8].
        subsampling: vertical and horizontal subsampling factors.
        guide: network that restores luma.

    Returns:
        A batch: "original", Cb and Cr, uint8 [B, H, W, 2]; "coefficients", a `ChromaInput`; and
        "table", Q of Cb and Cr, int32 [B, 2, 8, 8].
    """
    luma, chroma = encode(rgb, tables, subsampling)
    estimates = cast(dict[str, jax.Array], guide.module.apply(guide.variables, *luma))
    restored = estimates["image"][..., 0]
    restored = jax.lax.stop_gradient(project_plane(restored, *luma)[..., None])
    return {
        "original": color.rgb_to_ycbcr(rgb, "full")[..., 1:],
        "coefficients": ChromaInput(chroma[0], restored),
        "table": chroma[1],
    }


def encode(
    rgb: jax.Array, tables: Tables, subsampling: tuple[int, int]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Returns the coefficients of the colour files that Pillow writes for pictures.

    Args:
        rgb: uint8 [..., H, W, 3], of any size.
        tables: Q of luma and of chroma, integers [..., 8, 8].
        subsampling: vertical and horizontal subsampling factors (s, t).

    Returns:
        k and Q of luma, int32 [..., ⌈H/8⌉, ⌈W/8⌉, 64] and [..., 8, 8]; and of Cb and Cr, int32
        [..., 2, ⌈H/8s⌉, ⌈W/8t⌉, 64] and [..., 2, 8, 8].
    """
    ycbcr = jnp.moveaxis(color.rgb_to_ycbcr(jnp.asarray(rgb), "full"), -1, -3)
    luma = jpeg.encode(ycbcr[..., 0, :, :], tables[0]), tables[0]
    table = jnp.stack([tables[1], tables[1]], axis=-3)
    return luma, (jpeg.encode(downsample(ycbcr[..., 1:, :, :], subsampling), table), table)


def downsample(planes: jax.Array, subsampling: tuple[int, int]) -> jax.Array:
    """Subsamples planes as libjpeg does, by averages in integers.

    Halves are rounded down and up alternately along a row, so that the mean doesn't drift. Border
    rows and columns are repeated first: rows up to a whole sample, columns up to whole blocks of
    samples.

    Args:
        planes: uint8 [..., H, W].
        subsampling: vertical and horizontal factors (s, t): (1, 1), (1, 2) or (2, 2).

    Returns:
        uint8 [..., ⌈H / s⌉, 8 · ⌈W / 8t⌉].
    """
    down, across = subsampling
    height, width = planes.shape[-2:]
    edges = [(0, 0)] * (planes.ndim - 2) + [(0, -height % down), (0, -width % (8 * across))]
    wide = jnp.pad(planes, edges, mode="edge").astype(jnp.int32)
    *leading, height, width = wide.shape
    cells = wide.reshape(*leading, height // down, down, width // across, across)
    sums = cells.sum(axis=(-3, -1))
    alternating = {(1, 1): (0, 0), (1, 2): (0, 1), (2, 2): (1, 2)}[subsampling]
    bias = np.resize(np.array(alternating, np.int32), width // across)
    return ((sums + bias) // (down * across)).astype(jnp.uint8)


def validation_batch(rgb: np.ndarray, config: Config) -> dict[str, Any]:
    """Makes pairs of whole tiles, with the quality and the first subsampling of `config`.

    Args:
        rgb: uint8 [B, side, side, 3].
        config: configuration of the run.

    Returns:
        A batch, as `compress` returns it.
    """
    subsampling = jpeg.SUBSAMPLING_FACTORS[config.data.subsampling[0]]
    guide = load_guide(config.data.guide)
    qualities = np.full(len(rgb), config.quality)
    return _compress(guide.module, guide.variables, rgb, qualities, subsampling)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _compress(
    module: nn.Module,
    variables: Any,
    rgb: jax.Array,
    qualities: jax.Array,
    subsampling: tuple[int, int],
) -> dict[str, Any]:
    return compress(rgb, standard_tables(qualities), subsampling, Guide(module, variables))
