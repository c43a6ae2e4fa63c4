"""How often an earlier save is found, how often one is made up, and what knowing it is worth.

    python tools/resaved.py FOLDER --limit 100
    python tools/resaved.py FOLDER --limit 10 --restore

Pictures of the folder are reduced, so that JPEG files among them have no history of their own left,
and saved by Pillow, in colour, chroma halved: once, for false alarms; or twice, with a random part
of a block cropped away in between. With --restore, files saved twice are restored, with and without
looking for the earlier save, and compared with the picture.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.jpeg.double_compression import find_prior_compression
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer

_SIDE = 320  # pixels, at most: enough for a verdict, and quick


def main() -> int:
    """Runs the command; the exit status is 1 where there are no pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("folder", type=Path)
    add("--limit", type=int, default=100, help="pictures, at most (default: %(default)s)")
    add("--start", type=int, default=0, help="pictures to pass over first")
    add("--first", type=int, nargs="+", default=[10, 20, 30, 40, 50], metavar="Q")
    add("--second", type=int, nargs="+", default=[85, 90, 95], metavar="Q")
    add("--once", type=int, nargs="*", metavar="Q", help="qualities for false alarms")
    add("--restore", action="store_true", help="measure what restoring gains, instead")
    add("--weights", metavar="NAME", help="a model (default: chosen as dmcnn-restore does)")
    options = parser.parse_args()
    paths = sorted(p for p in options.folder.rglob("*") if p.suffix.lower() in _EXTENSIONS)
    paths = paths[options.start : options.start + options.limit]
    if not paths:
        print(f"no pictures in {options.folder}", file=sys.stderr)
        return 1
    rng = np.random.default_rng(0)
    if options.restore:
        _measure_gain(paths, options, rng)
        return 0
    once = range(1, 101) if options.once is None else options.once
    alarms = checked = 0
    found = np.zeros((len(options.first), len(options.second), 3), int)
    for number, path in enumerate(paths):
        picture = reduced(path)
        # Each picture at a few of the qualities: after 100 pictures, all of them several times.
        for quality in once if options.once is not None else once[number % 12 :: 12]:
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
                data, left, top = save_twice(picture, first, second, rng)
                earlier = find_prior_compression(jpeg.read(data).components[0])
                grid = earlier is not None and (earlier.left, earlier.top) == (left, top)
                right = grid and abs(earlier.quality - first) <= 1
                found[i, j] += (earlier is not None, grid, right)
                if earlier and not right:
                    print(
                        f"wrong: {path.name} saved at {first}, then {second}, grid at {left},{top}:"
                        f" {_describe(earlier)}"
                    )
    print(f"saved once: {alarms} false alarms in {checked} files of {len(paths)} pictures")
    if options.first and options.second:
        print("saved twice: found, on the right grid, and of the right quality within 1")
        print("first, second  " + "".join(f"{second:>24}" for second in options.second))
        for first, row in zip(options.first, found, strict=True):
            cells = (" ".join(f"{n / len(paths):6.1%}" for n in cell) for cell in row)
            print(f"{first:13}  " + "".join(f"{cell:>24}" for cell in cells))
    return 0


_EXTENSIONS = {".jpg", ".jpeg", ".png"}


def reduced(path: Path) -> Image.Image:
    """A picture of at most 320 pixels a side, reduced by 0.6 at least."""
    with Image.open(path) as image:
        image = image.convert("RGB")
    factor = min(0.6, _SIDE / max(image.size))
    size = [max(1, round(factor * side)) for side in image.size]
    return image.resize(size, Image.Resampling.LANCZOS)


def save(picture: Image.Image, quality: int) -> bytes:
    """A JPEG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def save_twice(picture: Image.Image, first: int, second: int, rng) -> tuple[bytes, int, int]:
    """A JPEG file of a JPEG file, cropped, and where the blocks of the first then begin."""
    left, top = (int(n) for n in rng.integers(0, 8, 2))
    with Image.open(io.BytesIO(save(picture, first))) as decoded:
        cropped = decoded.crop((left, top, *picture.size))
    return save(cropped, second), -left % 8, -top % 8


def _measure_gain(paths, options, rng):
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


def _psnr(original, picture):
    error = original.astype(float) - picture
    luma = error @ [0.299, 0.587, 0.114]
    return [10 * np.log10(255**2 / np.mean(e**2)) for e in (error, luma)]


def _describe(earlier):
    grid = f"{earlier.left},{earlier.top}"
    return f"quality {earlier.quality}, grid at {grid}, share {earlier.share:.2f}"


if __name__ == "__main__":
    sys.exit(main())
