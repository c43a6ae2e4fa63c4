"""Measures how often earlier saves are detected, rightly and falsely, and what that gains.

    python tools/earlier_saves.py FOLDER
    python tools/earlier_saves.py FOLDER --once 200 --twice 100 --restore

Files saved once are counted for false alarms: photographs of the folder, and pictures drawn by code
(text, charts, textures, night, noise and so on), saved at qualities 75 to 100. Files saved twice
are counted for detections: photographs saved at 10 to 60, cropped at random, and saved again at 80
to 95, by standard and by other tables, 4:2:0 and 4:4:4. Photographs are downscaled first, which
removes traces of their own compression. With --restore, all are also restored with and without
looking for an earlier save, and compared with the picture.

Files are drawn from a seed: the same command makes the same files.
"""

import argparse
import collections
import dataclasses
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("earlier_saves: interrupted")  # imports take seconds

import numpy as np
from PIL import Image
from tqdm import tqdm

from dmcnn_jax import jpeg
from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import command_parser, prepare_process
from dmcnn_jax.data.images import find_images
from dmcnn_jax.evaluation import drawings
from dmcnn_jax.images.metrics import psnr
from dmcnn_jax.jpeg.double_compression import PriorCompression, find_prior_compression
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer

_MAX_SIDE = 320  # pixels: enough for a detection, and fast
_KINDS = (*drawings.GRAPHICS, *drawings.SURFACES)


@dataclasses.dataclass(frozen=True)
class Case:
    """A JPEG file, and how it was made.

    Attributes:
        kind: of its picture.
        about: how it was saved, a few words.
        data: the file.
        original: the picture that it shows, uint8 [height, width, 3].
        grid: where blocks of the first save begin, columns and rows; None if it was saved once.
        tables: whether both saves used "standard" tables, or "other" ones.
    """

    kind: str
    about: str
    data: bytes
    original: np.ndarray
    grid: tuple[int, int] | None = None
    tables: str = "standard"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    add = parser.add_argument
    add("folder", help="folder of photographs, searched recursively, or `packaged`")
    add("--once", type=int, default=2000, metavar="N", help="files saved once (%(default)s)")
    add("--twice", type=int, default=1000, metavar="N", help="files saved twice (%(default)s)")
    add("--seed", type=int, default=0, help="of the files that are made (%(default)s)")
    add("--restore", action="store_true", help="restore the files too, and print the gain")
    add("--weights", metavar="NAME", help="a model (default: chosen as dmcnn-restore does)")
    options = parser.parse_args(argv)
    return run_main("earlier_saves", lambda: _run(options), argv)


def _run(options: argparse.Namespace) -> None:
    paths = list(find_images(options.folder).values())
    prepare_process()
    restore = _restorers(options.weights) if options.restore else None
    once = (_saved_once(paths, options.seed, n) for n in range(options.once))
    _count_false_alarms(tqdm(once, "saved once", options.once, unit="file"), restore)
    twice = (_saved_twice(paths, options.seed, n) for n in range(options.twice))
    _count_detections(tqdm(twice, "saved twice", options.twice, unit="file"), restore)


def _saved_once(paths: Sequence[Path], seed: int, number: int) -> Case:
    """Makes a file that was saved once: every other one a photograph, the rest of all kinds."""
    rng = np.random.default_rng([seed, 1, number])
    kind = "photograph" if number % 2 else _KINDS[number // 2 % len(_KINDS)]
    picture = (
        reduced(paths[rng.integers(len(paths))], rng)
        if kind == "photograph"
        else drawings.draw(kind, int(rng.integers(2**31)))
    )
    quality, subsampling = int(rng.integers(75, 101)), int(rng.choice([0, 2]))
    data = _save(picture, quality=quality, subsampling=subsampling)
    return Case(kind, f"number {number}, {kind}, saved at {quality}", data, picture)


def _saved_twice(paths: Sequence[Path], seed: int, number: int) -> Case:
    """Makes a file that was saved twice, cropped at random in between."""
    rng = np.random.default_rng([seed, 2, number])
    picture = reduced(paths[rng.integers(len(paths))], rng)
    first, second = int(rng.integers(10, 61)), int(rng.integers(80, 96))
    subsampling = int(rng.choice([0, 2]))
    other = number % 3 == 0
    left, top = (int(n) for n in rng.integers(0, 8, 2))
    decoded = Image.open(io.BytesIO(_save(picture, **_tables(first, other, rng), subsampling=0)))
    data = _save(
        np.asarray(decoded)[top:, left:], **_tables(second, other, rng), subsampling=subsampling
    )
    tables = "other" if other else "standard"
    about = f"number {number}, saved at {first}, then {second}, {tables} tables"
    return Case("photograph", about, data, picture[top:, left:], (-left % 8, -top % 8), tables)


def _tables(quality: int, other: bool, rng: np.random.Generator) -> dict:
    """Returns Pillow's options for a quality, by standard tables or by others as coarse.

    Other tables rise from low frequencies to high ones less or more than the standard ones, from
    not at all to 1.3 times as much in octaves, and irregularly.
    """
    if not other:
        return {"quality": quality}
    contrast = rng.uniform(0, 1.3)
    tables = []
    for base in (jpeg.STANDARD_LUMA, jpeg.STANDARD_CHROMA):
        octaves = np.log2(jpeg.quality_table(quality, base))
        mean = octaves.mean()
        octaves = mean + contrast * (octaves - mean) + rng.normal(0, 0.1, (8, 8))
        tables.append(np.clip(np.rint(2**octaves), 1, 255).astype(int).ravel().tolist())
    return {"qtables": tables}


def reduced(path: Path, rng: np.random.Generator) -> np.ndarray:
    """Reads a picture and scales it by 0.4 to 0.6, to at most 320 pixels a side."""
    with Image.open(path) as image:
        image = image.convert("RGB")
    factor = min(rng.uniform(0.4, 0.6), _MAX_SIDE / max(image.size))
    size = [max(1, round(factor * side)) for side in image.size]
    return np.asarray(image.resize((size[0], size[1]), Image.Resampling.LANCZOS))


def _save(pixels: np.ndarray, **options: object) -> bytes:
    """Returns a JPEG file of a picture."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _count_false_alarms(cases: Iterator[Case], restore: Callable | None) -> None:
    """Prints each false alarm, and their number by kind."""
    files, alarms = collections.Counter(), collections.Counter()
    changes = []
    for case in cases:
        file = jpeg.read(case.data)
        prior = find_prior_compression(file.components[0])
        files[case.kind] += 1
        if prior:
            alarms[case.kind] += 1
            tqdm.write(f"false alarm: {case.about}: {_describe(prior)}")
        if restore:
            # Without an alarm, both ways give the same picture.
            changes.append(restore(case, file) if prior else 0.0)
    for kind, number in files.items():
        print(f"  {kind:16} {alarms[kind]:4} false alarms in {number:5} files")
    print(f"saved once: {alarms.total()} false alarms in {files.total()} files")
    _print_gain(changes)


def _count_detections(cases: Iterator[Case], restore: Callable | None) -> None:
    """Prints each miss, and the rates of detection by kind of tables."""
    files, found = collections.Counter(), collections.Counter()
    explained, changes = [], []
    for case in cases:
        file = jpeg.read(case.data)
        prior = find_prior_compression(file.components[0])
        files[case.tables] += 1
        if prior and (prior.left, prior.top) == case.grid:
            found[case.tables] += 1
            explained.append(prior.explained)
        else:
            what = _describe(prior) if prior else "nothing found"
            tqdm.write(f"missed: {case.about}, grid at {case.grid}: {what}")
        if restore:
            changes.append(restore(case, file) if prior else 0.0)
    for tables, number in files.items():
        print(f"  {tables} tables: {found[tables]} of {number}, {found[tables] / number:.1%}")
    total = files.total()
    print(f"saved twice: found with their grid {found.total()} of {total}")
    if explained:
        low, middle = np.quantile(explained, [0.01, 0.5])
        print(f"coefficients explained: median {middle:.1%}, one in a hundred below {low:.1%}")
    _print_gain(changes)


def _restorers(weights: str | None) -> Callable[[Case, jpeg.JpegFile], float]:
    """Returns a function that restores a file with and without looking for an earlier save.

    It returns the difference in PSNR of RGB, dB.
    """
    knowing, blind = Restorer(weights), Restorer(weights, RestoreOptions(detect=False))

    def gain(case: Case, file: jpeg.JpegFile) -> float:
        # Channels side by side make one plane.
        planes = [
            picture.reshape(len(picture), -1)
            for picture in (case.original, knowing(file).pixels, blind(file).pixels)
        ]
        return psnr(planes[0], planes[1]) - psnr(planes[0], planes[2])

    return gain


def _print_gain(changes: Sequence[float]) -> None:
    if changes:
        print(
            f"PSNR against not looking for an earlier save: mean {np.mean(changes):+.3f} dB,"
            f" worst {min(changes):+.2f} dB"
        )


def _describe(prior: PriorCompression) -> str:
    return (
        f"quality {prior.quality}, grid at {prior.left},{prior.top}, share {prior.share:.2f},"
        f" explains {prior.explained:.1%}"
    )


if __name__ == "__main__":
    sys.exit(main())
