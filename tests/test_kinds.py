"""Kinds of JPEG files, by the programs that write them, against what becomes of them."""

import io
import shutil
import subprocess
from functools import partial

import numpy as np
import pytest
from jpeg_cases import pillow
from mutated import weights as tiny_weights
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.cli.restore import main
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer


@pytest.fixture(scope="module")
def picture():
    """A smooth random picture of odd size: uint8 [61, 83, 3]."""
    noise = np.random.default_rng(0).integers(0, 256, (10, 13, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((83, 61), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def weights():
    return tiny_weights()


def run(program, *arguments, data):
    if shutil.which(program) is None:
        pytest.skip(f"no {program} on this machine")
    done = subprocess.run([program, *map(str, arguments)], input=data, capture_output=True)
    if done.returncode or not done.stdout:
        pytest.skip(f"this {program} can't: {done.stderr.decode(errors='replace')[:80]}")
    return done.stdout


def cjpeg(picture, folder, *arguments, gray=False):
    """libjpeg-turbo's own encoder."""
    buffer = io.BytesIO()
    Image.fromarray(picture).convert("L" if gray else "RGB").save(buffer, "PPM")
    return run("cjpeg", *arguments, data=buffer.getvalue())


def tables(picture, folder, luma, chroma=None):
    """With quantisation tables of one's own."""
    text = "\n".join(" ".join(map(str, t)) for t in (luma, luma if chroma is None else chroma))
    (folder / "tables.txt").write_text(text + "\n")
    return cjpeg(picture, folder, "-qtables", folder / "tables.txt", "-qslots", "0,1")


def jpegtran(picture, folder, *arguments, **options):
    """Rewritten without loss."""
    return run("jpegtran", *arguments, data=pillow(picture, quality=40, **options))


def convert(picture, folder, *arguments):
    """ImageMagick."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PPM")
    return run("convert", "ppm:-", *arguments, "jpg:-", data=buffer.getvalue())


def by_pillow(picture, folder, mode=None, **options):
    return pillow(picture, mode, **{"quality": 30} | options)


# N. Robidoux's, of ImageMagick and mozjpeg, for quality 50; and one of a camera's kind: less steep
# than the standard.
ROBIDOUX = [
    *(16, 16, 16, 18, 25, 37, 56, 85, 16, 17, 20, 27, 34, 40, 53, 75),
    *(16, 20, 24, 31, 43, 62, 91, 135, 18, 27, 31, 40, 53, 74, 106, 156),
    *(25, 34, 43, 53, 69, 94, 131, 189, 37, 40, 62, 74, 94, 124, 169, 238),
    *(56, 53, 91, 106, 131, 169, 226, 311, 85, 75, 135, 156, 189, 238, 311, 418),
]
CAMERA = (2 + np.add.outer(np.arange(8), np.arange(8)) // 2).ravel().tolist()

RESTORED = {
    "Pillow, 4:2:0": by_pillow,
    "Pillow, 4:2:2": partial(by_pillow, subsampling="4:2:2"),
    "Pillow, 4:4:4": partial(by_pillow, subsampling="4:4:4"),
    "Pillow, gray": partial(by_pillow, mode="L"),
    "Pillow, progressive": partial(by_pillow, progressive=True),
    "Pillow, progressive gray": partial(by_pillow, mode="L", progressive=True),
    "Pillow, optimized, quality 1": partial(by_pillow, optimize=True, quality=1),
    "Pillow, quality 100": partial(by_pillow, quality=100),
    "Pillow, restart markers": partial(by_pillow, restart_marker_blocks=2),
    "Pillow, RGB": partial(by_pillow, keep_rgb=True),
    "cjpeg": lambda *a: cjpeg(*a, "-quality", 25),
    "cjpeg, gray": lambda *a: cjpeg(*a, gray=True),
    "cjpeg, progressive, restart markers": lambda *a: cjpeg(*a, "-progressive", "-restart", "1"),
    "cjpeg, 4:4:0": lambda *a: cjpeg(*a, "-sample", "1x2"),
    "cjpeg, 4:1:1": lambda *a: cjpeg(*a, "-sample", "4x1"),
    "cjpeg, 4:1:0": lambda *a: cjpeg(*a, "-sample", "4x2"),
    "cjpeg, luma coarser across than chroma": lambda *a: cjpeg(*a, "-sample", "1x1,2x1,2x1"),
    "cjpeg, Cb and Cr sampled differently": lambda *a: cjpeg(*a, "-sample", "2x2,2x1,1x2"),
    "cjpeg, RGB": lambda *a: cjpeg(*a, "-rgb"),
    "cjpeg, flat table": lambda *a: tables(*a, [16] * 64),
    "cjpeg, Robidoux's table": lambda *a: tables(*a, ROBIDOUX),
    "cjpeg, a camera's tables": lambda *a: tables(*a, CAMERA),
    "jpegtran, optimized": lambda *a: jpegtran(*a, "-optimize"),
    "jpegtran, progressive": lambda *a: jpegtran(*a, "-progressive"),
    "jpegtran, turned": lambda *a: jpegtran(*a, "-rotate", "90", "-trim"),
    "jpegtran, cropped": lambda *a: jpegtran(*a, "-crop", "40x32+16+16"),
    "ImageMagick": lambda *a: convert(*a, "-quality", "60"),
    "ImageMagick, interlaced": lambda *a: convert(*a, "-interlace", "JPEG", "-quality", "20"),
    "ImageMagick, 4:1:1": lambda *a: convert(*a, "-sampling-factor", "4x1", "-quality", "50"),
    "ImageMagick, gray": lambda *a: convert(*a, "-colorspace", "Gray", "-quality", "50"),
}

REFUSED = {
    "jpegtran, arithmetic": (lambda *a: jpegtran(*a, "-arithmetic"), "arithmetic-coded JPEG"),
    "cjpeg, 12 bits": (lambda *a: cjpeg(*a, "-precision", "12"), "12 bits a sample"),
    "cjpeg, lossless": (lambda *a: cjpeg(*a, "-lossless", "1"), "lossless JPEG"),
    "cut off": (lambda *a: by_pillow(*a)[:1000], "truncated or damaged"),
    "ImageMagick, PNG called .jpg": (
        lambda picture, folder: png(picture),
        "not a JPEG file but a PNG image",
    ),
}


def png(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", RESTORED)
def test_restored(kind, picture, weights, tmp_path):
    data = RESTORED[kind](picture, tmp_path)
    with Image.open(io.BytesIO(data)) as image:
        decoded = np.asarray(image)
    # Before the network, what libjpeg decodes.
    plain = Restorer(weights, RestoreOptions(strength=0))(jpeg.read(data)).pixels
    np.testing.assert_array_equal(plain, decoded)
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert main([str(path), "-o", f"{tmp_path}/a.png", "--weights", str(weights)]) == 0
    with Image.open(tmp_path / "a.png") as image:
        restored = np.asarray(image)
    result = Restorer(weights)(jpeg.read(data))
    np.testing.assert_array_equal(restored, result.pixels)
    assert restored.shape == decoded.shape
    # Of luma that is subsampled, pixels say nothing.
    whole = jpeg.read(data).components[0].subsampling == (1, 1)
    assert result.luma_tally.share > 0.8 if whole else result.luma_tally is None


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind, picture, weights, tmp_path, capsys):
    write, reason = REFUSED[kind]
    path = tmp_path / "a.jpg"
    path.write_bytes(write(picture, tmp_path))
    assert main([str(path), "--weights", str(weights)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line and reason in line
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".png"] == []
