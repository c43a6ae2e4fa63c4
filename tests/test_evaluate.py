"""Evaluation: the protocol's own figures, the table, the files it writes."""

import json
import os

import jax
import numpy as np
import pytest
from PIL import Image

from dmcnn_jax.cli.evaluate import main
from dmcnn_jax.config.defaults import default_config
from dmcnn_jax.config.validation import validate_config
from dmcnn_jax.data import feeds, sources
from dmcnn_jax.evaluation import color_protocol
from dmcnn_jax.evaluation.protocol import (
    evaluate,
    evaluate_config,
    evaluate_folder,
    format_table,
    measure_image,
    read_original,
)
from dmcnn_jax.evaluation.results import gains, mean_gain, write_results
from dmcnn_jax.evaluation.samples import Samples
from dmcnn_jax.images import metrics
from dmcnn_jax.inference.model import Model, load
from dmcnn_jax.inference.variables import initialize
from dmcnn_jax.inference.weights import save_weights
from dmcnn_jax.models import create_model
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer

MODEL = {"name": "dmcnn", "features": 4}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    variables = initialize(create_model(MODEL), jax.random.key(0))
    save_weights(path, variables, {"model": MODEL, "quality": 10})
    return path


@pytest.fixture
def folder(tmp_path, photographs):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    # Sizes that are no multiples of 8.
    Image.fromarray(photographs["camera"][:75, :93]).save(folder / "b.png")
    Image.fromarray(photographs["chelsea"][100:161, 100:180]).save(folder / "sub" / "a.png")
    return folder


def test_the_command(weights, folder, tmp_path, capsys):
    output = tmp_path / "out" / "results.json"
    main([*f"--weights {weights} --images {folder} --quality 10 -o {output}".split()])
    results = json.loads(output.read_text())
    assert [row["name"] for row in results["per_image"]] == ["b.png", "sub/a.png"]
    assert results["quality"] == 10 and results["images"] == str(folder)
    for key in ("jpeg", "model"):
        for measure in ("psnr", "ssim", "ssim_gauss", "psnr_b"):
            values = [row[key][measure] for row in results["per_image"]]
            assert results["mean"][key][measure] == pytest.approx(np.mean(values))
    table = capsys.readouterr().out
    assert "2 images" in table and f"{results['mean']['jpeg']['psnr']:.3f}" in table


def test_jpeg_row_is_pillows(weights, folder, tmp_path):
    from skimage import data

    Image.fromarray(data.chelsea()[100:161, 100:180]).save(folder / "color.png")
    results = evaluate_folder(load(weights), folder, 30)
    assert {row["name"] for row in results["per_image"]} == {"b.png", "color.png", "sub/a.png"}
    for row in results["per_image"]:
        image = Image.open(folder / row["name"])
        luma = np.asarray(image)
        if image.mode == "RGB":  # MATLAB's rgb2ycbcr
            rgb = luma.astype(np.float64)
            luma = np.floor(16 + rgb @ [65.481, 128.553, 24.966] / 255 + 0.5).astype(np.uint8)
        Image.fromarray(luma).save(tmp_path / "x.jpg", quality=30)
        decoded = np.asarray(Image.open(tmp_path / "x.jpg"))
        assert row["jpeg"] == pytest.approx(metrics.measure(luma, decoded))


@pytest.mark.slow
@pytest.mark.parametrize(
    "quality, psnr, ssim, ssim_gauss, psnr_b",
    [(10, 27.77, 0.791, 0.773, 25.33), (20, 30.07, 0.868, 0.851, 27.57)],
)
def test_published_jpeg_rows(live1, weights, quality, psnr, ssim, ssim_gauss, psnr_b):
    mean = evaluate_folder(load(weights), live1[0].parent, quality)["mean"]["jpeg"]
    assert round(mean["psnr"], 2) == psnr
    assert round(mean["ssim"], 3) == ssim
    assert round(mean["ssim_gauss"], 3) == ssim_gauss
    assert round(mean["psnr_b"], 2) == psnr_b


def test_untrained_model_is_near_the_jpeg(weights, photographs):
    measured, planes = measure_image(load(weights), photographs["camera"], 10)
    assert planes["model"].shape == planes["jpeg"].shape == photographs["camera"].shape
    assert measured["model"]["psnr"] == pytest.approx(measured["jpeg"]["psnr"], abs=0.3)


def test_what_projecting_gains_is_shown(folder, tmp_path, capsys):
    def results(*flags):
        main([*f"--weights dmcnn-small-qf20 --images {folder} --quality 60".split(), *flags])
        return json.loads((tmp_path / "r.json").read_text())["mean"]

    output = ("-o", str(tmp_path / "r.json"))
    free, both = results(*output), results("--project", *output)
    assert both["unprojected"] == pytest.approx(free["model"])
    assert both["model"]["psnr"] > both["unprojected"]["psnr"]
    assert "unprojected" in capsys.readouterr().out and "unprojected" not in free


@pytest.mark.parametrize("luma", ["studio", "full"])
def test_gray_originals_are_measured_as_they_are(luma, tmp_path, rng):
    """Whatever the mode: against Pillow's own pixels, of which 0 and 255 are some."""
    pixels = rng.integers(0, 256, (24, 40), np.uint8)
    pixels[0, :2] = 0, 255
    gray = Image.fromarray(pixels)
    opaque = Image.merge("LA", (gray, Image.new("L", gray.size, 255)))
    wide = Image.fromarray(pixels.astype(np.uint16) * 257)
    assert wide.mode == "I;16"
    bits = gray.convert("1")
    for name, image in {"L": gray, "LA": opaque, "I": wide, "1": bits}.items():
        image.save(tmp_path / f"{name}.png")
        expected = np.asarray(bits.convert("L")) if name == "1" else pixels
        plane = read_original(tmp_path / f"{name}.png", luma)
        assert plane.dtype == np.uint8
        np.testing.assert_array_equal(plane, expected)


def test_the_jpeg_of_a_gray_original_is_pillows(tmp_path, weights):
    """Of contrast from 0 to 255, which a JPEG of 16 to 235 would lose less of."""
    from skimage import data

    Image.fromarray(data.camera()[100:200, 200:330]).save(tmp_path / "camera.png")
    mean = evaluate_folder(load(weights), tmp_path, 10)["mean"]["jpeg"]
    original = Image.open(tmp_path / "camera.png")
    original.save(tmp_path / "x.jpg", quality=10)
    error = np.asarray(original).astype(float) - np.asarray(Image.open(tmp_path / "x.jpg"))
    assert mean["psnr"] == pytest.approx(10 * np.log10(255**2 / np.mean(error**2)))


def test_named_validation_reads_gray_images_as_evaluation_does(tmp_path, rng):
    """Training tiles hold the Y of gray images, in 16 to 235."""
    pixels = rng.integers(0, 256, (32, 32), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "gray.png")
    config = default_config()
    config.data.validation, config.data.tile = str(tmp_path), 32
    np.testing.assert_array_equal(feeds.open_validation(config).take()[0], pixels)
    options = {"tile": 32, "luma": "studio", "max_short_side": 0}
    training = sources.open_source(str(tmp_path), **options).take()[0]
    assert training.min() >= 16 and training.max() <= 235


def row(name, jpeg, model):
    ssims = {"ssim": 0.9, "ssim_gauss": 0.9}
    return {
        "name": name,
        "jpeg": ssims | {"psnr": jpeg, "psnr_b": jpeg},
        "model": ssims | {"psnr": model, "psnr_b": model},
    }


def test_gains_are_finite_where_an_image_is_reproduced_exactly():
    infinite = float("inf")
    rows = [row("plain", 30.0, 31.0), row("flat", infinite, infinite), row("lost", infinite, 60.0)]
    assert gains(rows, "psnr", "jpeg", "model") == [1.0, 0.0, -40.0]
    assert mean_gain(rows, "psnr", "jpeg", "model") == pytest.approx(-13)
    assert gains(rows, "ssim", "jpeg", "model") == [0.0, 0.0, 0.0]
    results = {"images": "x", "quality": 10, "model": "tiny", "per_image": rows}
    results["mean"] = {key: metrics.mean([r[key] for r in rows]) for key in ("jpeg", "model")}
    table = format_table(results)
    assert "nan" not in table and "-13.000" in table and "inf" in table


def test_a_flat_color_picture_has_a_table_without_nan(tmp_path):
    Image.new("RGB", (48, 40), (120, 120, 120)).save(tmp_path / "flat.png")
    restorer = Restorer(options=RestoreOptions(engine="jax"))
    results = color_protocol.evaluate_folder(restorer, tmp_path, 90)
    assert results["mean"]["jpeg"]["rgb_psnr"] == float("inf")
    table = color_protocol.format_table(results)
    assert "nan" not in table and "+0.000" in table
    write_results(tmp_path / "r.json", results)
    text = (tmp_path / "r.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["mean"]["jpeg"]["rgb_psnr"] is None


def test_results_of_another_model_stay(tmp_path, weights, folder, capsys):
    config = default_config()
    config.evaluate.images, config.quality = str(folder), 10
    evaluate_config(config, weights, tmp_path)
    evaluate_config(config, os.path.relpath(weights), tmp_path)  # its own are replaced
    assert "has those of" not in capsys.readouterr().out
    (tmp_path / "sample.png").write_bytes(b"mine")
    before = (tmp_path / "results.json").read_bytes()
    other = tmp_path / "run" / "best.safetensors"
    other.parent.mkdir()
    other.write_bytes(weights.read_bytes())
    evaluate_config(config, other, tmp_path)
    assert "results.json has those of" in capsys.readouterr().out
    assert (tmp_path / "results.json").read_bytes() == before
    assert (tmp_path / "sample.png").read_bytes() == b"mine"
    assert json.loads((tmp_path / "results-run-best.json").read_text())["model"] == str(other)
    assert Image.open(tmp_path / "sample-run-best.png").size


def test_the_sample_shows_different_photographs(tmp_path):
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 200, (6, 600, 40), dtype=np.uint8)
    samples = Samples()
    names = ["a.png [0]", "a.png [1]", "b.png [2]", "c.png [3]", "d.png [4]"]
    for name, plane in zip(names, planes, strict=False):
        shown = {"jpeg": plane + 1, "model": plane + 2}
        samples.add(name, plane, shown, {"jpeg": {"psnr": 30.0}, "model": {"psnr": 31.0}})
    samples.write(tmp_path / "s.png")
    picture = np.asarray(Image.open(tmp_path / "s.png"))
    strip, gap, side = 18, 8, 512
    assert picture.shape == (3 * (strip + side) + 2 * gap, 3 * 40 + 2 * gap)
    for row, plane in enumerate(planes[[0, 2, 3]]):
        top = row * (strip + side + gap)
        for column in range(3):
            left = column * (40 + gap)
            found = picture[top + strip : top + strip + side, left : left + 40]
            np.testing.assert_array_equal(found, plane[44:556] + column)
            assert picture[top : top + strip, left : left + 40].min() < 128  # the label


def test_infinite_figures_are_valid_json(tmp_path):
    write_results(tmp_path / "r.json", {"mean": {"psnr": float("inf")}, "per_image": [1.5]})
    assert json.loads((tmp_path / "r.json").read_text()) == {
        "mean": {"psnr": None},
        "per_image": [1.5],
    }


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--weights nowhere --images {f} --quality 10", "no weights 'nowhere'; expected"),
        ("--weights {w} --images {f}/none --quality 10", "is not a folder"),
        ("--weights {w} --images {e} --quality 10", "no image in"),
        ("--weights {w} --images {f} --quality 0", "--quality is 0; expected 1 to 100"),
        ("--weights {f}/b.png --images {f} --quality 10", "is not a safetensors file"),
        ("--weights {w} --images {s} --quality 10", "small.png' has 10 x 40 pixels; expected at"),
        ("--weights {w} --images {b} --quality 10", "bad.png' can't be read (image file is trunc"),
        ("--images {f} --quality 10", "no --weights given"),
        ("--color --images {f} --quality 10 --luma full", "--luma has no effect here"),
        ("--color --images {f} --quality 10 --luma studio", "use it without --color"),
        ("--color --images {f} --quality 10 --project", "--project has no effect here"),
        ("--color --images {f} --quality 10 --ensemble", "--ensemble has no effect here"),
        ("--color --images {f} --quality 10 --gallery g.html", "--gallery has no effect here"),
        ("--weights {w} --images {f} --quality 10 --subsampling 4:2:0", "use it with --color"),
        ("--weights {w} --images {f} --quality 10 --chroma x", "--chroma has no effect here"),
    ],
)
def test_mistakes_are_one_line(arguments, message, weights, folder, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    small, bad = tmp_path / "small", tmp_path / "bad"
    for each, size in ((small, (10, 40)), (bad, (300, 300))):
        each.mkdir()
        Image.effect_noise(size, 50).save(each / f"{each.name}.png")
    (bad / "bad.png").write_bytes((bad / "bad.png").read_bytes()[:20_000])
    assert main(arguments.format(w=weights, f=folder, e=empty, s=small, b=bad).split()) in (1, 2)
    # A progress bar may stand before the line.
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and error.startswith("dmcnn-evaluate: ")
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    ("field", "value"), [("gallery", "g.html"), ("project", True), ("ensemble", True)]
)
def test_options_of_luma_are_refused_for_networks_of_colour(tmp_path, field, value):
    config = default_config()
    config.evaluate[field] = value
    with pytest.raises(ValueError, match=rf"config.evaluate.{field} is .*; expected "):
        evaluate_config(config, "dmcnn-photo", tmp_path)
    config.model, config.data.luma = {"name": "photo"}, "rgb"
    with pytest.raises(ValueError, match=rf"config.evaluate.{field} is "):
        validate_config(config)


def test_no_images():
    model = Model(create_model(MODEL), {}, {}, "tiny")
    with pytest.raises(ValueError, match="no image to evaluate on in 'there'"):
        evaluate(model, [], 10, source="there")
