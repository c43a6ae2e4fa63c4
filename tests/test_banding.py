"""The banding measure: what it ranks, and what it does not count."""

import itertools

import jax
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.cli import banding as banding_command
from dmcnn_jax.evaluation import banding
from dmcnn_jax.inference.variables import initialize
from dmcnn_jax.inference.weights import save_weights
from dmcnn_jax.models import create_model


@pytest.fixture(scope="module")
def skies():
    images, ramps = banding.make_skies(6)
    jpegs = np.asarray(jpeg.roundtrip(images, jpeg.quality_table(10)))
    return images, jpegs, ramps


def test_skies_are_slow_ramps(skies):
    images, _, ramps = skies
    assert images.dtype == np.uint8 and images.shape == ramps.shape == (6, 256, 256)
    assert ramps.min() >= 70 and ramps.max() <= 210
    slopes = np.abs(np.diff(ramps, axis=1)).max(), np.abs(np.diff(ramps, axis=2)).max()
    assert 0.05 < max(slopes) < 0.6  # gray levels a pixel
    assert abs((images - ramps).std() - np.sqrt(1 + 1 / 12)) < 0.02
    np.testing.assert_array_equal(banding.make_skies(6)[0], images)


def test_the_jpeg_is_worst_and_the_sky_best(skies):
    images, jpegs, ramps = skies
    np.testing.assert_allclose(banding.banding_ratios(jpegs, jpegs, ramps), 1)
    own = banding.banding_ratios(images, jpegs, ramps)
    assert own.max() < 0.1
    np.testing.assert_array_equal(banding.banding_ratios(ramps, jpegs, ramps), 0)


def test_wider_filters_leave_less(skies):
    _, jpegs, ramps = skies
    shares = [
        banding.banding_ratios(scipy.ndimage.gaussian_filter(jpegs * 1.0, (0, s, s)), jpegs, ramps)
        for s in (0.1, 4, 8, 16)
    ]
    for narrow, wide in itertools.pairwise(shares):
        assert (wide < narrow).all()
    # As far as a network of 41 pixels sees, the treads, some fifty wide, mostly remain.
    assert shares[2].mean() > 0.3


def test_half_the_error_is_half_the_banding(skies):
    _, jpegs, ramps = skies
    np.testing.assert_allclose(banding.banding_ratios((jpegs + ramps) / 2, jpegs, ramps), 0.5)


def test_shift_noise_and_texture_are_no_banding(skies, rng):
    _, jpegs, ramps = skies
    plain = banding.banding_error(jpegs[0], ramps[0])
    assert banding.banding_error(jpegs[0] + 3.0, ramps[0]) == pytest.approx(plain)
    noisy = jpegs[0] + rng.normal(0, 2, ramps[0].shape)
    assert banding.banding_error(noisy, ramps[0]) == pytest.approx(plain, rel=0.03)
    checkered = jpegs[0] + 5.0 * (-1) ** np.indices(ramps[0].shape).sum(axis=0)
    assert banding.banding_error(checkered, ramps[0]) == pytest.approx(plain, rel=1e-3)


def test_only_low_frequencies_count(rng):
    """Against plain NumPy: weighted sums of rows, then of columns, mirrored beyond the border."""
    plane = rng.normal(size=(64, 48))
    weights = np.exp(-(np.arange(-12, 13) ** 2) / (2 * 4**2))
    weights /= weights.sum()
    smooth = plane
    for _ in range(2):
        padded = np.pad(smooth, ((12, 12), (0, 0)), mode="symmetric")
        smooth = sum(weight * padded[i : i + len(smooth)] for i, weight in enumerate(weights)).T
    error = banding.banding_error(plane, np.zeros_like(plane))
    assert error == pytest.approx(smooth.std(), rel=1e-12)


def test_the_command(tmp_path, capsys):
    config = {"name": "dncnn", "features": 2, "depth": 2, "batch_norm": False}
    path, picture = tmp_path / "tiny.safetensors", tmp_path / "sky.png"
    save_weights(path, initialize(create_model(config), jax.random.key(0)), {"model": config})
    banding_command.main([str(path), "--count", "1", "--picture", str(picture)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["the sky itself", "JPEG", str(path)]
    assert "100.0%" in lines[2]
    assert Image.open(picture).size == (3 * 256, 256)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing-of-the-kind"], "no weights 'nothing-of-the-kind'"),
        (["x", "--quality", "0"], "--quality is 0; expected 1 to 100"),
        (["x", "--count", "0"], "--count is 0; expected at least 1"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys):
    assert banding_command.main(arguments) in (1, 2)
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.slow
def test_dncnn3_is_between(skies, dncnn3):
    from dmcnn_jax.inference.model import load

    images, jpegs, ramps = skies
    restored = banding.restore_skies(load(dncnn3), images[:3], 10)
    shares = banding.banding_ratios(restored, jpegs[:3], ramps[:3])
    own = banding.banding_ratios(images[:3], jpegs[:3], ramps[:3])
    assert (own < shares).all() and (shares < 1).all()
