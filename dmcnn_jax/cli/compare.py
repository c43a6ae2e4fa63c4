"""Scores models on folders of images and writes tables, plots and pictures.

    dmcnn-compare DMCNN=dmcnn-qf{q} --images LIVE1=FOLDER --qualities 10 20

A model is a bundled name, a weights file or the workdir of a run, with a label before it if it
should have another name; {q} stands for the quality, where there are weights for each. Folders
called LIVE1 and BSDS500 (its test images) get published figures beside the measured ones; instead
of a folder, "packaged" are the photographs that come with scikit-image. The output folder gets
table.md, table.csv and results.json, and, with matplotlib, flops.png (PSNR against arithmetic),
gain.png (gain against quality) and crop-*.png (the same crop by each model).
Stopped and started again, it goes on where it was.
"""

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmcnn_jax.evaluation import comparison
from dmcnn_jax.system.atomic_write import write_file
from dmcnn_jax.system.compile_cache import enable_compilation_cache
from dmcnn_jax.system.malloc import tune_malloc


def main() -> None:
    """The command line; an error that a user can mend is one line and exit status 1."""
    parser = argparse.ArgumentParser(
        description="Scores models on folders of images; writes tables, plots and pictures.",
        epilog="{q} in a model's name stands for the quality. Examples:\n"
        "  dmcnn-compare dmcnn-small-qf10 --images FOLDER --qualities 10\n"
        "  dmcnn-compare DMCNN=dmcnn-small-qf{q} dncnn3.safetensors \\\n"
        "      --images LIVE1=FOLDER --qualities 10 20\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="*", metavar="[LABEL=]WEIGHTS")
    parser.add_argument("--images", nargs="+", required=True, metavar="[LABEL=]FOLDER")
    parser.add_argument(
        "--qualities",
        nargs="+",
        type=int,
        default=comparison.QUALITIES,
        help="default: 10 20 30 40",
    )
    parser.add_argument(
        "--against",
        default=comparison.JPEG,
        help="what gains are gains over (default: %(default)s)",
    )
    parser.add_argument(
        "--crop",
        metavar="IMAGE:TOP,LEFT,SIZE",
        help="what pictures show (default: the middle 128 pixels of the first image)",
    )
    parser.add_argument("--no-plots", action="store_true", help="tables only")
    parser.add_argument("-o", "--output", type=Path, default=Path("compare"), help="folder")
    options = parser.parse_args()
    tune_malloc()
    enable_compilation_cache()
    try:
        run(options)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"compare: {error}")


def run(options: argparse.Namespace) -> None:
    """Everything is looked up before anything is measured."""
    for quality in options.qualities:
        if not 1 <= quality <= 100:
            raise ValueError(f"--qualities has {quality}; expected 1 to 100")
    folders = [comparison.parse_folder(text) for text in options.images]
    entries = [comparison.parse_entry(text, options.qualities) for text in options.models]
    crop = parse_crop(options.crop, folders)
    if not options.no_plots:
        try:
            import matplotlib
        except ImportError as error:
            raise ImportError(
                f"plots need matplotlib ({error}); pip install dmcnn-jax[compare], or --no-plots"
            ) from error
        matplotlib.use("Agg")
    measured = comparison.MeasurementCache(options.output / "measured.json")
    results = comparison.compare(
        entries, folders, options.qualities, measured, against=options.against
    )
    files = {
        "table.md": comparison.to_markdown(results).encode(),
        "table.csv": comparison.to_csv(results).encode(),
        "results.json": comparison.to_json(results).encode(),
    }
    if entries and not options.no_plots:
        files["flops.png"] = plot_flops(results)
        files["gain.png"] = plot_gain(results)
        for quality in options.qualities:
            pictures = comparison.make_crops(entries, crop[0], quality, *crop[1:])
            files[f"crop-q{quality}.png"] = plot_crops(pictures, quality)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_file(options.output / name, content)
    print(files["table.md"].decode())
    print(f"written to {options.output}: {', '.join(files)}")


def parse_crop(
    text: str | None, folders: Sequence[comparison.Folder]
) -> tuple[Path, int, int, int]:
    """IMAGE:TOP,LEFT,SIZE → the path and three numbers, or a default."""
    if text is None:
        from PIL import Image

        path = next(iter(folders[0].images.values()))
        with Image.open(path) as image:
            width, height = image.size
        size = min(128, height, width)
        return path, (height - size) // 2, (width - size) // 2, size
    name, _, numbers = text.rpartition(":")
    paths = [p for folder in folders for p in folder.images.values() if name in (p.name, p.stem)]
    try:
        top, left, size = map(int, numbers.split(","))
    except ValueError:
        raise ValueError(f"--crop is {text!r}; expected IMAGE:TOP,LEFT,SIZE") from None
    if not paths or min(top, left) < 0 or size < 1:
        raise ValueError(
            f"--crop is {text!r}; expected the name of an image in --images and a place"
        )
    return paths[0], top, left, size


def plot_flops(results: Mapping[str, Any]) -> bytes:
    """PSNR against FLOP a pixel, one panel a table."""
    tables = results["tables"]
    figure, axes = _figure(len(tables))
    for axis, table in zip(axes, tables, strict=True):
        for row in table["rows"]:
            if row["label"] in results["profiles"]:
                x = results["profiles"][row["label"]]["flops"] / 1e3
                axis.plot(x, row["measured"]["psnr"], "o", label=row["label"])
        axis.set(title=f"{table['images']}, quality {table['quality']}", xscale="log")
        axis.set(xlabel="kFLOP a pixel", ylabel="PSNR, dB")
        axis.margins(0.1)
        axis.grid(alpha=0.3)
        # Beside the points, of which some lie on top of each other.
        axis.legend(fontsize=8)
    return _png(figure)


def plot_gain(results: Mapping[str, Any]) -> bytes:
    """Gain in PSNR against quality with its 95 % interval, one panel a folder."""
    folders = list(dict.fromkeys(table["images"] for table in results["tables"]))
    figure, axes = _figure(len(folders))
    for axis, folder in zip(axes, folders, strict=True):
        tables = [table for table in results["tables"] if table["images"] == folder]
        for label in results["profiles"]:
            points = [
                (table["quality"], row["gain"])
                for table in tables
                for row in table["rows"]
                if row["label"] == label and row["gain"]
            ]
            if not points:
                continue
            qualities = [quality for quality, _ in points]
            means = [gain["mean"] for _, gain in points]
            (line,) = axis.plot(qualities, means, "o-", label=label)
            low, high = ([gain[end] for _, gain in points] for end in ("low", "high"))
            axis.fill_between(qualities, low, high, alpha=0.15, color=line.get_color())
        axis.set(title=folder, xlabel="JPEG quality")
        axis.set(ylabel=f"gain over {results['against']}, dB")
        axis.grid(alpha=0.3)
        axis.legend()
    return _png(figure)


def plot_crops(pictures: Mapping[str, Any], quality: int) -> bytes:
    """The crops side by side, pixels enlarged without smoothing."""
    import numpy as np

    figure, axes = _figure(len(pictures), side=2.6)
    original = pictures["original"].astype(np.float64)
    for axis, (label, picture) in zip(axes, pictures.items(), strict=True):
        error = np.mean((picture - original) ** 2)
        decibels = (
            "" if label == "original" else f"\n{10 * np.log10(255**2 / max(error, 1e-9)):.2f} dB"
        )
        axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(label + decibels, fontsize=9)
        axis.axis("off")
    figure.suptitle(f"quality {quality}", fontsize=9)
    return _png(figure)


def _figure(panels: int, side: float = 4.2):
    from matplotlib import pyplot

    columns = min(4, panels)
    rows = -(-panels // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(columns * side, rows * side), squeeze=False, layout="constrained"
    )
    for axis in axes.ravel()[panels:]:
        axis.axis("off")
    return figure, axes.ravel()[:panels]


def _png(figure) -> bytes:
    from matplotlib import pyplot

    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    pyplot.close(figure)
    return content.getvalue()


if __name__ == "__main__":
    main()
