"""Measures how often earlier saves are detected, rightly and falsely, and what that gains.

    python tools/resaved.py FOLDER --limit 100
    python tools/resaved.py FOLDER --limit 10 --restore

Pictures of the folder are downscaled, which removes traces of their own compression, and saved by
Pillow in colour, 4:2:0: once, to count false alarms; or twice, with a random part of a block
cropped away in between. With --restore, files saved twice are restored with and without looking for
the earlier save, and compared with the picture.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.cli.process import command_parser, prepare_process, run_command
from dmcnn_jax.jpeg.double_compression import PriorCompression, find_prior_compression
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer

_MAX_SIDE = 320  # pixels: enough for a detection, and fast
_EXTENSIONS = {".jpg", ".jpeg", ".png"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    add = parser.add_argument
    add("folder", type=Path, help="folder of pictures, searched recursively")
    add("--limit", type=int, default=100, help="number of pictures, at most (%(default)s)")
    add("--start", type=int, default=0, help="number of pictures to skip first")
    add("--first", type=int, nargs="+", default=[10, 20, 30, 40, 50], metavar="Q")
    add("--second", type=int, nargs="+", default=[85, 90, 95], metavar="Q")
    add(
        "--once",
        type=int,
        nargs="*",
        metavar="Q",
        help="qualities of files saved once, to count false alarms",
    )
    add("--restore", action="store_true", help="measure the gain of restoring instead")
    add("--weights", metavar="NAME", help="a model (default: chosen as dmcnn-restore does)")
    options = parser.parse_args(argv)
    return run_command("resaved", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    paths = sorted(p for p in options.folder.rglob("*") if p.suffix.lower() in _EXTENSIONS)
    paths = paths[options.start : options.start + options.limit]
    if not paths:
        raise ValueError(f"no pictures in {options.folder}")
    prepare_process()
    measure = _measure_gain if options.restore else _measure_detection
    measure(paths, options, np.random.default_rng(0))


def _measure_detection(
    paths: Sequence[Path], options: argparse.Namespace, rng: np.random.Generator
) -> None:
    """Prints false alarms on files saved once, and detections in files saved twice."""
    alarms = checked = 0
    found = np.zeros((len(options.first), len(options.second), 3), int)
    for number, path in enumerate(paths):
        picture = reduced(path)
        # Each picture at a few qualities: after 100 pictures, every quality came several times.
        once = range(1, 101)[number % 12 :: 12] if options.once is None else options.once
        for quality in once:
            earlier = find_prior_compression(jpeg.read(save(picture, quality)).components[0])
            checked += 1
            if earlier:
                alarms += 1
                print(
                    f"false alarm: {path.name} saved once at {quality}: {_describe(earlier)}",
                    flush=True,
                )
        for i, first in enumerate(options.first):
            for j, second in enumerate(options.second):
                found[i, j] += _detect(path.name, picture, first, second, rng)
    print(f"saved once: {alarms} false alarms in {checked} files of {len(paths)} pictures")
    if options.first and options.second:
        print("saved twice: found, on the right grid, and of the right quality within 1")
        print("first, second  " + "".join(f"{second:>24}" for second in options.second))
        for first, row in zip(options.first, found, strict=True):
            cells = (" ".join(f"{n / len(paths):6.1%}" for n in cell) for cell in row)
            print(f"{first:13}  " + "".join(f"{cell:>24}" for cell in cells))


def _detect(
    name: str, picture: Image.Image, first: int, second: int, rng: np.random.Generator
) -> tuple[bool, bool, bool]:
    """Returns whether an earlier save is found, on the right grid, and of the right quality."""
    data, left, top = save_twice(picture, first, second, rng)
    earlier = find_prior_compression(jpeg.read(data).components[0])
    if earlier is None:
        return False, False, False
    grid = (earlier.left, earlier.top) == (left, top)
    right = grid and abs(earlier.quality - first) <= 1
    if not right:
        print(
            f"wrong: {name} saved at {first}, then {second}, grid at {left},{top}:"
            f" {_describe(earlier)}"
        )
    return True, grid, right


def reduced(path: Path) -> Image.Image:
    """Reads a picture, and scales it by 0.6 or less, to at most 320 pixels a side."""
    with Image.open(path) as image:
        image = image.convert("RGB")
    factor = min(0.6, _MAX_SIDE / max(image.size))
    size = [max(1, round(factor * side)) for side in image.size]
    return image.resize(size, Image.Resampling.LANCZOS)


def save(picture: Image.Image, quality: int) -> bytes:
    """Returns a JPEG file of a picture."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def save_twice(
    picture: Image.Image, first: int, second: int, rng: np.random.Generator
) -> tuple[bytes, int, int]:
    """Saves a picture, crops it at random, and saves it again.

    Returns:
        The second JPEG file, and where blocks of the first begin in it: columns, rows, 0 to 7.
    """
    left, top = (int(n) for n in rng.integers(0, 8, 2))
    with Image.open(io.BytesIO(save(picture, first))) as decoded:
        cropped = decoded.crop((left, top, *picture.size))
    return save(cropped, second), -left % 8, -top % 8


def _measure_gain(
    paths: Sequence[Path], options: argparse.Namespace, rng: np.random.Generator
) -> None:
    """Prints the PSNR of files saved twice, restored with and without the earlier save."""
    blind = Restorer(options.weights, RestoreOptions(detect=False))
    knowing = Restorer(options.weights)
    print("PSNR of RGB and of luma, dB, means over pictures: the file; restored by its own table;")
    print("restored by the earlier save that was found")
    for first in options.first:
        for second in options.second:
            rows = []
            for path in paths:
                picture = reduced(path)
                data, left, top = save_twice(picture, first, second, rng)
                original = np.asarray(picture.crop((-left % 8, -top % 8, *picture.size)))
                file = jpeg.read(data)
                decoded = np.asarray(Image.open(io.BytesIO(data)))
                restored = [r(file).pixels for r in (blind, knowing)]
                rows.append([_psnr(original, p) for p in (decoded, *restored)])
            cells = "   ".join(f"{rgb:.2f} {luma:.2f}" for rgb, luma in np.mean(rows, axis=0))
            print(f"first {first}, second {second}:   {cells}", flush=True)


def _psnr(original: np.ndarray, picture: np.ndarray) -> list[float]:
    """Returns the PSNR of RGB and of luma, dB."""
    error = original.astype(float) - picture
    luma = error @ [0.299, 0.587, 0.114]
    return [10 * np.log10(255**2 / np.mean(e**2)) for e in (error, luma)]


def _describe(earlier: PriorCompression) -> str:
    grid = f"{earlier.left},{earlier.top}"
    return f"quality {earlier.quality}, grid at {grid}, share {earlier.share:.2f}"


if __name__ == "__main__":
    sys.exit(main())
