"""Pairs of chroma made on the device are what Pillow's colour files hold."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.data import chroma_pairs
from dmcnn_jax.images import color
from dmcnn_jax.models.chroma import ChromaInput, ChromaNet

PILLOW = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


def saved(rgb, quality, subsampling):
    """What Pillow's file holds, by our reader."""
    file = io.BytesIO()
    Image.fromarray(rgb).save(
        file, "JPEG", quality=quality, subsampling=PILLOW[subsampling], optimize=True
    )
    return jpeg.read(file.getvalue())


@pytest.fixture(scope="module")
def pictures():
    from skimage import data

    photographs = [data.astronaut()[:96, :112], data.coffee()[64:160, 100:212]]
    noise = np.random.default_rng(0).integers(0, 256, (2, 96, 112, 3), dtype=np.uint8)
    pure = np.zeros((1, 96, 112, 3), np.uint8)
    pure[0, :48, :56, 0] = pure[0, 40:, 50:, 2] = 255
    return np.concatenate([np.stack(photographs), noise, pure])


@pytest.mark.parametrize("subsampling", PILLOW)
@pytest.mark.parametrize("size", [(96, 112), (91, 75), (33, 18), (17, 16), (1, 2)])
def test_coefficients_are_pillows(pictures, subsampling, size):
    factors = jpeg.SUBSAMPLING_FACTORS[subsampling]
    rgb = np.ascontiguousarray(pictures[:, : size[0], : size[1]])
    qualities = np.array([5, 10, 50, 95, 30])
    luma, chroma = jax.device_get(
        jax.jit(chroma_pairs.encode, static_argnums=2)(
            rgb, chroma_pairs.standard_tables(qualities), factors
        )
    )
    for i, quality in enumerate(qualities):
        file = saved(rgb[i], int(quality), subsampling)
        for component, k, table in zip(
            file.components,
            (luma[0][i], *chroma[0][i]),
            (luma[1][i], *chroma[1][i]),
            strict=True,
        ):
            np.testing.assert_array_equal(table, component.table)
            rows, columns, _ = component.coefficients.shape
            np.testing.assert_array_equal(k[:rows, :columns], component.coefficients)
        assert file.components[1].subsampling == factors


def test_chroma_decodes_as_libjpeg_has_it(pictures):
    """Pillow's decoder, in YCbCr; ours rounds once where libjpeg's bias alternates."""
    rgb = pictures[:2]
    (_, chroma) = chroma_pairs.encode(rgb, chroma_pairs.standard_tables(np.array([30, 30])), (2, 2))
    given = ChromaInput(chroma[0], np.zeros((2, 96, 112, 1), np.float32))
    planes = np.asarray(ChromaNet.decode(given, chroma[1])).astype(int)
    for i in range(2):
        file = io.BytesIO()
        Image.fromarray(rgb[i]).save(file, "JPEG", quality=30)
        with Image.open(file) as image:
            image.draft("YCbCr", None)
            expected = np.asarray(image)[..., 1:].astype(int)
        assert np.abs(planes[i] - expected).max() <= 1


@pytest.mark.slow
def test_batches_follow_from_the_key(pictures):
    """The original is chroma of the tile; what is drawn is the key's alone."""
    from dmcnn_jax.config import default_config
    from dmcnn_jax.system import devices

    config = default_config()
    config.model = {"name": "chroma", "features": 4}
    config.data.luma = "rgb"
    config.quality_range = (5, 95)
    config.random_table_prob = 0.5
    tiles = pictures[:, :96, :96]
    mesh = devices.make_mesh()
    inputs = chroma_pairs.ColorInputs(
        jax.numpy.asarray(tiles),
        np.array([0, 3]),
        np.array([5, 95]),
        chroma_pairs.load_guide(config.data.guide).variables,
        (2, 2),
    )

    def make(seed):
        key = jax.random.key(seed)
        return chroma_pairs.make_batch(inputs, key, 96, config, devices.batched(mesh))

    batch = make(1)
    assert batch["original"].shape == (2, 96, 96, 2)
    expected = np.sort(color.rgb_to_ycbcr(tiles[0], "full")[..., 1:].reshape(-1, 2), axis=0)
    found = np.sort(np.asarray(batch["original"][0]).reshape(-1, 2), axis=0)
    np.testing.assert_array_equal(found, expected)
    guide = batch["coefficients"].guide
    assert guide.shape == (2, 96, 96, 1)
    assert 0.1 < float(guide.mean()) < 0.9
    same, other = make(1), make(2)
    for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(batch["original"], other["original"])
