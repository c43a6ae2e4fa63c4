"""Training pairs of luma made on the device, inside the jitted training step.

Randomness is stateless: the order of tiles is a permutation drawn from (seed, epoch) on the host;
crops, flips, transpositions and quantisation tables are drawn from (seed, step). So the batch of
any step can be made independently, at any time, on any number of devices.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.config.types import Config
from dmcnn_jax.config.validation import batch_sizes, quality_bounds
from dmcnn_jax.data.tiles import Tiles
from dmcnn_jax.system import devices


class TileSampler:
    """A source of each training step's tiles: all on the device, or sent batch by batch.

    Args:
        tiles: tiles to train on.
        config: configuration of the run.
        mesh: devices that hold the tiles.

    Attributes:
        skipped: number of images that gave no tile, by reason.
        qualities: lowest and highest quality of training pairs, int32 [2], on the devices.
    """

    def __init__(self, tiles: Tiles, config: Config, mesh: jax.sharding.Mesh) -> None:
        self.skipped = tiles.skipped
        self._tiles, self._seed, self._sizes = tiles, config.seed, batch_sizes(config)
        self._batched = devices.batched(mesh)
        # Not a constant of the step, so that runs that differ only in it share a compiled program.
        self.qualities = devices.to_devices(
            np.asarray(quality_bounds(config), np.int32), devices.replicated(mesh)
        )
        self._resident: jax.Array | None = None
        if tiles.nbytes <= config.data.device_bytes:
            self._resident = devices.to_devices(tiles.take(), devices.replicated(mesh))

    @property
    def fingerprint(self) -> str:
        """Text that differs if the tiles differ."""
        return self._tiles.fingerprint

    def __str__(self) -> str:
        return f"{len(self._tiles):,} tiles of {len(self._tiles.names):,} images, pairs on device"

    def draw_tiles(self, stage: int, stage_step: int) -> dict[str, jax.Array]:
        """Returns the tiles of a training step.

        Args:
            stage: index of the stage.
            stage_step: number of steps done in the stage.

        Returns:
            If all tiles are on the device, "tiles", uint8 [N, side, side] or [N, side, side, 3],
            and "indices", int32 [B], which of them are in the batch, split over the devices. Else
            "tiles" of the batch alone, [B, ...], split over the devices.
        """
        size = self._sizes[stage]
        indices = epoch_indices(len(self._tiles), size, stage_step, (self._seed, stage))
        mine = indices[devices.local_rows(size)]
        if self._resident is not None:
            return {
                "tiles": self._resident,
                "indices": devices.to_devices(mine, self._batched),
            }
        return {"tiles": devices.to_devices(self._tiles.take(mine), self._batched)}


class TileFeed(TileSampler):
    """A feed of luma tiles, from which the training step makes pairs."""

    def inputs(self, stage: int, stage_step: int) -> dict[str, jax.Array]:
        """Returns the result of `draw_tiles`, and "qualities", `self.qualities`."""
        return {**self.draw_tiles(stage, stage_step), "qualities": self.qualities}


def epoch_indices(count: int, batch_size: int, step: int, seed: Sequence[int]) -> np.ndarray:
    """Returns which examples are in a batch, as a pure function of the batch's number.

    Each epoch covers all examples in its own order; a batch may span several epochs.

    Args:
        count: number of examples in the data set.
        batch_size: number of examples in a batch, which may exceed `count`.
        step: number of the batch, from 0.
        seed: integers from which the orders are drawn, together with the epoch.

    Returns:
        int32 [batch_size], 0 to count - 1.
    """
    positions = step * batch_size + np.arange(batch_size)
    epochs = positions // count
    indices = np.empty(batch_size, np.int32)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        indices[chosen] = epoch_order(count, (*seed, int(epoch)))[positions[chosen] % count]
    return indices


@functools.lru_cache(maxsize=4)
def epoch_order(count: int, seed: tuple[int, ...]) -> np.ndarray:
    """Returns a permutation of 0 to count - 1, int32, read-only, drawn from the seed."""
    order = np.random.default_rng(seed).permutation(count).astype(np.int32)
    order.flags.writeable = False
    return order


def select_tiles(
    tiles: jax.Array, indices: jax.Array | None, batched: jax.sharding.NamedSharding
) -> jax.Array:
    """Returns the tiles of a batch, inside the jitted step.

    Args:
        tiles: "tiles" of the result of `TileSampler.draw_tiles`.
        indices: "indices" of that result; None without them.
        batched: sharding of a batch.
    """
    if indices is None:
        return tiles
    tiles = tiles.at[indices].get(mode="promise_in_bounds")
    return jax.lax.with_sharding_constraint(tiles, batched)


def make_batch(
    tiles: jax.Array,
    key: jax.Array,
    patch_size: int,
    qualities: jax.Array | Sequence[int],
    random_table_prob: float = 0.0,
) -> dict[str, jax.Array]:
    """Makes pairs: crops, flips and transposes tiles at random, and compresses them.

    Args:
        tiles: uint8 [B, side, side].
        key: random key; everything random follows from it.
        patch_size: side of the patches, pixels, a multiple of 8 and at most `side`.
        qualities: lowest and highest JPEG quality, 1 to 100, int32 [2]; one is drawn uniformly for
            each patch.
        random_table_prob: probability that a patch gets a `jpeg.varied_table` instead of the
            standard table of its quality.

    Returns:
        A batch: "original", uint8 [B, patch_size, patch_size]; "coefficients", int32 [B,
        patch_size/8, patch_size/8, 64]; and "table", int32 [B, 8, 8]. Coefficients and table are
        those of the file that Pillow writes for the original with this table.
    """
    corner_key, turn_key, quality_key = jax.random.split(key, 3)
    original = crop_patches(tiles, corner_key, turn_key, patch_size)
    (table,) = draw_tables(quality_key, len(tiles), qualities, random_table_prob)
    return {"original": original, "coefficients": jpeg.encode(original, table), "table": table}


def draw_tables(
    key: jax.Array,
    count: int,
    quality_range: jax.Array | Sequence[int],
    random_table_prob: float,
    bases: Sequence[np.ndarray] = (jpeg.STANDARD_LUMA,),
) -> tuple[jax.Array, ...]:
    """Draws quantisation tables for a batch.

    Args:
        key: random key.
        count: number of patches.
        quality_range: lowest and highest JPEG quality, int32 [2]; one is drawn uniformly for each
            patch.
        random_table_prob: probability that a patch gets varied tables instead of standard ones.
        bases: tables to scale by the quality, int32 [8, 8]: those of luma, or of luma and chroma.

    Returns:
        For each base, int32 [count, 8, 8].
    """
    lowest, highest = quality_range[0], quality_range[1]
    qualities = jax.random.randint(key, (count,), lowest, highest + 1)
    tables = tuple(jpeg.quality_table(qualities, base) for base in bases)
    if not random_table_prob:
        return tables
    # The fold gives varied tables separate keys, so qualities don't depend on the probability.
    chosen_key, *table_keys = jax.random.split(jax.random.fold_in(key, 1), 1 + len(bases))
    chosen = jax.random.bernoulli(chosen_key, random_table_prob, (count, 1, 1))
    return tuple(
        jnp.where(chosen, jpeg.varied_table(table_key, qualities, base), table)
        for table_key, base, table in zip(table_keys, bases, tables, strict=True)
    )


def crop_patches(
    tiles: jax.Array, corner_key: jax.Array, turn_key: jax.Array, patch_size: int
) -> jax.Array:
    """Crops, flips and transposes tiles at random.

    Args:
        tiles: [B, side, side] or [B, side, side, channels].
        corner_key: random key of the positions.
        turn_key: random key of the flips and transpositions.
        patch_size: side of the patches, pixels.

    Returns:
        [B, patch_size, patch_size] or [B, patch_size, patch_size, channels].
    """
    batch, side, _, *channels = tiles.shape
    corners = jax.random.randint(corner_key, (batch, 2), 0, side - patch_size + 1)
    turns = jax.random.bernoulli(turn_key, 0.5, (batch, 3))

    def crop(tile: jax.Array, corner: jax.Array, turn: jax.Array) -> jax.Array:
        start = (*corner, *(0 for _ in channels))
        patch = jax.lax.dynamic_slice(tile, start, (patch_size, patch_size, *channels))
        patch = jnp.where(turn[0], patch[::-1], patch)
        patch = jnp.where(turn[1], patch[:, ::-1], patch)
        return jnp.where(turn[2], patch.swapaxes(0, 1), patch)

    return jax.vmap(crop)(tiles, corners, turns)
