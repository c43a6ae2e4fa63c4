"""Packs for the network for photographs: several sizes of each photograph, and graphics."""

import io
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import runs
import scipy.ndimage
from PIL import Image

from dmcnn_jax.data import sources, tiles
from dmcnn_jax.data.graphics import KINDS, Graphics, draw
from dmcnn_jax.data.images import ImageFiles, read_rgb
from dmcnn_jax.data.rescaled import JoinedImages, RescaledImages
from dmcnn_jax.data.skies import SKIES, draw_sky

TOOL = runs.CHECKOUT / "tools" / "pack_images.py"


@pytest.fixture
def folder(tmp_path):
    runs.write_images(tmp_path / "images", 3, side=64)
    return tmp_path / "images"


def test_copies_are_reduced_at_random_but_not_below_a_size(folder):
    files = ImageFiles(sorted(folder.iterdir()))
    options = {"copies": 20, "scales": (0.3, 0.75), "shortest": 32}
    images = RescaledImages(files, **options)
    assert len(images) == 60
    assert images.name(19) == "0.png" and images.name(20) == "1.png"
    sizes = [read_rgb(images.open(i)).shape[0] for i in range(20)]
    assert min(sizes) == 32 and max(sizes) <= 48 and len(set(sizes)) > 5
    again = RescaledImages(files, **options)
    assert again.fingerprint == images.fingerprint
    np.testing.assert_array_equal(read_rgb(again.open(7)), read_rgb(images.open(7)))
    assert RescaledImages(files, **options | {"seed": 1}).fingerprint != images.fingerprint
    # What is smaller stays as it is.
    small = RescaledImages(files, **options | {"shortest": 100})
    np.testing.assert_array_equal(read_rgb(small.open(0)), read_rgb(files.open(0)))


def test_joined_images_are_those_of_each_source(folder):
    files = ImageFiles(sorted(folder.iterdir()))
    joined = JoinedImages([files, Graphics(4, 32)])
    assert len(joined) == 7
    skies = Graphics(2, 32, kinds=SKIES)
    assert skies.name(1) == "sky 1" and skies.fingerprint != Graphics(2, 32).fingerprint
    assert joined.name(2) == "2.png" and joined.name(3) == "text 0"
    np.testing.assert_array_equal(read_rgb(joined.open(1)), read_rgb(files.open(1)))


@pytest.mark.parametrize("kind", KINDS)
def test_graphics_follow_from_a_seed_and_are_not_blank(kind):
    pictures = [np.asarray(draw(kind, 96, np.random.default_rng(seed))) for seed in (0, 0, 1, 2)]
    assert all(picture.shape == (96, 96, 3) for picture in pictures)
    np.testing.assert_array_equal(*pictures[:2])
    assert not np.array_equal(pictures[1], pictures[2])
    assert max(picture.std() for picture in pictures) > 5


def test_skies_are_slow_gradients_that_jpeg_turns_into_bands():
    """The errors that JPEG adds to them are as smooth as steps of blocks' means are."""
    bands = []
    for seed in range(12):
        sky = draw_sky(256, np.random.default_rng(seed))
        np.testing.assert_array_equal(sky, draw_sky(256, np.random.default_rng(seed)))
        coded = io.BytesIO()
        sky.save(coded, "JPEG", quality=10)
        luma, decoded = (
            np.asarray(image.convert("L"), float)[:144] for image in (sky, Image.open(coded))
        )
        soft = scipy.ndimage.gaussian_filter(luma, 8)
        # Above the skyline, all but noise changes slowly.
        assert np.abs(np.diff(soft, axis=0)).max() < 3 and (luma - soft).std() < 3
        bands.append(scipy.ndimage.gaussian_filter(decoded - luma, 4).std())
    assert np.median(bands) > 1


def test_pixel_art_and_dithering_have_few_colours():
    for kind in ("pixel art", "dithering"):
        picture = np.asarray(draw(kind, 96, np.random.default_rng(3)))
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) <= 16
    smooth = scipy.ndimage.uniform_filter(
        np.asarray(draw("dithering", 96, np.random.default_rng(3)), float), (9, 9, 0)
    )
    assert np.ptp(smooth) > 60


def pack(*arguments):
    command = [sys.executable, TOOL, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_pack_counts_copies_as_one_image_and_graphics_as_another(folder, tmp_path):
    arguments = ("--luma=rgb", "--tile=32", "--scales", 0.5, 0.9, "--copies=2", "--graphics=10")
    arguments += ("--skies=2",)
    done = pack(folder, "-o", tmp_path / "pack", *arguments)
    assert done.returncode == 0, done.stderr
    assert "of 4 images" in done.stdout
    about = json.loads((tmp_path / "pack" / "pack.json").read_text())
    assert about["names"] == ["0.png", "1.png", "2.png", "text 0"]
    packed = sources.open_source(str(tmp_path / "pack"), tile=32, luma="rgb", max_short_side=0)
    # Each graphic is two tiles high and wide; each copy of a photograph gives one tile or four.
    counts = Counter(packed.images.tolist())
    assert counts[3] == 48 and all(2 <= counts[i] <= 8 for i in range(3))
    training, validation = tiles.split(packed, 1, seed=0)
    assert not set(training.names) & set(validation.names)
    with Image.open(Graphics(10, 64).open(3)) as image:
        np.testing.assert_array_equal(
            packed.take()[packed.images == 3][12], np.asarray(image)[:32, :32]
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--skies=-2",), "--skies is -2; expected 0 or a number"),
        (("--copies=2",), "--copies needs --scales"),
        (("--scales", "0.5", "2"), "--scales is 0.5 2.0; expected"),
        (("--copies=0",), "--copies is 0; expected at least 1"),
        (("--graphics=-1",), "--graphics is -1; expected 0 or a number"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, arguments, message):
    done = pack(folder, "-o", tmp_path / "pack", *arguments)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "pack").exists()
