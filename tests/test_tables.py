"""Quantisation tables against those in the files that Pillow writes."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dmcnn_jax import jpeg

QUALITIES = np.arange(1, 101)


def pillow_tables(quality):
    """The luma and chroma tables of a colour file, in natural order, by Pillow's parser."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    tables = Image.open(file).quantization
    return [np.array(tables[i]).reshape(8, 8) for i in (0, 1)]


def test_every_quality_matches_pillow():
    for quality in range(1, 101):
        luma, chroma = pillow_tables(quality)
        np.testing.assert_array_equal(jpeg.quality_table(quality), luma)
        np.testing.assert_array_equal(jpeg.quality_table(quality, jpeg.STANDARD_CHROMA), chroma)


def test_tables_by_hand():
    np.testing.assert_array_equal(jpeg.quality_table(50), jpeg.STANDARD_LUMA)
    np.testing.assert_array_equal(jpeg.quality_table(100), np.ones((8, 8)))
    # Vertical before horizontal: K.1 has 12 below its first entry, and 11 beside it.
    assert jpeg.STANDARD_LUMA[1, 0] == 12
    assert jpeg.STANDARD_LUMA[0, 1] == 11


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64])
def test_arrays_of_qualities(dtype):
    tables = jpeg.quality_table(QUALITIES.astype(dtype).reshape(4, 25))
    assert isinstance(tables, np.ndarray)
    assert tables.dtype == np.int32
    assert tables.shape == (4, 25, 8, 8)
    expected = np.stack([jpeg.quality_table(int(q)) for q in QUALITIES])
    np.testing.assert_array_equal(tables.reshape(100, 8, 8), expected)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32])
def test_traced_qualities(dtype):
    expected = jpeg.quality_table(QUALITIES)
    jitted = jax.jit(jpeg.quality_table)(jnp.asarray(QUALITIES, dtype))
    mapped = jax.vmap(jpeg.quality_table)(jnp.asarray(QUALITIES, dtype))
    assert jitted.dtype == mapped.dtype == jnp.int32
    np.testing.assert_array_equal(jitted, expected)
    np.testing.assert_array_equal(mapped, expected)


def test_traced_qualities_are_clipped():
    tables = jax.jit(jpeg.quality_table)(jnp.array([-3, 0, 101, 1000]))
    expected = jpeg.quality_table(np.array([1, 1, 100, 100]))
    np.testing.assert_array_equal(tables, expected)


def test_one_base_for_each_quality():
    bases = np.stack([jpeg.STANDARD_LUMA, jpeg.STANDARD_CHROMA])
    tables = jpeg.quality_table(np.array([10, 90]), bases)
    np.testing.assert_array_equal(tables[0], pillow_tables(10)[0])
    np.testing.assert_array_equal(tables[1], pillow_tables(90)[1])
    np.testing.assert_array_equal(jax.jit(jpeg.quality_table)(jnp.array([10, 90]), bases), tables)


def test_standard_tables_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        jpeg.STANDARD_LUMA[0, 0] = 1


@pytest.mark.parametrize(
    ("quality", "base", "message"),
    [
        (0, jpeg.STANDARD_LUMA, "quality 0 is out of range"),
        (101, jpeg.STANDARD_LUMA, "quality 101 is out of range"),
        (np.array([50, 120]), jpeg.STANDARD_LUMA, r"quality of shape \(2,\) is out of range"),
        (50.0, jpeg.STANDARD_LUMA, "quality 50.0 has dtype float64"),
        (True, jpeg.STANDARD_LUMA, "quality True has dtype bool"),
        (50, jpeg.STANDARD_LUMA.ravel(), r"base has shape \(64,\)"),
        (50, jpeg.STANDARD_LUMA / 2, "base has dtype float64"),
        (50, np.zeros((8, 8), int), "base holds steps from 0 to 0"),
    ],
)
def test_mistakes_are_named(quality, base, message):
    with pytest.raises(ValueError, match=message):
        jpeg.quality_table(quality, base)


def test_varied_tables_are_between_flat_and_steep():
    qualities = jnp.asarray(np.resize([20, 50, 80], 600))
    tables = np.asarray(jpeg.varied_table(jax.random.key(0), qualities))
    assert tables.dtype == np.int32 and tables.min() >= 1 and tables.max() <= 255
    assert len({table.tobytes() for table in tables}) == len(tables)
    # Quality still decides how coarse they are: in octaves, as the standard tables do it.
    means = [np.log2(tables[i::3]).mean() for i in range(3)]
    assert means[0] > means[1] > means[2]
    # At quality 50 a base is not scaled. Corner against origin: 61/16 is 2.6 octaves in the
    # standard table; here from none (flat) to 1.3 times that of 99/16, and noise.
    steepness = np.log2(tables[1::3, 7, 7] / tables[1::3, 0, 0])
    assert steepness.min() < 0.4 and steepness.max() > 2.6
    assert steepness.max() < 1.3 * np.log2(99 / 16) + 1


def test_zigzag_is_the_order_of_files():
    """Pillow writes a table's 64 bytes after the marker, length and slot of its DQT segment."""
    table = np.arange(1, 65)
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG", qtables=[table.tolist()])
    data = file.getvalue()
    start = data.index(b"\xff\xdb") + 5
    np.testing.assert_array_equal(list(data[start : start + 64]), table[jpeg.ZIGZAG])
    # T.81, figure A.6: along the first row, down the diagonal, down the first column, up again.
    assert jpeg.ZIGZAG[:6].tolist() == [0, 1, 8, 16, 9, 2] and jpeg.ZIGZAG[-1] == 63
