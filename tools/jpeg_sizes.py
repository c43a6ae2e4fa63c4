"""Measures restored JPEG files: their size, and what rounding to their tables costs.

    python tools/jpeg_sizes.py LIVE1 -o docs/jpeg-to-jpeg
    python tools/jpeg_sizes.py FOLDER --budgets 0.05dB 0.1dB 0.2dB --qualities 30
    python tools/jpeg_sizes.py TRAINING --calibrate --limit 24 --scale 0.6

Pictures of the folder are saved by Pillow, in colour (4:2:0) and in gray, and restored as
dmcnn-restore does. Prints, for each quality, means over the pictures:

- bytes beside those of the JPEG file: of the restored JPEG file; of a PNG file of the restored
  picture; and of a JPEG file of its pixels with the lowest quality, 4:4:4 or 4:2:0, that reaches
  the PSNR of the restored JPEG file (nan: for some picture none does)
- dB, PSNR of gray or RGB as Pillow decodes: of the JPEG file; of the restored picture in 16 bits;
  what the restored JPEG file loses against that; and what was estimated that rounding costs
- the share of the original's coefficients in whose intervals the file's lie

-o writes the table as sizes.csv and a plot as sizes.png. --calibrate prints instead which share of
the error that is estimated from a file alone its restored planes have.
"""

import argparse
import csv
import dataclasses
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("jpeg_sizes: interrupted")  # imports take seconds

import numpy as np
from PIL import Image
from tqdm import tqdm

from dmcnn_jax import jpeg
from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import command_parser, prepare_process
from dmcnn_jax.data.images import find_images
from dmcnn_jax.images.color import rgb_to_ycbcr
from dmcnn_jax.jpeg.expected_error import expected_error
from dmcnn_jax.jpeg.resampling import average_samples
from dmcnn_jax.restoration.jpeg_options import JpegOptions, parse_budget
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer
from dmcnn_jax.system.atomic_write import write_file


@dataclasses.dataclass(frozen=True)
class Row:
    """One picture at one quality; bytes are relative to those of its JPEG file."""

    color: str
    quality: int
    kind: str
    restored: float
    png: float
    pixels: float
    jpeg_psnr: float
    picture_psnr: float
    loss: float
    estimated: float
    inside: float


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    add = parser.add_argument
    add("folder", help="folder of pictures without artifacts, or `packaged`")
    add("-o", "--output", type=Path, metavar="FOLDER", help="of the table and the plot")
    add("--qualities", type=int, nargs="+", default=[10, 30, 50, 75, 90], metavar="Q")
    add("--budgets", nargs="+", default=["0.1dB"], metavar="LOSS", help="same as for dmcnn-restore")
    add("--colors", nargs="+", choices=("color", "gray"), default=["color", "gray"])
    add("--full-chroma", action="store_true", help="measure 4:4:4 as well, of pictures in colour")
    add("--limit", type=int, help="number of pictures, spread evenly (default: all)")
    add("--scale", type=float, default=1.0, help="reduces pictures first (%(default)s)")
    add("--size", choices=("auto", "fast", "full"), default="auto", help="of the model")
    add("--calibrate", action="store_true")
    options = parser.parse_args(argv)
    return run_main("jpeg_sizes", lambda: _run(options), argv)


def _run(options: argparse.Namespace) -> None:
    prepare_process()
    paths = list(find_images(options.folder).values())
    chosen = np.linspace(0, len(paths) - 1, min(options.limit or len(paths), len(paths)))
    pictures = [_read(paths[int(index)], options.scale) for index in chosen]
    restorer = Restorer(None, RestoreOptions(size=options.size, bits=16))
    if options.calibrate:
        _calibrate(restorer, pictures, options.qualities)
        return
    styles = {f"{budget}": JpegOptions(**parse_budget(budget)) for budget in options.budgets}
    if options.full_chroma:
        styles |= {
            f"{name} 4:4:4": dataclasses.replace(style, full_chroma=True)
            for name, style in styles.items()
        }
    rows = []
    total = len(options.colors) * len(options.qualities) * len(pictures)
    with tqdm(total=total, unit="picture", disable=None) as bar:
        for color in options.colors:
            for quality in options.qualities:
                for picture in pictures:
                    rows += _measure(restorer, picture, color, quality, styles)
                    bar.update()
    means = list(_means(rows))
    print("\n".join(_table(means)))
    if options.output:
        _write(means, options.output)


def _read(path: Path, scale: float) -> np.ndarray:
    with Image.open(path) as image:
        picture = image.convert("RGB")
    if scale != 1:
        size = round(picture.width * scale), round(picture.height * scale)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _measure(
    restorer: Restorer,
    picture: np.ndarray,
    color: str,
    quality: int,
    styles: dict[str, JpegOptions],
) -> Iterator[Row]:
    """Yields a row for each style of writing."""
    image = Image.fromarray(picture)
    image = image.convert("L") if color == "gray" else image
    original = np.asarray(image)
    data = _save(image, quality=quality)
    planes = restorer.restore_planes(jpeg.read(data))
    exact = restorer.render(planes).pixels
    whole = np.round(exact / 257).astype(np.uint8)
    restored = Image.fromarray(whole)
    png = _save(restored, "PNG")
    for kind, style in styles.items():
        if style.full_chroma and color == "gray":
            continue
        result = restorer.render_jpeg(planes, style)
        gained = _psnr(original, _decode(result.data))
        tallies = [t for t in (result.luma_tally, result.chroma_tally) if t]
        yield Row(
            color=color,
            quality=quality,
            kind=kind,
            restored=len(result.data) / len(data),
            png=len(png) / len(data),
            pixels=_equal_pixels(restored, original, gained) / len(data),
            jpeg_psnr=_psnr(original, _decode(data)),
            picture_psnr=_psnr(original, exact / 257),
            loss=_psnr(original, exact / 257) - gained,
            estimated=result.loss or 0.0,
            inside=sum(t.kept for t in tallies) / max(1, sum(t.coefficients for t in tallies)),
        )


def _equal_pixels(restored: Image.Image, original: np.ndarray, wanted: float) -> float:
    """Returns the bytes of a JPEG file of pixels with at least the wanted PSNR; NaN if none has."""
    sizes = []
    for subsampling in (0, 2):
        low, high, found = 0, 101, None
        while high - low > 1:
            quality = (low + high) // 2
            data = _save(restored, quality=quality, subsampling=subsampling, optimize=True)
            if _psnr(original, _decode(data)) >= wanted:
                high, found = quality, len(data)
            else:
                low = quality
        if found is not None:
            sizes.append(found)
    return min(sizes, default=float("nan"))


def _save(image: Image.Image, kind: str = "JPEG", **options: int | bool) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def _psnr(original: np.ndarray, picture: np.ndarray) -> float:
    """Returns the PSNR over all channels, dB, of a picture that need not be in whole levels."""
    return float(10 * np.log10(255**2 / np.mean((original.astype(np.float64) - picture) ** 2)))


def _means(rows: Sequence[Row]) -> Iterator[Row]:
    """Yields the mean of the rows of each colour, quality and kind."""
    keys = dict.fromkeys((row.color, row.quality, row.kind) for row in rows)
    names = [field.name for field in dataclasses.fields(Row)][3:]
    for key in keys:
        group = [row for row in rows if (row.color, row.quality, row.kind) == key]
        values = {name: float(np.mean([getattr(row, name) for row in group])) for name in names}
        yield Row(*key, **values)


def _table(rows: Sequence[Row]) -> Iterator[str]:
    """Yields the lines of a table."""
    yield f"{'':29}bytes, times the file's      dB"
    yield (
        f"{'':5} {'q':>3} {'budget':16}  JPEG    PNG  pixels     file  picture    loss   est."
        "   inside"
    )
    for row in rows:
        yield (
            f"{row.color:5} {row.quality:3} {row.kind:16} {row.restored:5.2f} {row.png:6.2f}"
            f" {row.pixels:7.2f}  {row.jpeg_psnr:7.3f}  {row.picture_psnr:7.3f} {row.loss:7.3f}"
            f" {row.estimated:6.3f} {row.inside:8.6f}"
        )


def _write(rows: Sequence[Row], folder: Path) -> None:
    """Writes the table and the plot."""
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in dataclasses.fields(Row)]
    writer.writerow(names)
    for row in rows:
        values = dataclasses.astuple(row)
        writer.writerow([f"{v:.4f}" if isinstance(v, float) else v for v in values])
    write_file(folder / "sizes.csv", text.getvalue().encode())
    write_file(folder / "sizes.png", _plot(rows))


def _plot(rows: Sequence[Row]) -> bytes:
    """Draws bytes and loss against quality, for each colour: a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colors = list(dict.fromkeys(row.color for row in rows))
    first = rows[0].kind
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for color, mark in zip(colors, ("o-", "s--"), strict=False):
        group = [row for row in rows if row.color == color and row.kind == first]
        qualities = [row.quality for row in group]
        for name, label, tone in (
            ("restored", "restored JPEG", "tab:blue"),
            ("pixels", "JPEG of pixels, equal PSNR", "tab:orange"),
            ("png", "PNG", "tab:gray"),
        ):
            values = [getattr(row, name) for row in group]
            axes[0].plot(qualities, values, mark, color=tone, label=f"{label}, {color}")
        gains = [row.picture_psnr - row.jpeg_psnr for row in group]
        kept = [gain - row.loss for gain, row in zip(gains, group, strict=True)]
        axes[1].plot(qualities, gains, mark, color="tab:gray", label=f"picture, {color}")
        axes[1].plot(qualities, kept, mark, color="tab:blue", label=f"restored JPEG, {color}")
    axes[0].set_yscale("log")
    axes[0].set_yticks([1, 2, 3, 5, 10, 20, 50], ["1", "2", "3", "5", "10", "20", "50"])
    axes[0].minorticks_off()
    axes[0].set_ylabel("bytes, times the file's")
    axes[0].set_ylim(1, 200)  # room for the legend
    axes[1].set_ylabel("gain over the file, dB")
    axes[1].set_ylim(bottom=0)
    for axis in axes:
        axis.set_xlabel("quality of the file")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    pyplot.close(figure)
    return buffer.getvalue()


def _calibrate(
    restorer: Restorer, pictures: Sequence[np.ndarray], qualities: Sequence[int]
) -> None:
    """Prints the error of restored planes as a share of what is estimated from the file."""
    shares = []
    for quality in qualities:
        row = []
        for picture in pictures:
            file = jpeg.read(_save(Image.fromarray(picture), quality=quality))
            planes = restorer.restore_planes(file)
            truth = np.moveaxis(rgb_to_ycbcr(picture, "full").astype(np.float32), -1, 0)
            restored = (*planes.luma, *planes.chroma)
            for plane, original, component in zip(restored, truth, file.components, strict=True):
                size = original.shape
                difference = average_samples(
                    plane[: size[0], : size[1]] - original, component.subsampling
                )
                row.append(float(np.mean(difference**2)) / expected_error(component))
        shares += row
        print(
            f"quality {quality}: median {np.median(row):.2f}, a tenth below"
            f" {np.percentile(row, 10):.2f}, a tenth above {np.percentile(row, 90):.2f}"
        )
    print(f"all: median {np.median(shares):.2f}")


if __name__ == "__main__":
    sys.exit(main())
