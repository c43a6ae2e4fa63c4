"""Whether a picture is restored at all, tried on the picture itself."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

import dmcnn_jax
from dmcnn_jax import jpeg
from dmcnn_jax.cli.restore import main
from dmcnn_jax.evaluation import drawings
from dmcnn_jax.inference.model import load
from dmcnn_jax.jpeg.dct import decode_unrounded
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
    # The network for photographs does better with them.
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
            assert trial.measure_trial_gains([component], model)[0] > 0.1
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
    gain, _ = trial.measure_trial_gains([component], model)
    assert np.isfinite(gain) and (gain == 0 or min(size) >= 16)


def test_parts_are_those_of_the_decoded_picture(rng):
    pixels = rng.integers(0, 256, (150, 260), dtype=np.uint8)
    data = save(pixels, 80)
    decoded = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    parts = trial._choose_parts([luma(data)])
    assert len(parts) == 2 and all(part.shape == (96, 96) for (part,) in parts)
    for (part,) in parts:
        (place,) = [
            (y, x)
            for y in range(4, 60, 8)
            for x in range(4, 170, 8)
            if np.abs(decoded[y : y + 96, x : x + 96] - part).max() <= 1
        ]
        assert place[0] % 8 == 4 and place[1] % 8 == 4


@pytest.mark.parametrize(
    "sampling, factors", [("4:4:4", (1, 1)), ("4:2:2", (1, 2)), ("4:2:0", (2, 2))]
)
def test_parts_of_all_planes_show_the_same_place(rng, sampling, factors):
    """Chroma is that of a picture whose Cb rises to the right, and Cr to the bottom."""
    rows, columns = np.mgrid[:144, :288]
    planes = [rng.integers(30, 220, (144, 288)), 40 + columns // 2, 40 + rows]
    picture = Image.merge("YCbCr", [Image.fromarray(plane.astype(np.uint8)) for plane in planes])
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=98, subsampling=sampling)
    components = jpeg.read(file.getvalue()).components
    parts = trial._choose_parts(components)
    assert parts
    decoded = decode_unrounded(components[0].coefficients, components[0].table.reshape(64))
    for luma, cb, cr in parts:
        (place,) = [
            (y, x)
            for y in range(4, decoded.shape[0] - 95, 8)
            for x in range(4, decoded.shape[1] - 95, 8)
            if np.abs(decoded[y : y + 96, x : x + 96] - luma).max() <= 1
        ]
        assert cb.shape == cr.shape == (96 // factors[0], 96 // factors[1])
        # The middle of the part, in whichever plane.
        assert abs(cr.mean() - (40 + place[0] + 47.5)) < 1.5
        assert abs(cb.mean() - (40 + (place[1] + 47.5) / 2)) < 1.5


@pytest.fixture(scope="module")
def full_size():
    return Restorer(options=RestoreOptions(size="full"))


@pytest.mark.parametrize("kind, seed", [("codes", 3), ("dithering", 1)])
def test_the_network_that_would_run_is_tried(full_size, kind, seed):
    """The network of luma alone would harm these, as its trial says; that for photographs not."""
    pixels = drawings.draw(kind, seed)
    data = save(pixels, 75, subsampling=2)
    assert trial.measure_trial_gains([luma(data)], load("dmcnn-any"))[0] < -1
    decoded, result = np.asarray(Image.open(io.BytesIO(data))), full_size(jpeg.read(data))
    assert result.models[0] == "dmcnn-photo"
    error = [np.square(pixels - p.astype(float)).mean() for p in (decoded, result.pixels)]
    assert error[1] < 0.6 * error[0]


def test_a_network_for_photographs_without_a_name_is_tried(full_size):
    restorer = Restorer(
        options=RestoreOptions(size="full"), chroma=dataclasses.replace(full_size.chroma, name="")
    )
    for pixels, planes in ((astronaut()[:64, :80], 3), (astronaut()[:64, :80, 0], 1)):
        file = jpeg.read(save(pixels, 30))
        assert restorer(file).models == ("an unnamed model",) * planes
        np.testing.assert_array_equal(restorer(file).pixels, full_size(file).pixels)


@pytest.mark.parametrize(
    "gains, models",
    [
        ((1.0, -0.5), ("dmcnn-photo", None, None)),
        ((-0.5, 1.0), (None, None, None)),
        ((0.0, -0.2), ("dmcnn-photo",) * 3),
    ],
)
def test_chroma_alone_may_be_left_as_decoded(full_size, monkeypatch, gains, models):
    data = save(astronaut()[:64, :80], 90, subsampling=0)
    components = []

    def measured(given, model):
        components.extend(given)
        return gains

    monkeypatch.setattr(trial, "measure_trial_gains", measured)
    file = jpeg.read(data)
    result = full_size(file)
    assert result.models == models and len(components) == 3
    said = [note for note in result.notes if "--no-trial restores it nevertheless" in note]
    assert len(said) == (None in models)
    if models[0] and said:
        assert said[0].startswith("chroma: left as decoded: in a trial on parts")
        # Chroma is the file's, luma isn't.
        ycbcr, decoded = (
            np.asarray(Image.fromarray(p).convert("YCbCr")).astype(int)
            for p in (result.pixels, np.asarray(Image.open(io.BytesIO(data))))
        )
        change = np.abs(ycbcr - decoded).mean(axis=(0, 1))
        assert change[0] > 0.4 and change[1:].max() < 0.6


@pytest.mark.parametrize("quality", [30, 90])
def test_of_squares_only_subsampled_chroma_is_restored(full_size, rng, quality):
    """JPEG keeps squares that fill its blocks, which are twice as large in chroma."""
    pixels = squares(rng, 8)
    data = save(pixels, quality, subsampling=2)
    decoded, result = np.asarray(Image.open(io.BytesIO(data))), full_size(jpeg.read(data))
    assert result.models == (None, "dmcnn-photo", "dmcnn-photo")
    assert any(note.startswith("luma: left as decoded: squares") for note in result.notes)
    error = [np.square(pixels - p.astype(float)).mean() for p in (decoded, result.pixels)]
    assert error[1] < 0.7 * error[0]
    data = save(pixels, quality, subsampling=0)
    assert full_size(jpeg.read(data)).models == (None, None, None)
