"""Runs `dmcnn-restore` on many mutated JPEG files.

    python tests/mutated.py 10000

Files of several kinds are damaged in several ways and restored in folders, to each format in turn,
with good files among them. The script prints the results and the command's peak memory. It fails if there is a traceback,
a file without its line, or a good file that is restored differently than alone.
"""

import argparse
import collections
import re
import resource
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from commands import command as program
from jpeg_cases import mutate, pillow
from PIL import Image

BATCH = 2500
FORMATS = ("png", "jpg", "tif", "webp")


def main() -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=BATCH, help="files per folder")
    options = parser.parse_args()
    start, total = time.perf_counter(), collections.Counter()
    for number, first in enumerate(range(0, options.count, options.batch)):
        count = min(options.batch, options.count - first)
        with tempfile.TemporaryDirectory() as folder:
            kind = FORMATS[number // 2 % len(FORMATS)]
            total += run(Path(folder), count, options.seed + first, number % 2 == 1, kind)
        print(f"{first + count} files, {time.perf_counter() - start:.0f} s", flush=True)
    for what, number in total.most_common():
        print(f"{number:8} {what}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"no traceback, a line for each, all good files restored; peak memory {peak:.2f} GB")


def run(
    folder: Path, count: int, seed: int, allow_truncated: bool, kind: str = "png"
) -> collections.Counter[str]:
    """Restores a folder of mutated files.

    Args:
        folder: an empty folder.
        count: number of files.
        seed: of the mutations.
        allow_truncated: whether the command restores damaged files as far as they go.
        kind: of the results, one of `FORMATS`.

    Returns:
        How often the command printed each message, without numbers and names.
    """
    rng = np.random.default_rng(seed)
    (folder / "in").mkdir()
    weights = folder / "weights.safetensors"
    write_weights(weights)
    bases = list(good_files(rng))
    for number, data in enumerate(bases):
        (folder / "in" / f"good{number}.jpg").write_bytes(data)
    for number in range(count):
        data = bases[rng.integers(len(bases))]
        changed = (mutate if rng.integers(4) else mutate_more)(rng, data)
        (folder / "in" / f"{number:05}.jpg").write_bytes(changed)
    command = [*program("dmcnn-restore"), folder / "in", "-o", folder / "out", "--format", kind]
    command += ["--weights", weights, "--device", "cpu", "--max-pixels", "1000000"]
    command += ["--allow-truncated"] if allow_truncated else []
    begun = time.perf_counter()
    # Generous for slow and busy machines: a command that hangs never ends.
    done = subprocess.run(command, capture_output=True, text=True, timeout=600 + 2 * count)
    seconds = time.perf_counter() - begun
    assert done.returncode in (0, 1), done.stderr[-2000:]
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.splitlines()
    said = collections.Counter()
    for line in lines[:-1]:
        found = re.match(r"dmcnn-restore: .*?/in/(\S+)\.jpg: (.*)", line)
        assert found, line
        said[found[1]] += 1
    expected = {path.stem: 1 for path in (folder / "in").iterdir()}
    assert said == expected, set(said.items()) ^ set(expected.items())
    check_good_files(folder, bases, weights, kind)
    assert not list((folder / "out").rglob("*.partial"))
    total = collections.Counter({"seconds of the command": round(seconds)})
    for line in lines[:-1]:
        text = re.sub(r"dmcnn-restore: \S+: ", "", line)
        text = "restored or decoded" if "/out/" in text else text
        total[re.sub(r"\d[\d ,x]*|\b[0-9a-f]{2}\b", "#", text)[:76]] += 1
    return total


def check_good_files(folder: Path, bases: Sequence[bytes], weights: Path, kind: str) -> None:
    """Checks that good files are restored as they are alone."""
    from dmcnn_jax import jpeg
    from dmcnn_jax.restoration.restorer import Restorer

    restorer = Restorer(weights)
    for number, data in enumerate(bases):
        path, file = folder / "out" / f"good{number}.{kind}", jpeg.read(data)
        if kind == "jpg":
            planes = restorer.restore_planes(file)
            assert path.read_bytes() == restorer.render_jpeg(planes).data
            continue
        with Image.open(path) as image:
            # Pillow has no gray WebP files, and turns TIFF files upright.
            picture = np.asarray(image.convert("L") if file.color == "gray" else image)
        expected = restorer(file).pixels
        if kind == "tif":
            picture = np.sort(picture, axis=None)
            expected = np.sort(expected, axis=None)
        np.testing.assert_array_equal(picture, expected)


def good_files(rng: np.random.Generator) -> Iterator[bytes]:
    """Yields small JPEG files of several kinds."""
    noise = rng.integers(0, 256, (12, 15, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(noise).resize((57, 45), Image.Resampling.BICUBIC))
    exif = Image.Exif()
    exif[0x112] = 6
    yield pillow(picture, quality=30)
    yield pillow(picture, quality=85, progressive=True, exif=exif, icc_profile=b"profile" * 9)
    yield pillow(picture, "L", quality=20, optimize=True)
    yield pillow(picture, quality=10, subsampling="4:4:4", restart_marker_blocks=3)
    yield pillow(picture, quality=50, keep_rgb=True)
    yield pillow(picture, "L", quality=50, progressive=True)


def mutate_more(rng: np.random.Generator, data: bytes) -> bytes:
    """Mutates a file in ways that are rare by chance, such as zeros in tables or wrong lengths."""
    out = bytearray(data)
    kind = rng.integers(5)
    if kind == 0:  # a table of zeros, or some
        start = out.index(b"\xff\xdb") + 5
        steps = rng.integers(1, 65)
        out[start : start + steps] = bytes(int(steps))
    elif kind == 1:  # large, but not absurd, like the header of a large photograph
        frame = max(data.find(b"\xff\xc0\0"), data.find(b"\xff\xc2\0"))
        sides = rng.integers(1, 1200, 2) * rng.choice([1, 8, 50])
        out[frame + 5 : frame + 9] = struct.pack(">HH", *(min(int(s), 65535) for s in sides))
    elif kind == 2:  # a segment's length
        starts = [m.start() for m in re.finditer(rb"\xff[\xc0-\xfe]", data)]
        start = starts[rng.integers(len(starts))] + 2
        out[start : start + 2] = rng.integers(0, 256, 2, dtype=np.uint8).tobytes()
    elif kind == 3:  # one file in another
        start = rng.integers(2, len(out))
        out[start:start] = data[: rng.integers(2, len(data))]
    else:  # sampling factors, precision, components
        frame = max(data.find(b"\xff\xc0\0"), data.find(b"\xff\xc2\0"))
        out[frame + 4 + rng.choice([0, 5, 6, 7, 8])] = rng.integers(256)
    return bytes(out)


def write_weights(path: Path) -> None:
    """Writes the weights of a tiny, untrained network."""
    import jax

    from dmcnn_jax.inference.variables import variable_shapes
    from dmcnn_jax.inference.weights import save_weights
    from dmcnn_jax.models import create_model

    model = {"name": "dmcnn", "features": 2, "dct_features": 4}
    shapes = variable_shapes(create_model(model))
    rng = np.random.default_rng(0)
    # Small weights change the decoded picture little.
    fill = partial(_normal, rng)
    save_weights(path, jax.tree.map(fill, shapes), {"model": model, "quality": 20})


def _normal(rng: np.random.Generator, leaf: Any) -> np.ndarray:
    gain = 0.3 / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
    return (gain * rng.normal(size=leaf.shape)).astype(leaf.dtype)


if __name__ == "__main__":
    main()
