"""Training pairs made on the device, inside the jitted step, by stateless randomness.

The order of tiles is a permutation by (seed, epoch), on the host; crop, flips, turn and quality
follow from (seed, step). So any step's batch can be made at any time, alone, on any number of
devices.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.config.validation import batch_sizes
from dmcnn_jax.data.tiles import Tiles
from dmcnn_jax.system import devices


class TileFeed:
    """What the step makes its pairs of: tiles, all on the device or a batch at a time.

    Args:
        tiles: what to train on.
        config: of the run.
        mesh: to put them on.

    Attributes:
        skipped: reason → number of images that gave no tile.
    """

    def __init__(self, tiles: Tiles, config: Mapping[str, Any], mesh: jax.sharding.Mesh):
        self.skipped = tiles.skipped
        self._tiles, self._seed, self._sizes = tiles, config.seed, batch_sizes(config)
        self._batched = devices.batched(mesh)
        self._resident = None
        if tiles.nbytes <= config.data.device_bytes:
            self._resident = devices.to_devices(tiles.take(), devices.replicated(mesh))

    @property
    def fingerprint(self) -> str:
        """Differs where the tiles do."""
        return self._tiles.fingerprint

    def __str__(self) -> str:
        return f"{len(self._tiles):,} tiles of {len(self._tiles.names):,} images, pairs on device"

    def inputs(self, stage: int, stage_step: int) -> dict[str, jax.Array]:
        """Arguments of `make_batch` for a step.

        Args:
            stage: index of the stage.
            stage_step: steps done in it.

        Returns:
            Of tiles that are all on the device, "tiles" uint8 [N, side, side], and "indices"
            int32 [B] of those in the batch, split over the devices; else "tiles" uint8
            [B, side, side] of the batch, split over the devices.
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


def epoch_indices(count: int, batch_size: int, step: int, seed: Sequence[int]) -> np.ndarray:
    """Which examples a batch is made of: any batch, at any time, from its number alone.

    Examples come one after another, an epoch after another, each epoch in an order of its own.

    Args:
        count: examples there are.
        batch_size: examples to take, any number.
        step: number of the batch, from 0.
        seed: integers that decide the orders.

    Returns:
        int32 [batch_size], within 0 to count - 1.
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
    """A permutation of 0 to count - 1, int32, that follows from integers; read-only."""
    order = np.random.default_rng(seed).permutation(count).astype(np.int32)
    order.flags.writeable = False
    return order


def make_batch(
    tiles: jax.Array,
    key: jax.Array,
    patch_size: int,
    quality: int,
    quality_range: Sequence[int] = (),
    random_table_prob: float = 0.0,
) -> dict[str, jax.Array]:
    """Crops, flips, turns and compresses.

    Args:
        tiles: uint8 [B, side, side].
        key: a random key; decides all of it.
        patch_size: side of the patches, pixels, a multiple of 8 and at most `side`.
        quality: JPEG quality, 1 to 100.
        quality_range: (lowest, highest), to draw a quality for each patch uniformly instead; ()
            for none.
        random_table_prob: share of the patches that get a `jpeg.varied_table` instead of their
            quality's standard one.

    Returns:
        A batch: "original" uint8 [B, patch_size, patch_size], "coefficients" int32 [B,
            patch_size/8, patch_size/8, 64] and
        "table" int32 [B, 8, 8], as a file that Pillow writes of the original with such a table
        would hold them.
    """
    batch = len(tiles)
    corner_key, turn_key, quality_key = jax.random.split(key, 3)
    original = crop_patches(tiles, corner_key, turn_key, patch_size)
    lowest, highest = quality_range or (quality, quality)
    qualities = jax.random.randint(quality_key, (batch,), lowest, highest + 1)
    table = jpeg.quality_table(qualities)
    if random_table_prob:
        # Keys of their own: without variety, what is drawn stays what it was.
        chosen_key, table_key = jax.random.split(jax.random.fold_in(quality_key, 1))
        chosen = jax.random.bernoulli(chosen_key, random_table_prob, (batch, 1, 1))
        table = jnp.where(chosen, jpeg.varied_table(table_key, qualities), table)
    return {"original": original, "coefficients": jpeg.encode(original, table), "table": table}


def crop_patches(
    tiles: jax.Array, corner_key: jax.Array, turn_key: jax.Array, patch_size: int
) -> jax.Array:
    """Crops, flips and turns at random.

    Args:
        tiles: [B, side, side] or [B, side, side, channels].
        corner_key: a random key, which decides where.
        turn_key: a random key, which decides how they are flipped and turned.
        patch_size: side of the patches, pixels.

    Returns:
        [B, patch_size, patch_size] or [B, patch_size, patch_size, channels].
    """
    batch, side, _, *channels = tiles.shape
    corners = jax.random.randint(corner_key, (batch, 2), 0, side - patch_size + 1)
    turns = jax.random.bernoulli(turn_key, 0.5, (batch, 3))

    def crop(tile, corner, turn):
        start = (*corner, *(0 for _ in channels))
        patch = jax.lax.dynamic_slice(tile, start, (patch_size, patch_size, *channels))
        patch = jnp.where(turn[0], patch[::-1], patch)
        patch = jnp.where(turn[1], patch[:, ::-1], patch)
        return jnp.where(turn[2], patch.swapaxes(0, 1), patch)

    return jax.vmap(crop)(tiles, corners, turns)
