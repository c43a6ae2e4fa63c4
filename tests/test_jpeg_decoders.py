"""Restored JPEG files opened by other programs: all see the same picture."""

import base64
import io
import shutil
import subprocess

import numpy as np
import pytest
from browsers import chromium
from PIL import Image
from test_jpeg_output import KINDS, restored

from dmcnn_jax.restoration.jpeg_options import JpegOptions
from dmcnn_jax.restoration.jpeg_output import make_jpeg

pytestmark = pytest.mark.slow

# FFmpeg shares no code with libjpeg. Decoders differ in the inverse transform and in how they bring
# chroma to full size, about which the standard says nothing.
DECODERS = {
    "djpeg": ["djpeg", "-pnm", "{jpeg}"],
    "djpeg, floating point": ["djpeg", "-dct", "float", "-pnm", "{jpeg}"],
    "ImageMagick": ["convert-im6.q16", "{jpeg}", "-depth", "8", "ppm:-"],
    "FFmpeg": ["ffmpeg", "-v", "error", "-i", "{jpeg}", "-f", "image2pipe", "-c:v", "ppm", "-"],
}
FILES = [*(kind for kind in KINDS if kind != "a few pixels"), "full chroma"]


@pytest.fixture(scope="module")
def files():
    """By kind: a JPEG file, and the restored one."""
    pairs = {}
    for kind in FILES:
        full_chroma = kind == "full chroma"
        data = KINDS["4:2:0" if full_chroma else kind]()
        options = JpegOptions(full_chroma=full_chroma)
        pairs[kind] = data, make_jpeg(restored(data), options).data
    return pairs


def pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def run(command, data, path):
    """What a command decodes: int [height, width, 3]."""
    path.write_bytes(data)
    arguments = [part.format(jpeg=path) for part in command]
    done = subprocess.run(arguments, capture_output=True, check=True)
    assert not done.stderr
    with Image.open(io.BytesIO(done.stdout)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_decoders_differ_no_more_than_on_the_original(files, tmp_path, decoder, kind):
    command = DECODERS[decoder]
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}: apt-get install libjpeg-turbo-progs imagemagick ffmpeg")
    if decoder == "FFmpeg" and kind == "rgb":
        pytest.skip("FFmpeg takes every file of three components without JFIF for YCbCr")
    before, after = (
        np.abs(run(command, data, tmp_path / "a.jpg") - pillow(data)) for data in files[kind]
    )
    print(f"{decoder}, {kind}: mean {before.mean():.3f} and {after.mean():.3f}")
    assert after.mean() <= 1.3 * before.mean() + 0.1
    assert after.max() <= 1.5 * before.max() + 2


def test_chromium_agrees(files, tmp_path):
    script = """
        const [data, done] = arguments, image = new Image();
        image.onload = () => {
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.width, image.height];
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            const all = context.getImageData(0, 0, image.width, image.height);
            done([image.width, image.height, Array.from(all.data)]);
        };
        image.src = "data:image/jpeg;base64," + data;
    """
    with chromium(tmp_path) as driver:
        driver.get("data:text/html,<title>decoders</title>")
        for kind, (_, data) in files.items():
            text = base64.b64encode(data).decode()
            width, height, levels = driver.execute_async_script(script, text)
            found = np.array(levels).reshape(height, width, 4)[..., :3]
            difference = np.abs(found - pillow(data))
            print(f"Chromium, {kind}: at most {difference.max()}, mean {difference.mean():.3f}")
            assert difference.max() <= 2
