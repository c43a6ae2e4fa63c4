"""Memory that the command takes, by the size of the picture."""

import subprocess
import sys

import numpy as np
import pytest
from mutated import weights
from PIL import Image

# Not `ru_maxrss`, into which Linux counts what the parent took before `exec`.
MEASURED = """
import sys
from pathlib import Path
from dmcnn_jax.cli.restore import main
status = main(sys.argv[1:])
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
sys.exit(status)
"""


def peak(folder, height, width, *arguments):
    """Peak memory of restoring a colour picture, bytes: of the command itself."""
    rng = np.random.default_rng(0)
    tile = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    tile = np.asarray(tile.resize((480, 320), Image.Resampling.BICUBIC))
    repeats = (-(-height // 320), -(-width // 480), 1)
    picture = np.tile(tile, repeats)[:height, :width]
    Image.fromarray(picture).save(folder / "large.jpg", quality=20)
    command = [sys.executable, "-c", MEASURED, str(folder / "large.jpg"), "-o"]
    command += [str(folder / "large.png"), "--overwrite", "--device", "cpu", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Image.open(folder / "large.png") as image:
        assert image.size == (width, height)
    return 1024 * int(done.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_the_picture(tmp_path):
    """100 MP fit in 4 GB: 0.7 GB whatever the picture, and 33 bytes for each of its pixels."""
    tiny = ("--weights", weights())
    assert peak(tmp_path, 4000, 6000, *tiny) < 0.7e9 + 33 * 24e6
