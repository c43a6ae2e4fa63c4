"""Training pairs made on the device, inside the jitted step, by stateless randomness.

The order of tiles is a permutation by (seed, epoch), on the host; crop, flips, turn and quality
follow from (seed, step). So any step's batch can be made at any time, alone, on any number of
devices.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg


def tile_indices(count: int, batch_size: int, step: int, seed: int, start: int = 0) -> np.ndarray:
    """Which tiles a batch is cropped from.

    Args:
        count: tiles there are.
        batch_size: tiles to take, any number; taken one after another, an epoch after another,
            each in its own order.
        step: of the stage, from 0.
        seed: decides the orders.
        start: tiles taken before the stage's first batch.

    Returns:
        int32 [batch_size], within 0 to count - 1.
    """
    positions = start + step * batch_size + np.arange(batch_size)
    epochs = positions // count
    indices = np.empty(batch_size, np.int32)
    for epoch in np.unique(epochs):
        order = np.random.default_rng((seed, int(epoch))).permutation(count)
        chosen = epochs == epoch
        indices[chosen] = order[positions[chosen] % count]
    return indices


def make_batch(
    tiles: jax.Array,
    key: jax.Array,
    patch_size: int,
    quality: int,
    quality_range: Sequence[int] = (),
) -> dict[str, jax.Array]:
    """Crops, flips, turns and compresses.

    Args:
        tiles: uint8 [B, side, side].
        key: a random key; decides all of it.
        patch_size: side of the patches, pixels, a multiple of 8 and at most `side`.
        quality: JPEG quality, 1 to 100.
        quality_range: (lowest, highest), to draw a quality for each patch uniformly instead; ()
            for none.

    Returns:
        A batch: "original" uint8 [B, patch_size, patch_size], "coefficients" int32 [B,
            patch_size/8, patch_size/8, 64] and
        "table" int32 [B, 8, 8], as a file that Pillow writes of the original would hold them.
    """
    batch, side = tiles.shape[:2]
    corner_key, turn_key, quality_key = jax.random.split(key, 3)
    corners = jax.random.randint(corner_key, (batch, 2), 0, side - patch_size + 1)
    turns = jax.random.bernoulli(turn_key, 0.5, (batch, 3))

    def crop(tile, corner, turn):
        patch = jax.lax.dynamic_slice(tile, corner, (patch_size, patch_size))
        patch = jnp.where(turn[0], patch[::-1], patch)
        patch = jnp.where(turn[1], patch[:, ::-1], patch)
        return jnp.where(turn[2], patch.T, patch)

    original = jax.vmap(crop)(tiles, corners, turns)
    lowest, highest = quality_range or (quality, quality)
    qualities = jax.random.randint(quality_key, (batch,), lowest, highest + 1)
    table = jpeg.quality_table(qualities)
    return {"original": original, "coefficients": jpeg.encode(original, table), "table": table}
