"""Whether a picture is restored at all, tried on the picture itself."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

import dmcnn_jax
from dmcnn_jax import jpeg
from dmcnn_jax.cli.restore import main
from dmcnn_jax.evaluation import drawings
from dmcnn_jax.inference.model import load
from dmcnn_jax.restoration import trial
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer


def save(pixels, quality, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, **options)
    return file.getvalue()


def luma(data):
    return jpeg.read(data).components[0]


def squares(rng, side):
    """Pixel art: squares of random colours, magnified without smoothing."""
    cells = rng.integers(0, 256, (-(-128 // side), -(-192 // side), 3), dtype=np.uint8)
    return cells.repeat(side, axis=0).repeat(side, axis=1)[:128, :192]


@pytest.fixture(scope="module")
def model():
    return load("dmcnn-small-any")


@pytest.mark.parametrize("quality", [30, 90])
def test_graphics_that_networks_harm_are_left_as_decoded(rng, quality):
    # The network for photographs does better with them; the trial is by that of luma all the same.
    options = RestoreOptions(size="fast")
    restorer = Restorer(options=options)
    forced = Restorer(options=dataclasses.replace(options, trial=False))
    for pixels in (squares(rng, 8), drawings.draw("dithering", 1)):
        data = save(pixels, quality, subsampling=0)
        decoded = np.asarray(Image.open(io.BytesIO(data)))
        result = restorer(jpeg.read(data))
        np.testing.assert_array_equal(result.pixels, decoded)
        assert set(result.models) == {None}
        assert any("--no-trial restores it nevertheless" in note for note in result.notes)
        harmed = forced(jpeg.read(data)).pixels
        error = [np.square(pixels - p.astype(float)).mean() for p in (decoded, harmed)]
        assert harmed.shape == decoded.shape
        # Not all pictures of these kinds come out worse, but none comes out much better.
        assert error[1] > 0.9 * error[0]


@pytest.mark.parametrize("kind", ["text", "flat shapes", "chart", "texture"])
def test_graphics_that_networks_improve_are_restored(kind):
    pixels = drawings.draw(kind, 2)
    data = save(pixels, 50, subsampling=0)
    decoded, restored = np.asarray(Image.open(io.BytesIO(data))), dmcnn_jax.restore(data)
    error = [np.square(pixels - p.astype(float)).mean() for p in (decoded, restored)]
    assert error[1] < 0.95 * error[0]


def test_photographs_gain_in_the_trial(photographs, model):
    for number, pixels in enumerate(photographs.values()):
        for quality in (10, 90) if number % 2 else (30, 75):
            component = luma(save(pixels[:160, :240], quality))
            assert trial.measure_trial_gain(component, model) > 0.1
            assert trial.measure_squares(component) < 0.3


def test_the_command_says_why_and_can_be_told_otherwise(rng, tmp_path, capsys):
    path = tmp_path / "art.jpg"
    path.write_bytes(save(squares(rng, 8), 90))
    assert main([str(path)]) == 0
    assert "as decoded" in (message := capsys.readouterr().err)
    assert "squares of one colour fill its blocks" in message
    assert main([str(path), "--overwrite", "--no-trial"]) == 0
    assert "as decoded" not in capsys.readouterr().err
    # A model that is named is used.
    assert main([str(path), "--overwrite", "--weights", "dmcnn-qf20"]) == 0
    assert "dmcnn-qf20" in capsys.readouterr().err


def test_squares_are_told_from_ramps_and_from_photographs(rng):
    """A smooth ramp, coarsely quantised, has one-coloured blocks too."""
    assert trial.measure_squares(luma(save(squares(rng, 8), 50))) > 0.95
    assert trial.measure_squares(luma(save(squares(rng, 16), 90))) > 0.95
    assert trial.measure_squares(luma(save(squares(rng, 5), 50))) < 0.3
    ramp = np.broadcast_to(np.linspace(20, 200, 192), (128, 192)).astype(np.uint8)
    for quality in (5, 20, 60):
        assert trial.measure_squares(luma(save(ramp, quality))) < 0.1
    assert trial.measure_squares(luma(save(np.full((64, 64), 99, np.uint8), 90))) == 0
    # The formula, by hand: two blocks of 100 and 180, with nothing else in the picture.
    halves = np.repeat([[100, 180]], 8, axis=1).repeat(8, axis=0).astype(np.uint8)
    assert trial.measure_squares(luma(save(halves, 100))) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (15, 15), (16, 200), (9, 17)])
def test_small_pictures(rng, size, model):
    component = luma(save(rng.integers(0, 256, size, dtype=np.uint8), 40))
    gain = trial.measure_trial_gain(component, model)
    assert np.isfinite(gain) and (gain == 0 or min(size) >= 16)


def test_parts_are_those_of_the_decoded_picture(rng):
    pixels = rng.integers(0, 256, (150, 260), dtype=np.uint8)
    data = save(pixels, 80)
    decoded = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    parts = trial._choose_parts(luma(data))
    assert len(parts) == 2 and all(part.shape == (96, 96) for part in parts)
    for part in parts:
        (place,) = [
            (y, x)
            for y in range(4, 60, 8)
            for x in range(4, 170, 8)
            if np.abs(decoded[y : y + 96, x : x + 96] - part).max() <= 1
        ]
        assert place[0] % 8 == 4 and place[1] % 8 == 4
