"""The command `dmcnn-compare`: measures models on folders of images."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import UsageError, command_parser, prepare_process

if TYPE_CHECKING:
    from dmcnn_jax.evaluation.comparison import Folder

_DESCRIPTION = """Measures models on folders of images, and writes tables, plots and pictures.

A model is a bundled name, a weights file or the folder of a training run, with an optional label
before it. {q} in its name stands for the quality, if there are weights for each. Folders labelled
LIVE1 and BSDS500 (its test images) get published figures beside the measured ones; "packaged" are
the photographs that come with scikit-image.

The output folder gets table.md, table.csv and results.json, and, with Matplotlib, flops.png (PSNR
against arithmetic), gain.png (gain against quality) and crop-*.png (the same crop by each model).
If interrupted, the same command resumes.
"""

_EXAMPLES = """examples:
  dmcnn-compare dmcnn-small-qf10 --images FOLDER --qualities 10
  dmcnn-compare DMCNN=dmcnn-small-qf{q} dncnn3.safetensors \\
      --images LIVE1=FOLDER --qualities 10 20
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `dmcnn-compare` and returns its exit status."""
    return run_main("dmcnn-compare", lambda: _run(make_parser().parse_args(argv)), argv)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of `dmcnn-compare`."""
    parser = command_parser("dmcnn-compare", _DESCRIPTION, _EXAMPLES)
    add = parser.add_argument
    add("models", nargs="*", metavar="[LABEL=]WEIGHTS", help="models to measure")
    add("--images", nargs="+", required=True, metavar="[LABEL=]FOLDER", help="lossless images")
    add(
        "--qualities",
        nargs="+",
        type=int,
        default=(10, 20, 30, 40),
        help="JPEG qualities (default: 10 20 30 40)",
    )
    add("--against", default="JPEG", help="row that gains refer to (default: %(default)s)")
    add(
        "--crop",
        metavar="IMAGE:TOP,LEFT,SIZE",
        help="region that pictures show (default: the middle 128 pixels of the first image)",
    )
    add("--no-plots", action="store_true", help="write tables only")
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("compare"),
        help="folder to write (default: %(default)s)",
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    for quality in options.qualities:
        if not 1 <= quality <= 100:
            raise UsageError(f"--qualities has {quality}; expected 1 to 100")
    prepare_process()
    from dmcnn_jax.evaluation import comparison, comparison_tables
    from dmcnn_jax.system.atomic_write import write_file

    # All names are checked before anything is measured.
    folders = [comparison.parse_folder(text) for text in options.images]
    entries = [comparison.parse_entry(text, options.qualities) for text in options.models]
    crop = parse_crop(options.crop, folders)
    if not options.no_plots:
        _prepare_plots()
    measured = comparison.MeasurementCache(options.output / "measured.json")
    results = comparison.compare(
        entries, folders, options.qualities, measured, against=options.against
    )
    files = {
        "table.md": comparison_tables.to_markdown(results).encode(),
        "table.csv": comparison_tables.to_csv(results).encode(),
        "results.json": comparison.to_json(results).encode(),
    }
    if entries and not options.no_plots:
        from dmcnn_jax.cli import comparison_plots

        files["flops.png"] = comparison_plots.plot_flops(results)
        files["gain.png"] = comparison_plots.plot_gain(results)
        for quality in options.qualities:
            pictures = comparison.make_crops(entries, crop[0], quality, *crop[1:])
            files[f"crop-q{quality}.png"] = comparison_plots.plot_crops(pictures, quality)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_file(options.output / name, content)
    print(files["table.md"].decode())
    print(f"written to {options.output}: {', '.join(files)}")


def parse_crop(text: str | None, folders: Sequence["Folder"]) -> tuple[Path, int, int, int]:
    """Parses IMAGE:TOP,LEFT,SIZE as the image's path and three numbers, in pixels.

    Args:
        text: IMAGE is the name of a file in `folders`, with or without its extension. None: the
            middle of the first image, at most 128 pixels wide and high.
        folders: where images are looked up.

    Raises:
        UsageError: if the text has another form, or there is no such image.
    """
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
        raise UsageError(f"--crop is {text!r}; expected IMAGE:TOP,LEFT,SIZE") from None
    if not paths or min(top, left) < 0 or size < 1:
        raise UsageError(f"--crop is {text!r}; expected the name of an image in --images as IMAGE")
    return paths[0], top, left, size


def _prepare_plots() -> None:
    """Selects a Matplotlib backend that needs no display."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            f"plots need matplotlib ({error}); pip install 'dmcnn-jax[compare]', or --no-plots"
        ) from error
    matplotlib.use("Agg")
