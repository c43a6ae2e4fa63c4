"""Pairs made on the device are what Pillow's files hold, and any batch can be made alone."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.data import luma_pairs


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (3, 7), (8, 8), (1, 3)])
def test_an_epoch_is_a_permutation(count, batch):
    steps = 3 * count
    drawn = np.concatenate(
        [luma_pairs.epoch_indices(count, batch, step, (0, 1)) for step in range(steps)]
    )
    epochs = drawn.reshape(-1, count)
    assert (np.sort(epochs, axis=1) == np.arange(count)).all()
    if count > 3:
        # Each in its own order, and another one by another seed.
        assert len({tuple(epoch) for epoch in epochs}) > 1
        other = luma_pairs.epoch_indices(count, count, 0, (0, 2))
        assert not np.array_equal(other, epochs[0])


def _pillow(original, quality):
    file = io.BytesIO()
    Image.fromarray(original).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        # Pillow gives tables in natural order.
        return np.asarray(image), np.reshape(image.quantization[0], (8, 8))


@pytest.mark.parametrize("quality_range", [(), (5, 95)])
def test_pairs_are_pillows(photographs, rng, quality_range):
    noise = rng.integers(0, 256, (2, 96, 96), dtype=np.uint8)
    tiles = np.stack([p[:96, :96] for p in photographs.values()])
    tiles = np.concatenate([tiles, noise, np.repeat(tiles, 3, axis=0)])
    batch = luma_pairs.make_batch(tiles, jax.random.key(1), 56, quality_range or (10, 10))
    batch = jax.device_get(batch)
    decoded = np.asarray(jpeg.decode(batch["coefficients"], batch["table"]))
    tables = {q: np.asarray(jpeg.quality_table(q)).tobytes() for q in range(1, 101)}
    qualities = []
    for original, table, result in zip(batch["original"], batch["table"], decoded, strict=True):
        matching = [q for q, t in tables.items() if t == table.tobytes()]
        qualities.append(matching[0])
        pixels, pillows_table = _pillow(original, matching[0])
        np.testing.assert_array_equal(table, pillows_table)
        np.testing.assert_array_equal(result, pixels)
    if quality_range:
        assert min(qualities) >= 5
        assert max(qualities) <= 95
        assert len(set(qualities)) > 5
    else:
        assert set(qualities) == {10}


def test_patches_are_crops_flipped_and_turned():
    side, patch = 32, 16
    # Every pixel is unlike all others of its tile, across two of them.
    tile = np.arange(side * side).reshape(side, side)
    low, high = (tile % 256).astype(np.uint8), (tile // 256).astype(np.uint8)
    key = jax.random.key(0)
    low, high = (
        np.asarray(
            luma_pairs.make_batch(np.repeat(t[None], 64, 0), key, patch, (50, 50))["original"]
        )
        for t in (low, high)
    )
    places = high.astype(int) * 256 + low
    seen = set()
    for place in places:
        y, x = np.divmod(place, side)
        corner = y.min(), x.min()
        crop = tile[corner[0] : corner[0] + patch, corner[1] : corner[1] + patch]
        turned = {
            (k, mirrored): np.rot90(crop[:, ::-1] if mirrored else crop, k)
            for k in range(4)
            for mirrored in (False, True)
        }
        matching = [which for which, image in turned.items() if np.array_equal(image, place)]
        assert len(matching) == 1
        seen.add(matching[0])
    assert len(seen) == 8


def test_a_batch_follows_from_its_key_alone():
    tiles = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    first, again, other = (
        luma_pairs.make_batch(tiles, jax.random.key(k), 16, (20, 20))["original"] for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_varied_tables(photographs):
    """Pairs with tables that are no standard ones are what Pillow writes with these tables."""
    tiles = np.stack([p[:64, :64] for p in photographs.values()])
    tiles = np.repeat(tiles, 12, axis=0)
    key = jax.random.key(2)
    batch = jax.device_get(luma_pairs.make_batch(tiles, key, 32, (5, 95), 0.5))
    standard = {np.asarray(jpeg.quality_table(q)).tobytes() for q in range(1, 101)}
    varied = [table.tobytes() not in standard for table in batch["table"]]
    assert 0.2 < np.mean(varied) < 0.8
    decoded = np.asarray(jpeg.decode(batch["coefficients"], batch["table"]))
    for original, table, result in zip(batch["original"], batch["table"], decoded, strict=True):
        file = io.BytesIO()
        # Pillow takes tables in natural order.
        Image.fromarray(original).save(file, "JPEG", qtables=[table.reshape(64).tolist()])
        with Image.open(file) as image:
            np.testing.assert_array_equal(np.reshape(image.quantization[0], (8, 8)), table)
            np.testing.assert_array_equal(np.asarray(image), result)
    # The other draws are what they are without variety.
    plain = jax.device_get(luma_pairs.make_batch(tiles, key, 32, (5, 95)))
    np.testing.assert_array_equal(plain["original"], batch["original"])
    same = np.logical_not(varied)
    np.testing.assert_array_equal(plain["table"][same], batch["table"][same])
