"""Restoring files: pixels, the guarantee, metadata, the command."""

import concurrent.futures
import dataclasses
import inspect
import io
import json
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
from commands import command
from PIL import Image, ImageOps

import dmcnn_jax
from dmcnn_jax import jpeg
from dmcnn_jax.cli.restore import main
from dmcnn_jax.cli.restore_arguments import make_parser, restore_options
from dmcnn_jax.cli.restore_planning import Task, plan
from dmcnn_jax.images import formats
from dmcnn_jax.inference.model import load
from dmcnn_jax.inference.plane import restore_plane
from dmcnn_jax.inference.variables import variable_shapes
from dmcnn_jax.inference.weights import save_weights
from dmcnn_jax.jpeg import resampling
from dmcnn_jax.jpeg.metadata import Metadata
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.jpeg.tables import nearest_quality
from dmcnn_jax.models import create_model
from dmcnn_jax.restoration import (
    color_correction,
    decoding,
    model_selection,
    plane_restoration,
    restorer,
    rounding,
)
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer
from dmcnn_jax.restoration.verification import verify
from dmcnn_jax.system import atomic_write

MODEL = {"name": "dmcnn", "features": 4, "dct_features": 8}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weights file of a small network that does something."""
    module = create_model(MODEL)
    shapes = variable_shapes(module)
    rng = np.random.default_rng(0)

    def fill(leaf):
        gain = 0.5 / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
        return (gain * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, jax.tree.map(fill, shapes), {"model": MODEL, "quality": 20})
    return path


def colours(height, width, seed=0):
    """A smooth random colour picture: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (3, 3, 0))
    return np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8)


def jpeg_bytes(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def write_jpeg(path, height=40, width=56, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg_bytes(colours(height, width, seed), **{"quality": 20, **options}))
    return path


# Pixels


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(40, 56), (17, 31), (1, 1), (9, 3), (3, 5), (277, 21)])
def test_decoded_pictures_are_pillows(size, subsampling):
    data = jpeg_bytes(colours(*size), quality=30, subsampling=subsampling)
    file, pixels = jpeg.read(data), decoded(data)
    np.testing.assert_array_equal(decoding.decoded_picture(file), pixels)
    np.testing.assert_allclose(decoding.decoded_mean(file), pixels.mean((0, 1)), rtol=1e-12)


@pytest.mark.parametrize("step", [(1, 2), (2, 1), (2, 2), (1, 4)])
def test_upsampling_in_floating_point_is_that_in_integers_unrounded(rng, step):
    plane = rng.integers(0, 256, (13, 11), dtype=np.uint8)
    exact = resampling.upsample(plane.astype(np.float32), step)
    assert exact.shape == (13 * step[0], 11 * step[1])
    assert np.abs(exact - resampling.upsample(plane, step)).max() <= 0.5


@pytest.mark.parametrize("step", [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1)])
def test_bands_are_upsampled_as_the_whole_plane(rng, step):
    plane = rng.normal(size=(40, 9)).astype(np.float32)
    whole = resampling.upsample(plane, step)
    for top, bottom in [(0, 8), (8, 24), (16, 40 * step[0]), (0, 40 * step[0])]:
        np.testing.assert_array_equal(
            resampling.upsample_rows(plane, step, top, bottom), whole[top:bottom]
        )


def test_strength_0_is_the_decoded_picture(weights):
    data = jpeg_bytes(colours(40, 56), quality=20)
    np.testing.assert_array_equal(dmcnn_jax.restore(data, weights, strength=0), decoded(data))
    np.testing.assert_array_equal(
        dmcnn_jax.restore(data, weights, strength=0, bits=16),
        decoded(data) * np.uint16(257),
    )


def test_restore_takes_paths_bytes_and_files(weights, tmp_path):
    path = write_jpeg(tmp_path / "a.jpg")
    from_path = dmcnn_jax.restore(path, weights)
    assert from_path.shape == (40, 56, 3) and from_path.dtype == np.uint8
    assert np.abs(from_path - decoded(path.read_bytes()).astype(float)).max() > 1
    np.testing.assert_array_equal(dmcnn_jax.restore(path.read_bytes(), weights), from_path)
    with path.open("rb") as file:
        np.testing.assert_array_equal(dmcnn_jax.restore(file, str(weights)), from_path)
    model = dmcnn_jax.load(weights, engine="auto")
    np.testing.assert_array_equal(dmcnn_jax.restore(path, model), from_path)


def test_gray_and_rgb_files(weights):
    pixels = colours(33, 40)
    gray = dmcnn_jax.restore(jpeg_bytes(pixels[..., 0], quality=20), weights)
    assert gray.shape == (33, 40)
    data = jpeg_bytes(pixels, quality=20, keep_rgb=True)
    assert jpeg.read(data).color == "rgb"
    restored = dmcnn_jax.restore(data, weights)
    for channel in range(3):
        # Three gray pictures.
        file = jpeg.read(data).components[channel]
        alone = restore_plane(
            load(weights), file.coefficients, file.table, project=True, mirrored=2
        )
        difference = restored[..., channel] - np.clip(255 * alone[:33], 0, 255)
        assert np.abs(difference).max() < 8


@pytest.mark.parametrize("quality", [40, 75, 90])
def test_colours_do_not_shift(quality):
    import skimage.data

    original = skimage.data.astronaut()[40:232, 120:312]
    data = jpeg_bytes(original, quality=quality)
    restored = dmcnn_jax.restore(data, "dmcnn-small-any")
    of_jpeg, of_restored = (
        np.abs(pixels.mean((0, 1)) - original.mean((0, 1))).max()
        for pixels in (decoded(data), restored)
    )
    assert of_restored < max(0.25, of_jpeg)


def vivid():
    """A photograph whose contrast was doubled, so that a third of it is cut off by the gamut."""
    import skimage.data

    return np.clip(2.0 * skimage.data.astronaut()[40:232, 120:312] - 128, 0, 255).astype(np.uint8)


def drift(restored, data):
    """Of mean colours from the decoded file's, levels, the largest of all channels."""
    levels = restored / (257 if restored.dtype == np.uint16 else 1)
    return np.abs(levels.mean((0, 1)) - decoded(data).mean((0, 1))).max()


@pytest.mark.parametrize(
    ("saved", "options"),
    [
        ({"quality": 10}, {}),
        ({"quality": 10}, {"bits": 16}),
        ({"quality": 10}, {"strength": 0.6}),
        ({"quality": 10}, {"project": False}),
        ({"quality": 10, "subsampling": "4:4:4"}, {}),
        ({"quality": 10, "keep_rgb": True}, {}),
        ({"quality": 40}, {}),
    ],
    ids=str,
)
def test_colours_do_not_shift_where_the_gamut_ends(saved, options, monkeypatch):
    data = jpeg_bytes(vivid(), **saved)
    restorer = Restorer("dmcnn-small-any", RestoreOptions(**options))
    kept = restorer(jpeg.read(data))
    assert drift(kept.pixels, data) < 0.2
    monkeypatch.setattr(color_correction, "TOLERANCE", np.inf)
    free = restorer(jpeg.read(data))
    assert drift(free.pixels, data) > 0.15
    # It costs little, and next to nothing where less is cut off.
    assert kept.luma_tally.share > free.luma_tally.share - 2e-4
    levels = [r.pixels / (257 if r.pixels.dtype == np.uint16 else 1) for r in (kept, free)]
    of_kept, of_free = (((x - vivid()) ** 2).mean() for x in levels)
    assert 10 * np.log10(of_kept / of_free) < 0.05


def test_colours_of_resaved_files_do_not_shift():
    before = decoded(jpeg_bytes(vivid(), quality=15))
    data = jpeg_bytes(before[3:, 5:], quality=92)
    result = Restorer("dmcnn-small-any")(jpeg.read(data))
    assert result.prior is not None
    assert drift(result.pixels, data) < 0.2


def test_gray_stays_gray_where_colours_are_kept_from_shifting(monkeypatch):
    picture = vivid()
    picture[:, :96] = picture[:, :96, 1:2]
    data = jpeg_bytes(picture, quality=10)
    restorer = Restorer("dmcnn-small-any")
    pixels = restorer(jpeg.read(data)).pixels
    # The network of chroma sees two blocks far.
    assert np.ptp(pixels[:, :64].astype(int), axis=-1).max() == 0
    assert drift(pixels, data) < 0.2
    monkeypatch.setattr(color_correction, "TOLERANCE", np.inf)
    assert drift(restorer(jpeg.read(data)).pixels, data) > 0.2


@pytest.mark.parametrize("full", [True, False])
def test_mean_colours_are_led_back_within_intervals(full):
    """Planes at full size and at their own; bounds, and blocks that may not move."""
    pixels = np.clip(colours(75, 91).astype(int) * 2 - 100, 0, 255).astype(np.uint8)
    file = jpeg.read(jpeg_bytes(pixels, quality=50))
    planes = [
        decoding.dequantized_plane(c).repeat(s[0], axis=0).repeat(s[1], axis=1)
        for c in file.components
        for s in [c.subsampling if full else (1, 1)]
    ]
    before = [plane.copy() for plane in planes]
    movable = [None, *(c.coefficients.any(axis=-1) for c in file.components[1:])]
    movable[1][:2] = False
    reference = decoding.decoded_mean(file) + np.array([0.3, 0, -0.2])
    options = {"project": [True] * 3, "movable": movable}
    color_correction.match_mean_color(planes, file.components, 75, 91, reference, **options)
    chroma = [
        plane[:75, :91] if full else plane[: c.height, : c.width]
        for plane, c in zip(planes[1:], file.components[1:], strict=True)
    ]
    picture, _ = rounding.round_to_pixels(
        planes[0], chroma, file.components, 75, 91, bits=16, project=False
    )
    off = np.abs(picture.mean((0, 1)) / 257 - reference)
    assert off.max() < color_correction.TOLERANCE + 0.01
    assert off.max() > color_correction.TOLERANCE - 0.02  # no further than need be
    for plane, old, component in zip(planes, before, file.components, strict=True):
        rows, columns, _ = component.coefficients.shape
        cells = (rows, plane.shape[0] // rows, columns, plane.shape[1] // columns)
        moved = (plane - old).reshape(cells)
        assert np.ptp(moved, axis=(1, 3)).max() < 1e-4 and np.abs(moved).max() > 0.01
        means = plane.reshape(cells).mean(axis=(1, 3), dtype=np.float64)
        q = component.table[0, 0]
        assert np.abs(8 * (means - 128) - q * component.coefficients[..., 0]).max() <= q / 2
    assert (planes[1] == before[1])[: 2 * 8 * (2 if full else 1)].all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strength", 1.5),
        ("strength", float("nan")),
        ("bits", 10),
        ("assume_quality", 0),
        ("prior_grid", (0, 8)),
        ("prior_grid", (1,)),
        ("size", "huge"),
        ("engine", "abacus"),
    ],
)
def test_options_out_of_range_are_refused(weights, name, value):
    with pytest.raises(ValueError, match=f"^{name} is .*; expected .*"):
        RestoreOptions(**{name: value})
    with pytest.raises(ValueError, match=f"^{name} is "):
        dmcnn_jax.restore(jpeg_bytes(colours(8, 8)), weights, **{name: value})


def test_the_function_the_class_and_the_command_have_the_same_options():
    keywords = {
        p.name: p.default
        for p in inspect.signature(dmcnn_jax.restore).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    # Files carry their orientation; only arrays are turned by the function.
    assert keywords == dataclasses.asdict(RestoreOptions()) | {"upright": False}
    assert restore_options(make_parser().parse_args([])) == RestoreOptions()
    given = ["--strength=0.5", "--no-project", "--bits=16", "--no-detect", "--assume-quality=30"]
    given += ["--prior-grid=3,5", "--size=full", "--ensemble", "--engine=jax", "--no-trial"]
    assert restore_options(make_parser().parse_args(given)) == RestoreOptions(
        0.5, False, 16, False, 30, (3, 5), "full", True, "jax", False
    )


def test_earlier_saves_of_rgb_files_are_noted_as_ignored_only_if_asked_for(weights):
    file = jpeg.read(jpeg_bytes(colours(16, 24), quality=20, keep_rgb=True))
    plain = Restorer(weights)(file)
    assert plain.notes == () and plain.prior is None
    asked = Restorer(weights, RestoreOptions(assume_quality=10))(file)
    assert asked.notes == ("earlier saves are not considered for RGB files",)
    np.testing.assert_array_equal(asked.pixels, plain.pixels)


def test_pictures_are_turned_upright_as_pillow_does():
    pixels = colours(16, 24)
    stored = decoded(jpeg_bytes(pixels, quality=20))
    for orientation in (6, 7):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = jpeg_bytes(pixels, quality=20, exif=exif)
        turned = dmcnn_jax.restore(data, strength=0, upright=True)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(turned, np.asarray(expected))
        assert turned.flags.c_contiguous
    np.testing.assert_array_equal(dmcnn_jax.restore(data, strength=0), stored)


def test_a_decoded_image_is_refused(weights):
    with pytest.raises(TypeError, match="already decoded"):
        dmcnn_jax.restore(colours(8, 8), weights)


# The guarantee


def luma_coefficients(pixels, scale):
    """Rounded DCT of luma by SciPy in float64: [rows, columns, 8, 8]; size in whole blocks."""
    luma = pixels.astype(np.float64) / scale
    luma = luma if luma.ndim == 2 else luma @ [0.299, 0.587, 0.114]
    rows, columns = luma.shape[0] // 8, luma.shape[1] // 8
    blocks = luma.reshape(rows, 8, columns, 8).swapaxes(1, 2) - 128
    return scipy.fft.dctn(blocks, axes=(2, 3), norm="ortho")


def soft(pixels):
    """With less contrast, so that nothing comes near the ends of the range."""
    return (pixels // 2 + 64).astype(np.uint8)


@pytest.mark.parametrize("quality", [5, 20, 75])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("gray", [False, True])
def test_pixels_quantise_to_the_files_coefficients(weights, quality, bits, gray):
    pixels = soft(colours(64, 72))
    data = jpeg_bytes(pixels[..., 0] if gray else pixels, quality=quality)
    result = Restorer(weights, RestoreOptions(bits=bits))(jpeg.read(data))
    component = jpeg.read(data).components[0]
    scale = 1 if bits == 8 else 257
    exact = luma_coefficients(result.pixels, scale) / component.table
    inner = (result.pixels > 0) & (result.pixels < 255 * scale)
    inner = inner if gray else inner.all(-1)
    inner = inner.reshape(8, 8, 9, 8).all((1, 3))
    assert inner.mean() > 0.2
    kept = np.round(exact) == component.coefficients.reshape(8, 9, 8, 8)
    assert kept[inner].mean() > (0.999 if bits == 8 else 0.9999)
    # What is reported is what is.
    assert result.luma_tally.share == pytest.approx(kept.mean(), abs=1e-3)
    free = Restorer(weights, RestoreOptions(bits=bits, project=False))(jpeg.read(data))
    assert free.luma_tally.share < result.luma_tally.share


def test_chroma_planes_quantise_to_the_files_coefficients():
    data = jpeg_bytes(colours(64, 64), quality=15)
    for component in jpeg.read(data).components[1:]:
        plane = decoding.dequantized_plane(component).astype(np.float64)
        rows, columns, _ = component.coefficients.shape
        blocks = plane.reshape(rows, 8, columns, 8).swapaxes(1, 2) - 128
        exact = scipy.fft.dctn(blocks, axes=(2, 3), norm="ortho") / component.table
        k = component.coefficients.reshape(exact.shape)
        np.testing.assert_array_equal(np.round(exact), k)


def test_verify_passes_our_pictures_and_fails_others(weights, tmp_path, capsys):
    path = write_jpeg(tmp_path / "a.jpg", 61, 75, quality=50)
    assert main([str(path), "-o", f"{tmp_path}/a.png", "--weights", str(weights), "-q"]) == 0
    assert main(["--verify", str(path), f"{tmp_path}/a.png"]) == 0
    out = capsys.readouterr().out
    assert "passed" in out and "inner" in out and "edge" in out
    smooth = scipy.ndimage.gaussian_filter(np.asarray(Image.open(path)), (2, 2, 0))
    Image.fromarray(smooth).save(tmp_path / "smooth.png")
    assert main(["--verify", str(path), f"{tmp_path}/smooth.png", "--json", "-"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["passed"] and report["inner"]["share"] < 0.99
    turned = Image.open(tmp_path / "a.png").transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "turned.png")
    assert main(["--verify", str(path), f"{tmp_path}/turned.png"]) == 1
    assert "61 x 75 pixels; expected 75 x 61" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["v.jpg", "v.webp", "v.png"])
def test_what_is_kept_is_counted_in_what_was_written(weights, tmp_path, name):
    """A JPEG as the result was said to keep 100.000 %, and --verify found less."""
    path = write_jpeg(tmp_path / "a.jpg", 64, 80, quality=50)
    target, report = tmp_path / name, tmp_path / "r.json"
    arguments = [str(path), "-o", str(target), "--weights", str(weights), "--json", str(report)]
    assert main(arguments + ["--quality", "40"] * (name != "v.png")) == 0
    (record,) = json.loads(report.read_text())["files"]
    # By SciPy's transform of what Pillow reads.
    with Image.open(target) as image:
        y = np.asarray(image.convert("RGB"), float) @ (0.299, 0.587, 0.114) - 128
    luma = jpeg.read(path).components[0]
    blocks = y.reshape(8, 8, 10, 8).swapaxes(1, 2)
    x = scipy.fft.dctn(blocks, axes=(2, 3), norm="ortho") / luma.table
    kept = np.mean(np.abs(x - luma.coefficients.reshape(x.shape)) < 0.5)
    assert record["luma_kept"]["share"] == pytest.approx(kept, abs=2e-4)
    assert (kept < 0.999) == (name != "v.png")


@pytest.mark.parametrize("quality", [5, 30, 75, 95])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_verify_at_all_qualities(weights, tmp_path, quality, name):
    rng = np.random.default_rng(quality)
    pixels = soft(colours(72, 88)) + rng.integers(0, 30, (72, 88, 1), dtype=np.uint8)
    data = jpeg_bytes(pixels, quality=quality)
    (tmp_path / "a.jpg").write_bytes(data)
    bits = 16 if name == "a.tif" else 8
    restored = Restorer(weights, RestoreOptions(bits=bits))(jpeg.read(data)).pixels
    formats.write(tmp_path / name, restored, Metadata(), formats.output_format(name[1:], bits=bits))
    verdict = verify(tmp_path / "a.jpg", tmp_path / name)
    assert verdict.passed and verdict.bits == bits
    assert verdict.chroma.inner.share > 0.9
    denoised = scipy.ndimage.median_filter(decoded(data), (3, 3, 1))
    Image.fromarray(denoised).save(tmp_path / "other.png")
    # At quality 5 nearly all pictures that look alike have the same coefficients.
    assert verify(tmp_path / "a.jpg", tmp_path / "other.png").passed is (quality == 5)


def test_verify_counts_every_block_once(weights, tmp_path):
    path = write_jpeg(tmp_path / "a.jpg", 61, 75)
    formats.write(
        tmp_path / "a.png",
        dmcnn_jax.restore(path, weights),
        Metadata(),
        formats.OutputFormat(),
    )
    verdict = verify(path, tmp_path / "a.png")
    assert verdict.luma.edge.blocks == 8 + 10 - 1
    total = verdict.luma.inside + verdict.luma.edge
    assert total.blocks == 80 and total.coefficients == 80 * 64


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_originals_keep_the_coefficients_that_libjpeg_made_of_them(tmp_path, subsampling):
    """In several bands of blocks, with blocks that the border cuts in both planes."""
    original = soft(colours(301, 93))
    original[40:48, 40:48] = 255
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes(original, quality=40, subsampling=subsampling))
    Image.fromarray(original).save(tmp_path / "a.png")
    verdict = verify(tmp_path / "a.jpg", tmp_path / "a.png")
    # libjpeg rounds luma and chroma to whole levels before it transforms them.
    assert verdict.luma.inner.share > 0.995
    assert verdict.chroma.inner.share > 0.995
    assert verdict.luma.saturated.blocks == 1 and verdict.luma.edge.blocks == 38 + 12 - 1
    down, across = jpeg.read(tmp_path / "a.jpg").components[1].subsampling
    rows, columns = 301 // (8 * down), 93 // (8 * across)
    assert verdict.chroma.inside.blocks == 2 * rows * columns
    others = {(1, 1): 38 * 12, (1, 2): 38 * 6, (2, 2): 19 * 6}[down, across] - rows * columns
    assert verdict.chroma.edge.blocks == 2 * others
    assert verdict.chroma.edge.share > 0.98


# Choosing a model


BUNDLE = {"q10": {"quality": 10}, "q20": {"quality": 20}}


@pytest.mark.parametrize(
    ("quality", "project", "expected"),
    [
        (10, True, "q10"),
        (12, True, "q10"),
        (16, True, "q20"),
        (4, True, "q10"),
        (50, True, "q20"),
        (50, False, None),
        (75, True, None),
        (95, True, None),
    ],
)
def test_the_model_trained_nearest_to_the_table_is_chosen(quality, project, expected):
    choice = model_selection.choose_model(jpeg.quality_table(quality), BUNDLE, project=project)
    assert choice.name == expected
    assert (not choice.reason) == (quality in (10,))


def test_a_model_of_many_qualities_comes_first():
    models = BUNDLE | {"any": {"quality": 20, "quality_range": [5, 95]}}
    for quality in (3, 10, 50, 96):
        assert model_selection.choose_model(jpeg.quality_table(quality), models).name == "any"


SIZED = {
    "small-any": {"quality_range": [5, 95], "model": {"features": 24}},
    "any": {"quality_range": [5, 95], "model": {"features": 64}},
    "q10": {"quality": 10, "model": {"features": 24}},
    "big-q10": {"quality": 10, "quality_range": [], "model": {"features": 64}},
}
# Annex K is steep; these are the tables that photographs come with otherwise.
FLAT = np.full((8, 8), 16)
GENTLE = 3 + np.add.outer(np.arange(8), np.arange(8))
COARSE_16_BITS = np.minimum(jpeg.STANDARD_LUMA * 40, 65535)


def test_every_table_finds_a_model_of_many_qualities():
    tables = [*jpeg.quality_table(np.arange(1, 97)), FLAT, GENTLE, COARSE_16_BITS]
    tables += [np.clip(scale * FLAT // 16, 1, 255) for scale in range(5, 255, 20)]
    for table in tables:
        assert model_selection.choose_model(table, SIZED, size="fast").name == "small-any"
        assert model_selection.choose_model(table, SIZED, size="full").name == "any"


def test_where_there_is_nothing_to_win_none_is_chosen():
    for table in (*jpeg.quality_table(np.arange(97, 101)), np.ones((8, 8), int)):
        choice = model_selection.choose_model(table, SIZED)
        assert choice.name is None and "left as decoded" in choice.reason


def test_a_model_that_has_seen_the_table_comes_before_one_of_the_size():
    models = {name: SIZED[name] for name in ("small-any", "big-q10")}
    for quality, expected in [(10, "big-q10"), (50, "small-any"), (95, "small-any")]:
        assert (
            model_selection.choose_model(jpeg.quality_table(quality), models, size="full").name
            == expected
        )


def test_sizes(weights, tmp_path, monkeypatch, capsys):
    about = {"quality_range": [5, 95], "model": {"features": 4}}
    wide = {"quality_range": [5, 95], "model": {"features": 9}}
    monkeypatch.setattr(
        model_selection, "bundled_models", lambda: {str(weights): about, "wide": wide}
    )
    path = tmp_path / "a.jpg"
    # Of RGB, whose planes are restored by networks of luma.
    path.write_bytes(jpeg_bytes(colours(40, 56), quality=96, keep_rgb=True))
    # "auto", on a CPU by JAX.
    options = RestoreOptions(engine="jax", trial=False)
    assert Restorer(options=options)(jpeg.read(path)).model == str(weights)
    assert main([str(path), "--size", "full"]) == 1
    assert "no weights 'wide'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="size is 'huge'; expected one of auto, fast, full"):
        RestoreOptions(size="huge")


def test_no_models_to_choose_from_is_said():
    with pytest.raises(FileNotFoundError, match="--weights"):
        model_selection.choose_model(jpeg.quality_table(10), {})


def test_an_installation_without_weights_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(model_selection, "bundled_models", dict)
    path = write_jpeg(tmp_path / "a.jpg")
    assert main([str(path)]) == 1
    assert "no weights come with this installation" in capsys.readouterr().err
    np.testing.assert_array_equal(dmcnn_jax.restore(path, strength=0), decoded(path.read_bytes()))


@pytest.mark.parametrize("quality", [1, 10, 37, 90, 99])
def test_the_quality_of_a_table_is_recognised(quality):
    assert nearest_quality(jpeg.quality_table(quality)) == quality
    assert abs(nearest_quality(jpeg.quality_table(quality) + 1) - quality) <= 12


def test_what_no_model_was_trained_for_is_left_as_decoded(tmp_path, weights, monkeypatch, capsys):
    monkeypatch.setattr(model_selection, "bundled_models", lambda: {str(weights): {"quality": 20}})
    fine = write_jpeg(tmp_path / "f.jpg", quality=98, subsampling="4:4:4")
    coarse = write_jpeg(tmp_path / "c.jpg")
    options = ["-o", f"{tmp_path}/out/", "--json", "-", "--no-trial"]
    assert main([str(fine), str(coarse), *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [f["status"] for f in report["files"]] == ["decoded", "restored"]
    assert "left as decoded" in report["files"][0]["notes"][0]
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "out/f.png")), decoded(fine.read_bytes())
    )


@pytest.mark.parametrize(
    ("quality", "subsampling", "restored"),
    [
        *((20, (1, 1), True), (92, (1, 1), True), (95, (1, 1), False), (100, (1, 1), False)),
        *((1, (2, 2), True), (95, (2, 2), True), (100, (1, 2), True)),
    ],
)
def test_chroma_is_restored_by_its_own_table(quality, subsampling, restored):
    table = jpeg.quality_table(quality, jpeg.STANDARD_CHROMA)
    choice = model_selection.choose_chroma_model(table, subsampling, "it", (5, 95))
    assert choice.name == ("it" if restored else None) and bool(choice.reason) is not restored
    # A model that doesn't say what it was trained for is applied.
    assert model_selection.choose_chroma_model(table, subsampling, "it", ()).name == "it"


def two_qualities(luma, chroma, subsampling):
    """A photograph whose planes are saved at different qualities, and its JPEG."""
    import skimage.data

    original = skimage.data.astronaut()[40:232, 120:312]
    tables = jpeg.quality_table(luma), jpeg.quality_table(chroma, jpeg.STANDARD_CHROMA)
    flat = [table.ravel().tolist() for table in tables]
    return original, jpeg_bytes(original, qtables=flat, subsampling=subsampling)


@pytest.mark.parametrize(("size", "name"), [("fast", "dmcnn-chroma"), ("full", "dmcnn-photo")])
def test_fine_luma_does_not_keep_coarse_chroma_from_being_restored(size, name):
    original, data = two_qualities(98, 20, "4:2:0")
    file = jpeg.read(data)
    result = Restorer(options=RestoreOptions(size=size))(file)
    assert result.models == (None, name, name) and result.model is None
    assert result.notes == (
        "luma: no bundled model was trained for quantisation tables like this one (about quality"
        " 98); left as decoded",
    )
    before, after = (
        ((pixels.astype(float) - original) ** 2).mean() for pixels in (decoded(data), result.pixels)
    )
    assert 10 * np.log10(before / after) > 0.3
    # Luma is what it was: libjpeg's, up to its rounding.
    luma = [
        pixels.astype(float) @ [0.299, 0.587, 0.114] for pixels in (decoded(data), result.pixels)
    ]
    assert np.abs(luma[1] - luma[0]).mean() < 0.4 and result.luma_tally.share > 0.98


def test_fine_chroma_is_left_as_decoded_beside_coarse_luma():
    _, data = two_qualities(20, 98, "4:4:4")
    planes = Restorer("dmcnn-small-any").restore_planes(jpeg.read(data))
    assert planes.models == ("dmcnn-small-any", None, None)
    assert planes.notes[0].startswith("chroma: the quantisation table (about quality 98) is finer")
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("YCbCr"))
    for index, plane in enumerate(planes.chroma, 1):
        # Colour conversion to RGB and back costs libjpeg's planes another level.
        assert np.abs(plane - stored[..., index]).mean() < 0.6


def test_cb_and_cr_are_chosen_for_separately():
    _, data = two_qualities(50, 20, "4:4:4")
    file = jpeg.read(data)
    luma, cb, cr = file.components
    fine = dataclasses.replace(cr, table=jpeg.quality_table(99, jpeg.STANDARD_CHROMA))
    planes = Restorer("dmcnn-small-any").restore_planes(
        dataclasses.replace(file, components=(luma, cb, fine))
    )
    assert planes.models == ("dmcnn-small-any", "dmcnn-chroma", None)
    found = scipy.fft.dctn(planes.chroma[1][:8, :8] - 128.0, norm="ortho").ravel()
    # The picture's mean colour is kept by shifting whole blocks, which moves DC.
    expected = (fine.coefficients[0, 0] * fine.table.ravel())[1:]
    np.testing.assert_allclose(found[1:], expected, atol=1e-3)


def test_a_model_without_a_name_restores(weights):
    model = dataclasses.replace(load(weights), name="")
    file = jpeg.read(jpeg_bytes(colours(40, 56), quality=20))
    result = Restorer(model)(file)
    assert result.models[0] == "an unnamed model"
    named = Restorer(weights, RestoreOptions(engine="jax"), chroma=Restorer(model).chroma)
    np.testing.assert_array_equal(result.pixels, named(file).pixels)


def test_the_full_size_restores_colour_and_gray_by_one_network():
    restorer = Restorer(options=RestoreOptions(size="full", trial=False))
    picture = colours(40, 56)
    color = restorer(jpeg.read(jpeg_bytes(picture, quality=20)))
    assert color.models == ("dmcnn-photo",) * 3
    gray = restorer(jpeg.read(jpeg_bytes(picture[..., 0], quality=20)))
    assert gray.models == ("dmcnn-photo",) and gray.pixels.shape == (40, 56)
    # Its range of tables ends with that of the networks of luma.
    assert restorer(jpeg.read(jpeg_bytes(picture[..., 0], quality=99))).models == (None,)


def test_a_network_of_all_planes_is_refused_beside_one_of_luma(weights):
    with pytest.raises(ValueError, match="'dmcnn-photo' restore luma too; expected no others"):
        Restorer(weights, chroma="dmcnn-photo")


def test_the_report_says_what_restored_each_plane(tmp_path, capsys):
    for name, quality in (("mixed", (98, 20)), ("fine", (99, 99)), ("coarse", (60, 60))):
        (tmp_path / f"{name}.jpg").write_bytes(two_qualities(*quality, "4:4:4")[1])
    write_jpeg(tmp_path / "gray.jpg").write_bytes(jpeg_bytes(colours(40, 56)[..., 0]))
    assert main([str(tmp_path), "-o", f"{tmp_path}/out", "--size=fast", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    coarse, fine, gray, mixed = json.loads(out)["files"]
    luma, chroma = "dmcnn-small-any", "dmcnn-chroma"
    assert coarse["planes"] == {"luma": luma, "Cb": chroma, "Cr": chroma}
    assert mixed["planes"] == {"luma": None, "Cb": chroma, "Cr": chroma}
    assert gray["planes"] == {"luma": luma} and set(fine["planes"].values()) == {None}
    statuses = [each["status"] for each in (coarse, fine, gray, mixed)]
    assert statuses == ["restored", "decoded", "restored", "restored"]
    assert f"coarse.png: luma by {luma}, Cb and Cr by {chroma}, " in err
    assert f"mixed.png: luma as decoded, Cb and Cr by {chroma}, " in err
    assert f"gray.png: {luma}, " in err and "fine.png: as decoded, " in err


# Files


EXIF = Image.Exif()
EXIF[0x112], EXIF[0x10F] = 6, "Camera"
METADATA = Metadata(
    exif=b"Exif\0\0" + EXIF.tobytes()[6:] if EXIF.tobytes()[:4] == b"Exif" else EXIF.tobytes(),
    orientation=6,
    icc=b"profile" * 30,
    xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>",
    resolution=(300.0, 300.0),
)


@pytest.mark.parametrize("extension", list(formats.FORMATS))
def test_metadata_is_kept(tmp_path, extension):
    path = tmp_path / f"a{extension}"
    pixels = colours(20, 24)
    assert formats.write(path, pixels, METADATA, formats.output_format(extension)) == ()
    with Image.open(path) as image:
        assert image.getexif()[0x112] == 6 and image.getexif()[0x10F] == "Camera"
        assert image.info["icc_profile"] == METADATA.icc
        xmp = image.info.get("xmp") or image.getexif().get(700) or b""
        assert b"xmpmeta" in (xmp if isinstance(xmp, bytes) else xmp.encode())
        if extension != ".webp":
            assert image.info["dpi"][0] == pytest.approx(300, abs=0.1)
    if "jp" not in extension:
        np.testing.assert_array_equal(formats.read(path), pixels)


@pytest.mark.parametrize("shape", [(1, 1), (300, 7), (13, 9, 3), (700, 40, 3)])
def test_png_of_16_bits(tmp_path, rng, shape):
    ramp = np.add.outer(np.arange(shape[0]) * 13, np.arange(shape[1]) * 71)
    pixels = ramp.reshape(shape[:2] + (1,) * (len(shape) - 2)) + rng.integers(0, 999, shape)
    pixels = (pixels % 65536).astype(np.uint16)
    path = tmp_path / "a.png"
    formats.write(path, pixels, METADATA, formats.output_format(".png", bits=16))
    np.testing.assert_array_equal(formats.read(path), pixels)
    with Image.open(path) as image:
        image.load()
        assert image.info["icc_profile"] == METADATA.icc and image.getexif()[0x112] == 6
        assert image.info["dpi"][0] == pytest.approx(300, abs=0.1)
        assert "xmpmeta" in image.info["XML:com.adobe.xmp"]
        if len(shape) == 2:
            np.testing.assert_array_equal(np.asarray(image), pixels)
        else:  # Pillow keeps the upper halves.
            np.testing.assert_array_equal(np.asarray(image), pixels >> 8)


@pytest.mark.parametrize("shape", [(1, 1), (300, 7), (13, 9, 3), (700, 40, 3)])
def test_tiff_of_16_bits(tmp_path, rng, shape):
    tifffile = pytest.importorskip("tifffile", reason="reads 16-bit TIFF by itself")
    pixels = rng.integers(0, 65536, shape, dtype=np.uint16)
    path = tmp_path / "a.tif"
    assert formats.write(path, pixels, METADATA, formats.output_format(".tif", bits=16)) == ()
    np.testing.assert_array_equal(formats.read(path), pixels)
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        assert tags[274].value == 6 and tags[271].value == "Camera"
        assert tags[34675].value == METADATA.icc and tags[282].value == (300, 1)
        assert b"xmpmeta" in tags[700].value
    with Image.open(path) as image:
        image.load()
        assert image.info["icc_profile"] == METADATA.icc
        assert image.info["dpi"] == (300, 300)
    with Image.open(path) as image:
        # Pillow turns it, and keeps the upper halves of colours.
        back = np.asarray(image.transpose(Image.Transpose.ROTATE_90))
    np.testing.assert_array_equal(back, pixels if len(shape) == 2 else pixels >> 8)


def test_exif_that_makes_no_sense_costs_only_itself(tmp_path):
    broken = Metadata(exif=b"Exif\0\0" + bytes(70_000), icc=METADATA.icc)
    remarks = formats.write(
        tmp_path / "a.jpg", colours(16, 16), broken, formats.output_format(".jpg")
    )
    assert [dropped.partition(" (")[0] for dropped in remarks] == ["EXIF data"]
    assert Image.open(tmp_path / "a.jpg").info["icc_profile"] == METADATA.icc


@pytest.mark.parametrize("bits", [8, 16])
def test_exif_of_another_file_does_not_describe_the_pixels(tmp_path, bits):
    """Sizes, orders and planes of EXIF's first directory are not the TIFF file's."""
    exif = Image.Exif()
    exif[0x10F] = "a camera"
    for tag, value in ((256, 100), (257, 4000), (258, 4), (262, 6), (266, 2), (284, 2), (338, 1)):
        exif[tag] = value
    exif[322] = exif[324] = 16
    pixels = colours(40, 56)
    pixels = pixels if bits == 8 else pixels * np.uint16(257)
    formats.write(
        tmp_path / "a.tif",
        pixels,
        Metadata(exif=b"Exif\0\0" + exif.tobytes()[6:], comments=("(c) Z\xfc".encode("latin-1"),)),
        formats.output_format(".tif", bits=bits),
    )
    np.testing.assert_array_equal(formats.read(tmp_path / "a.tif"), pixels)
    with Image.open(tmp_path / "a.tif") as image:
        assert image.tag_v2[0x10F] == "a camera"


@pytest.mark.parametrize("extension", ["png", "jpg"])
@pytest.mark.parametrize("bits", [8, 16])
def test_comments_are_kept(tmp_path, extension, bits):
    if bits == 16 and extension == "jpg":
        pytest.skip("has 8 bits")
    pixels = colours(16, 16) if bits == 8 else colours(16, 16) * np.uint16(257)
    path, comment = tmp_path / f"a.{extension}", "© Zoë"
    style = formats.output_format(path.suffix, bits=bits)
    formats.write(path, pixels, Metadata(comments=(comment.encode(),)), style)
    with Image.open(path) as image:
        image.load()
        found = image.text["Comment"] if extension == "png" else image.info["comment"].decode()
    assert found == comment


def test_damaged_pictures_are_one_clear_error(tmp_path):
    pixels = colours(300, 56) * np.uint16(257)
    for extension in (".png", ".tif"):
        path = tmp_path / f"a{extension}"
        formats.write(path, pixels, Metadata(), formats.output_format(extension, bits=16))
        whole = path.read_bytes()
        for broken in (whole[:27], whole[:-200], whole[:200] + bytes(200) + whole[400:]):
            path.write_bytes(broken)
            with pytest.raises((ValueError, OSError)) as error:
                formats.read(path)
            assert path.name in str(error.value)


def test_nothing_half_written_survives(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write.replacing(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.png"]


# The command


def run(weights, *arguments):
    return main([*map(str, arguments), "--weights", str(weights)])


@pytest.mark.parametrize("step", [(1, 1), (1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("project", [True, False])
def test_a_plane_gets_the_mean_that_the_file_says(step, project):
    height, width, table = 75, 91, np.full((8, 8), 80)
    rng = np.random.default_rng(0)
    samples = [-(-size // s) for size, s in zip((height, width), step, strict=True)]
    original = np.clip(rng.normal(100, 3, samples), 0, 255).astype(np.uint8)
    coefficients = np.asarray(jpeg.encode(original, table), np.int16)
    component = Component(1, coefficients, table, 1, 1, step, *samples)
    rows, columns, _ = coefficients.shape
    restored = np.repeat(np.repeat(decode(coefficients, table), step[0], 0), step[1], 1) + 0.7
    before = restored.copy()
    color_correction.match_dc_mean(restored, component, height, width, project=project)
    wanted = before[:height, :width].mean() - 0.7
    assert restored[:height, :width].mean() == pytest.approx(wanted, abs=1e-3)
    # Blocks move as a whole, and none beyond its interval.
    moved = (restored - before).reshape(rows, 8 * step[0], columns, 8 * step[1])
    assert np.ptp(moved, axis=(1, 3)).max() < 1e-4
    if project:
        means = restored.reshape(moved.shape).mean(axis=(1, 3))
        assert np.abs(8 * (means - 128) - 80.0 * coefficients[..., 0]).max() <= 40


def decode(coefficients, table):
    """Unrounded, by SciPy's transform."""
    blocks = (coefficients * table.reshape(64)).reshape(*coefficients.shape[:2], 8, 8)
    pixels = scipy.fft.idctn(blocks, axes=(2, 3), norm="ortho") + 128
    return pixels.swapaxes(1, 2).reshape(8 * pixels.shape[0], -1).astype(np.float32)


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_folders_are_mirrored_and_bad_files_reported(weights, tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    write_jpeg(source / "a.jpg")
    write_jpeg(source / "sub/b.JPEG", seed=1)
    write_jpeg(source / "sub/deep/c.jfif", seed=2, quality=30)
    (source / "notes.txt").write_text("no picture")
    (source / "bad.jpg").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    (source / "cut.jpg").write_bytes((source / "a.jpg").read_bytes()[:300])
    report = tmp_path / "report.json"
    assert run(weights, source, "-o", out, "--json", report) == 1
    assert tree(out) == ["a.png", "sub/b.png", "sub/deep/c.png"]
    err = capsys.readouterr().err.splitlines()
    assert sum("bad.jpg: not a JPEG file but a PNG image" in line for line in err) == 1
    assert any("3 restored, 2 failed" in line for line in err)
    content = json.loads(report.read_text())
    assert content["summary"]["restored"] == 3 and content["summary"]["failed"] == 2
    good = next(f for f in content["files"] if f["input"].endswith("a.jpg"))
    assert good["table_quality"] == 20 and good["sampling"] == [[1, 1], [2, 2], [2, 2]]
    assert 0.9 < good["luma_kept"]["share"] <= 1
    assert 0 < good["chroma_kept"]["share"] <= 1
    expected = dmcnn_jax.restore(source / "a.jpg", weights)
    np.testing.assert_array_equal(np.asarray(Image.open(out / "a.png")), expected)


def test_an_ensemble_restores_a_turned_picture_alike(weights, tmp_path):
    picture = colours(48, 64)[..., 0]
    one, other = (
        dmcnn_jax.restore(jpeg_bytes(p, quality=20), weights, ensemble=True)
        for p in (picture, np.ascontiguousarray(picture[::-1]))
    )
    # Encoders round a mirrored block otherwise now and then.
    assert np.abs(other[::-1].astype(int) - one).mean() < 0.2
    path = write_jpeg(tmp_path / "a.jpg")
    assert run(weights, path, "--ensemble") == 0
    expected = dmcnn_jax.restore(path, weights, ensemble=True)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a-restored.png")), expected)
    assert (expected != dmcnn_jax.restore(path, weights)).any()


def test_existing_results_are_skipped_or_replaced(weights, tmp_path, capsys):
    path = write_jpeg(tmp_path / "a.jpg")
    out = tmp_path / "a-restored.png"
    out.write_bytes(b"mine")
    assert run(weights, path) == 0
    assert out.read_bytes() == b"mine" and "--overwrite" in capsys.readouterr().err
    assert run(weights, path, "--overwrite") == 0
    assert Image.open(out).size == (56, 40)


def test_inputs_are_never_written_over(weights, tmp_path, capsys):
    path = write_jpeg(tmp_path / "a.jpg")
    before = path.read_bytes()
    (tmp_path / "link.jpg").symlink_to(path)
    for target in (path, tmp_path / "link.jpg", f"{tmp_path}/./a.jpg"):
        assert run(weights, path, "-o", target, "--overwrite") == 1
        assert "would overwrite the input" in capsys.readouterr().err
    assert run(weights, tmp_path, "-o", tmp_path, "--format", "jpg", "--overwrite") == 1
    assert path.read_bytes() == before and tree(tmp_path) == ["a.jpg", "link.jpg"]


def test_inputs_are_never_written_over_under_a_name_in_another_case(weights, tmp_path, capsys):
    """Hard links stand for a file system that doesn't distinguish IMG.JPG and IMG.jpg."""
    path = write_jpeg(tmp_path / "in/IMG.JPG")
    os.link(path, tmp_path / "in/IMG.jpg")
    before = path.read_bytes()
    arguments = (path, "-o", tmp_path / "in", "--format", "jpg", "--overwrite")
    assert run(weights, *arguments) == 1
    assert f"would overwrite the input {path}" in capsys.readouterr().err
    (tmp_path / "in/IMG.jpg").unlink()
    assert run(weights, *arguments) == 0
    assert path.read_bytes() == before and tree(tmp_path / "in") == ["IMG.JPG", "IMG.jpg"]
    assert run(weights, path, "-o", tmp_path / "a.png", "--json", tmp_path / "A.PNG") == 2
    assert "would overwrite a picture" in capsys.readouterr().err


# No user, not even root, may create files in /proc.
@pytest.mark.parametrize("report", ["photo.jpg", "out.png", "none/r.json", ".", "/proc/r.json"])
def test_a_report_overwrites_nothing(weights, tmp_path, monkeypatch, capsys, report):
    monkeypatch.chdir(tmp_path)
    data = write_jpeg(tmp_path / "photo.jpg").read_bytes()
    assert run(weights, "photo.jpg", "-o", "out.png", "--json", report) == 2
    assert "--json" in capsys.readouterr().err
    assert (tmp_path / "photo.jpg").read_bytes() == data
    assert os.listdir(tmp_path) == ["photo.jpg"]
    Image.fromarray(colours(40, 56)).save("out.png")
    assert main(["--verify", "photo.jpg", "out.png", "--json", report]) == 2


def test_gray_pictures_of_colour_files_are_verified(tmp_path):
    picture = np.repeat(colours(48, 64)[..., :1], 3, axis=-1)
    (tmp_path / "photo.jpg").write_bytes(jpeg_bytes(picture, quality=20))
    Image.fromarray(picture[..., 0]).save(tmp_path / "gray.png")
    Image.fromarray(picture).save(tmp_path / "rgb.png")
    gray, rgb = (
        verify(tmp_path / "photo.jpg", tmp_path / f"{name}.png") for name in ("gray", "rgb")
    )
    assert gray == rgb and gray.luma.inner.share > 0.99


def test_damaged_files_are_verified_if_asked_to(tmp_path, weights, capsys):
    path = write_jpeg(tmp_path / "photo.jpg", height=160, width=160)
    path.write_bytes(path.read_bytes()[:-400])
    target = tmp_path / "photo.png"
    assert run(weights, path, "-o", target, "--allow-truncated") == 0
    assert main(["--verify", str(path), str(target)]) == 1
    assert "--allow-truncated reads the intact part" in capsys.readouterr().err
    main(["--verify", str(path), str(target), "--allow-truncated"])
    assert "inner" in capsys.readouterr().out


def test_names_that_terminals_would_obey_are_escaped(weights, tmp_path, capsys):
    path = tmp_path / "a\x1b[31m\nb.jpg"
    path.write_bytes(b"nothing")
    assert run(weights, path, "-o", tmp_path / "out.png") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "\x1b" not in said and said.count("b.jpg") == 1


def test_what_pixels_do_not_say_is_not_counted(weights, tmp_path, capsys):
    """Planes of RGB with a subsampled one; chroma without a whole block."""
    report = tmp_path / "report.json"
    path = write_jpeg(tmp_path / "tiny.jpg", height=3, width=5)
    assert run(weights, path, "-o", tmp_path / "tiny.png", "--json", report) == 0
    (about,) = json.loads(report.read_text())["files"]
    assert about["luma_kept"]["coefficients"] == 64 and "chroma_kept" not in about


def test_a_second_run_leaves_its_own_results_alone(tmp_path):
    write_jpeg(tmp_path / "a.jpg")
    write_jpeg(tmp_path / "out/a.jpg")
    tasks = plan([str(tmp_path)], str(tmp_path / "out"), ".jpg").tasks
    assert [task.source for task in tasks] == [tmp_path / "a.jpg"] and tasks[0].skip


def targets(inputs, output):
    """Where each file goes, below the output folder, and whether it is skipped."""
    tasks = plan([str(each) for each in inputs], str(output), ".png").tasks
    return {
        task.target.relative_to(output).as_posix() + (" skipped" if task.skip else "")
        for task in tasks
    }


def test_several_folders_are_mirrored_each_under_its_name(tmp_path):
    for name in ("may/a.jpg", "may/sub/b.jpg", "june/a.jpg", "c.jpg"):
        write_jpeg(tmp_path / name)
    out, may, june = (tmp_path / name for name in ("out", "may", "june"))
    assert targets([may, june], out) == {"may/a.png", "may/sub/b.png", "june/a.png"}
    assert targets([may, june, tmp_path / "c.jpg"], out) == {
        *("may/a.png", "may/sub/b.png", "june/a.png", "c.png")
    }
    # One folder alone is the output's own structure, also if it is named twice.
    assert targets([may], out) == {"a.png", "sub/b.png"}
    assert targets([may, f"{june}/../may"], out) >= {"a.png", "sub/b.png", "a.png skipped"}


def test_folders_named_by_dots_get_their_real_names(tmp_path, monkeypatch):
    for name in ("may/a.jpg", "june/a.jpg"):
        write_jpeg(tmp_path / name)
    monkeypatch.chdir(tmp_path / "may")
    assert targets([".", "../june"], tmp_path / "out") == {"may/a.png", "june/a.png"}


def test_a_folder_goes_to_one_beside_it_if_nothing_else_is_said(tmp_path, monkeypatch):
    for name in ("may/a.jpg", "may/sub/b.jpg", "june/a.jpg", "c.jpg"):
        write_jpeg(tmp_path / name)
    monkeypatch.chdir(tmp_path / "may")
    june, single = tmp_path / "june", tmp_path / "c.jpg"
    planned = plan([".", f"{june}/", str(single)], None, ".jpg")
    names = [task.target.resolve().relative_to(tmp_path).as_posix() for task in planned.tasks]
    assert names == [
        *("may-restored/a.jpg", "may-restored/sub/b.jpg", "june-restored/a.jpg"),
        "c-restored.jpg",
    ]
    assert planned.remarks[1] == f"the results of {june}/ go to {tmp_path / 'june-restored'}"
    # From above, the results of an earlier run are not taken for inputs of their own folder.
    write_jpeg(tmp_path / "june-restored/a.jpg")
    assert [task.source.name for task in plan([str(june)], None, ".jpg").tasks] == ["a.jpg"]


def test_folders_of_the_same_name_are_told_apart_and_said_beforehand(weights, tmp_path, capsys):
    for name in ("2023/may/a.jpg", "2024/may/a.jpg", "june/a.jpg"):
        write_jpeg(tmp_path / name)
    folders = [tmp_path / name for name in ("2023/may", "2024/may", "june")]
    expected = {"2023/may/a.png", "2024/may/a.png", "june/a.png"}
    assert targets(folders, tmp_path / "out") == expected
    assert targets(folders[::-1], tmp_path / "out") == expected
    assert run(weights, *folders, "-o", tmp_path / "out") == 0
    assert tree(tmp_path / "out") == sorted(expected)
    lines = capsys.readouterr().err.splitlines()
    for number, folder in enumerate(folders[:2]):
        assert f"{folder} goes to {tmp_path / 'out' / folder.parent.name / 'may'}" in lines[number]
    assert sum(" goes to " in line for line in lines) == 2


def test_the_work_of_a_batch_grows_with_its_files_and_not_their_square(
    weights, tmp_path, monkeypatch, capsys
):
    """Counts comparisons of tasks, which looking one up in a list makes."""
    compared = 0

    def equal(task, other):
        nonlocal compared
        compared += 1
        return task is other

    monkeypatch.setattr(Task, "__eq__", equal)
    monkeypatch.setattr(Task, "__hash__", object.__hash__)
    report, count = tmp_path / "report.json", 300
    missing = [tmp_path / f"{number}.jpg" for number in range(count)]
    for path in missing[::3]:
        path.with_name(f"{path.stem}-restored.png").touch()
    assert run(weights, *missing, "-q", "--json", report) == 1
    content = json.loads(report.read_text())
    assert [each["input"] for each in content["files"]] == [str(path) for path in missing]
    assert content["summary"]["failed"] == 200 and content["summary"]["skipped"] == 100
    assert compared <= count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to restore"),
        (["", "a.jpg"], "the name of an input is empty"),
        (["-", "DIR/a.jpg"], "standard input can't be combined"),
        (["/"], "'/' has no name; name a folder for its pictures with -o"),
        (["DIR/a.jpg", "DIR/b.jpg", "-o", "-"], "takes one picture"),
        (["DIR/a.jpg", "-o", "DIR/a.bmp"], "'.bmp'; expected one of: .png"),
        (["DIR/a.jpg", "--quality", "80"], "a quality for PNG"),
        (["DIR/a.jpg", "--quality", "0"], "'0'; expected a number from 1 to 100"),
        (["DIR/a.jpg", "-o", "DIR/b.webp", "--bits", "16"], "use .png or .tif"),
        (["DIR/a.jpg", "DIR/b.jpg", "-o", "DIR/b.jpg"], "expected a folder"),
        (["DIR/empty", "-o", "DIR/out"], "no JPEG files in"),
        (["DIR/a.jpg", "--strength", "2"], "'2'; expected a number from 0 to 1"),
        (["DIR/a.jpg", "--format", "png/x"], "--format 'png/x'; expected one of: .png"),
        (["DIR/a.jpg", "-o", ""], "expected a folder, a file or -"),
        (["DIR/a.jpg", "--suffix", "/x"], "--suffix is '/x'; expected a part of a name"),
        (["DIR/a.jpg", "--suffix", "_x", "-o", "DIR/c.png"], "c.png', which names the result"),
        (["DIR/a.jpg", "--suffix", "_x", "-o", "-"], "standard output has none"),
        (["--serve", "--suffix", "_x"], "--serve and --verify write none"),
    ],
)
def test_commands_that_make_no_sense(weights, tmp_path, capsys, arguments, message):
    write_jpeg(tmp_path / "a.jpg")
    write_jpeg(tmp_path / "b.jpg")
    (tmp_path / "empty").mkdir()
    arguments = [a.replace("DIR", str(tmp_path)) for a in arguments]
    try:
        status = run(weights, *arguments)
    except SystemExit as error:  # argparse's
        status = error.code
    assert status == 2 and message in capsys.readouterr().err
    assert tree(tmp_path) == ["a.jpg", "b.jpg"]


def test_missing_inputs_and_weights(weights, tmp_path, capsys):
    good = write_jpeg(tmp_path / "a.jpg")
    missing = tmp_path / "missing.jpg"
    assert run(weights, missing, good, "-o", f"{tmp_path}/out/") == 1
    assert "missing.jpg: No such file" in capsys.readouterr().err
    assert tree(tmp_path / "out") == ["a.png"]
    assert main([str(good), "--weights", f"{tmp_path}/none"]) == 1
    assert "no weights" in capsys.readouterr().err


def test_standard_input_and_output(weights, tmp_path):
    path = write_jpeg(tmp_path / "a.jpg")
    done = subprocess.run(
        [*command("dmcnn-restore"), "-", "--weights", weights, "--device", "cpu"],
        input=path.read_bytes(),
        capture_output=True,
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    # Without "found in sys.modules" and other surprises.
    assert b"Warning" not in done.stderr
    picture = np.asarray(Image.open(io.BytesIO(done.stdout)))
    np.testing.assert_array_equal(picture, dmcnn_jax.restore(path, weights))


@pytest.mark.parametrize("collecting, lost", [(False, 0), (True, 0), (True, 2)])
def test_an_interruption_leaves_whole_files_only(tmp_path, collecting, lost):
    # In a process of its own, which signals may end.
    path = write_jpeg(tmp_path / "in/a.jpg")
    code = f"""
import gc, os, signal, sys, time
import dmcnn_jax.restoration.restorer
from dmcnn_jax.cli.restore import main

def interrupt(phase="start", _=None):
    if phase == "start":
        os.kill(os.getpid(), signal.SIGTERM)

kill, sent = signal.pthread_kill, []

def lose(*arguments):  # a signal just before the main thread sleeps doesn't wake it
    sent.append(arguments)
    if len(sent) > {lost}:
        kill(*arguments)

signal.pthread_kill = lose

class Endless:
    def __init__(self, *_, **__):
        pass

    def restore_planes(self, *_):
        if {collecting}:  # whose exceptions Python drops
            gc.callbacks.append(interrupt)
            gc.collect()
            gc.callbacks.remove(interrupt)
        else:
            interrupt()
        time.sleep(30)

sys.modules["dmcnn_jax.restoration.restorer"].Restorer = Endless
handler = signal.getsignal(signal.SIGTERM)
start = time.monotonic()
status = main([{str(path)!r}, "-o", {f"{tmp_path}/out/"!r}])
assert signal.getsignal(signal.SIGTERM) is handler
assert time.monotonic() - start < 20
sys.exit(status)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130 and "interrupted" in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


def test_unforeseen_errors_are_one_line_and_the_rest_goes_on(
    weights, tmp_path, monkeypatch, capsys
):
    first, second = write_jpeg(tmp_path / "a.jpg"), write_jpeg(tmp_path / "b.jpg", seed=1)
    restore_planes = Restorer.restore_planes

    def fail(self, file, *rest):
        if file.name == str(first):
            raise MemoryError("too\nmuch")
        return restore_planes(self, file, *rest)

    monkeypatch.setattr(Restorer, "restore_planes", fail)
    assert run(weights, first, second, "-o", f"{tmp_path}/out/") == 1
    assert "a.jpg: MemoryError: too much" in capsys.readouterr().err
    assert tree(tmp_path / "out") == ["b.png"]


# In a service


def in_threads(work, items):
    """Runs work on all items at the same time, each in a thread, and returns the results."""
    start = threading.Barrier(len(items))

    def run_one(item):
        start.wait()
        return work(item)

    with concurrent.futures.ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(run_one, items))


@pytest.mark.slow
def test_threads_share_a_restorer(weights):
    files = [
        jpeg_bytes(colours(40, 56, seed), quality=quality) for seed, quality in enumerate((10, 30))
    ]
    halved = RestoreOptions(strength=0.5, bits=16)
    shared, alone = Restorer(weights), Restorer(weights)
    work = [(options, data) for options in (RestoreOptions(), halved) for data in files]
    restored = in_threads(
        lambda item: shared.with_options(item[0])(jpeg.read(item[1])).pixels, 2 * work
    )
    for pixels, (options, data) in zip(restored, 2 * work, strict=True):
        expected = alone.with_options(options)(jpeg.read(data)).pixels
        np.testing.assert_array_equal(pixels, expected)
    assert [pixels.dtype for pixels in restored[1:3]] == [np.uint8, np.uint16]
    with pytest.raises(ValueError, match="size or engine differs"):
        shared.with_options(RestoreOptions(size="full"))


@pytest.mark.slow
def test_the_page_on_services_restores(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs/service.md").read_text()
    service, as_jpeg, single = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg_bytes(colours(24, 40), quality=20, exif=exif)
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(data)
    names = {}
    exec(service, names)
    image = Image.open(io.BytesIO(names["restore_to_png"](data)))
    assert image.format == "PNG" and image.size == (24, 40)
    assert image.getexif().get(0x0112, 1) == 1
    with pytest.raises(TimeoutError, match="not restored within 0 s"):
        names["restore_to_png"](data, 0.0)
    exec(as_jpeg, names | {"file": jpeg.read(data), "progress": None}, found := {})
    assert jpeg.read(found["data"]).certificate is not None
    exec(single, {})
    assert Image.open("photo.png").size == (24, 40)


def test_threads_load_a_model_once(weights, monkeypatch):
    model, loaded = load(weights), []

    def slowly(name, engine):
        loaded.append(name)
        time.sleep(0.05)
        return model

    def flat_plane(model, coefficients, table, **options):
        return np.full([8 * blocks for blocks in coefficients.shape[:2]], 0.5, np.float32)

    monkeypatch.setattr(restorer, "load", slowly)
    monkeypatch.setattr(plane_restoration, "restore_plane", flat_plane)
    shared = Restorer(options=RestoreOptions(size="fast", trial=False, detect=False))
    files = [jpeg_bytes(colours(16, 24, seed)[..., 0], quality=20) for seed in range(4)]
    in_threads(lambda data: shared(jpeg.read(data)), files)
    assert len(loaded) == 1


def test_pillows_limit_on_pixels_outlives_threads(tmp_path, monkeypatch):
    """Whoever came second remembered the limit that the first had lifted."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = tmp_path / "a.png"
    Image.new("L", (8, 8)).save(path)
    one, other = formats.opening(path), formats.opening(path)
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert Image.MAX_IMAGE_PIXELS is None
    other.__exit__(None, None, None)
    assert Image.MAX_IMAGE_PIXELS == 10


# The package


def test_what_is_imported_is_light():
    code = (
        "import sys, dmcnn_jax; assert 'jax' not in sys.modules; dmcnn_jax.restore;"
        "import dmcnn_jax.cli.restore, dmcnn_jax.cli.restore_batch;"
        "import dmcnn_jax.restoration.verification;"
        "heavy = 'optax orbax tensorflow ml_collections matplotlib skimage tensorstore'.split();"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_restore_is_a_plain_function():
    assert inspect.isfunction(dmcnn_jax.restore) and "restore" in dmcnn_jax.__all__
    assert list(inspect.signature(dmcnn_jax.restore).parameters)[:2] == ["source", "model"]
    assert pickle.loads(pickle.dumps(dmcnn_jax.restore)) is dmcnn_jax.restore
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        dmcnn_jax.nothing  # noqa: B018


@pytest.mark.slow
def test_a_pool_of_processes_restores(weights, tmp_path):
    paths = [write_jpeg(tmp_path / f"{name}.jpg") for name in "ab"]
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        restored = pool.starmap(dmcnn_jax.restore, [(path, weights) for path in paths])
    for path, pixels in zip(paths, restored, strict=True):
        np.testing.assert_array_equal(pixels, dmcnn_jax.restore(path, weights))
