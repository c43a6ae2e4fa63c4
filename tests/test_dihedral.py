"""Turning an image in the domain of its JPEG's coefficients, against turning its pixels."""

import numpy as np
import pytest
import scipy.fft

from dmcnn_jax import jpeg
from dmcnn_jax.inference.model import estimate, load
from dmcnn_jax.inference.plane import restore_plane
from dmcnn_jax.jpeg import dihedral


def turn_pixels(image, which):
    image = image[::-1] if which & 1 else image
    image = image[:, ::-1] if which & 2 else image
    return image.T if which & 4 else image


@pytest.mark.parametrize("which", range(dihedral.COUNT))
def test_coefficients_are_those_of_the_turned_pixels(rng, which):
    image = rng.normal(0, 40, (24, 40))
    table = rng.integers(1, 30, (8, 8))

    def coefficients(image):
        h, w = image.shape
        blocks = image.reshape(h // 8, 8, w // 8, 8).swapaxes(1, 2)
        return scipy.fft.dctn(blocks, axes=(2, 3), norm="ortho").reshape(h // 8, w // 8, 64)

    k, q = dihedral.turn(coefficients(image), table, which)
    np.testing.assert_allclose(k, coefficients(turn_pixels(image, which)), atol=1e-9)
    np.testing.assert_array_equal(q, table.T if which & 4 else table)
    np.testing.assert_array_equal(dihedral.turn_back(turn_pixels(image, which), which), image)


def test_an_ensemble_is_the_mean_of_eight(rng):
    model = load("dmcnn-small-qf20")
    table = np.asarray(jpeg.quality_table(20))
    original = rng.integers(60, 190, (24, 16), dtype=np.uint8)
    k = np.asarray(jpeg.encode(original, table))
    mean = np.zeros(original.shape)
    for which in range(8):
        turned, q = dihedral.turn(k, table, which)
        plane = estimate(model.module, model.variables, turned[None], q[None])["image"]
        mean += dihedral.turn_back(np.asarray(plane)[0, ..., 0], which) / 8
    shares = []
    found = restore_plane(model, k, table, ensemble=True, progress=shares.append)
    np.testing.assert_allclose(found, mean, atol=2e-6)
    assert sum(shares) == pytest.approx(1)
    # It no longer matters how the picture was turned.
    turned, q = dihedral.turn(k, table, 6)
    other = restore_plane(model, turned, q, ensemble=True)
    np.testing.assert_allclose(dihedral.turn_back(other, 6), found, atol=2e-6)
    projected = restore_plane(model, k, table, ensemble=True, project=True)
    requantised = np.round(jpeg.dct(projected * 255 - 128) / table.reshape(64))
    np.testing.assert_array_equal(requantised, k)


@pytest.mark.parametrize(("shape", "blocks"), [((24, 40), 2), ((8, 16), 3), ((8, 8), 1)])
def test_a_continued_plane_is_padded_by_its_mirror_image(rng, shape, blocks):
    image = rng.normal(0, 40, shape)

    def coefficients(image):
        h, w = image.shape
        cut = image.reshape(h // 8, 8, w // 8, 8).swapaxes(1, 2)
        return scipy.fft.dctn(cut, axes=(2, 3), norm="ortho").reshape(h // 8, w // 8, 64)

    padded = np.pad(image, 8 * blocks, mode="symmetric")
    continued = dihedral.continue_mirrored(coefficients(image), blocks)
    np.testing.assert_allclose(continued, coefficients(padded), atol=1e-9)


def test_a_mirrored_plane_is_restored_as_part_of_a_larger_one(rng):
    model = load("dmcnn-small-any")
    table = np.asarray(jpeg.quality_table(20))
    original = rng.integers(60, 190, (24, 40), dtype=np.uint8)
    k = np.asarray(jpeg.encode(original, table))
    larger = np.asarray(jpeg.encode(np.pad(original, 16, mode="symmetric"), table))
    found = restore_plane(model, k, table, mirrored=2, project=True)
    expected = restore_plane(model, larger, table, project=True)[16:-16, 16:-16]
    # The codec rounds halves away from zero, so that mirrored coefficients are the same.
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - restore_plane(model, k, table, project=True)).max() > 1e-4
