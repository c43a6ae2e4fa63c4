"""The arguments of `dmcnn-restore`."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from dmcnn_jax.cli.process import command_parser

if TYPE_CHECKING:
    from dmcnn_jax.restoration.jpeg_options import JpegOptions
    from dmcnn_jax.restoration.options import RestoreOptions

_EXAMPLES = """examples:
  dmcnn-restore photo.jpg                           photo-restored.png beside it
  dmcnn-restore photo.jpg -o photo.tif              PNG, TIFF, WebP or JPEG, by extension
  dmcnn-restore photo.jpg -o restored.jpg           JPEG: small, with all that the file carries
  dmcnn-restore photo.jpg --suffix _clean           photo_clean.png beside it
  dmcnn-restore holiday/                            holiday-restored/ beside it
  dmcnn-restore photo.jpg holiday/ -o cleaned/      files and folders; subfolders are kept
  dmcnn-restore may/ june/ -o cleaned/              cleaned/may/ and cleaned/june/
  dmcnn-restore holiday/ -o cleaned/ --bits 16      16-bit PNG files
  dmcnn-restore - < photo.jpg > photo.png           standard input and output
  dmcnn-restore meme.jpg --assume-quality 30        it was first saved at quality 30
  dmcnn-restore --in-place archive/                 each JPEG replaced, its original kept beside
  dmcnn-restore --undo archive/                     the originals put back
  dmcnn-restore --serve                             a local web page to drop files on
  dmcnn-restore --verify photo.jpg photo.png        could photo.png be the original?

exit status: 0 all files are done, 1 a file failed (or --verify found less than is guaranteed), 2
the arguments are wrong, 130 interrupted. Existing results are skipped, which is not a failure,
unless --overwrite is given. Only --in-place replaces inputs, and keeps them as originals.

Compiled programs are cached in the user's cache folder, so that the next start is quick. The
environment variable DMCNN_JAX_CACHE names another folder; if it is empty, nothing is cached.
"""


def restore_options(namespace: argparse.Namespace) -> "RestoreOptions":
    """Returns the options of a `Restorer` that the command line sets."""
    from dmcnn_jax.restoration.options import RestoreOptions

    fields = dataclasses.fields(RestoreOptions)
    return RestoreOptions(**{field.name: getattr(namespace, field.name) for field in fields})


def jpeg_options(namespace: argparse.Namespace) -> "JpegOptions":
    """Returns the options of JPEG files that the command line sets."""
    from dmcnn_jax.restoration.jpeg_options import JpegOptions

    budget = namespace.budget or {}
    return JpegOptions(
        **budget,
        full_chroma=namespace.subsampling == "4:4:4",
        recoverable=getattr(namespace, "originals", None) == "inside",
    )


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of `dmcnn-restore`."""
    parser = command_parser("dmcnn-restore", "Removes JPEG artifacts from photographs.", _EXAMPLES)
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="JPEG files, or lossless files of their pixels (PNG, WebP, BMP, TIFF); folders,"
        " recursively; - for stdin",
    )
    _add_output_options(parser.add_argument_group("output").add_argument)
    add_restoration = parser.add_argument_group("restoration").add_argument
    add_restoring_options(add_restoration)
    add_restoration(
        "--decoded",
        action="store_true",
        help="also restore PNG, lossless WebP, BMP and TIFF files in folders, if their pixels"
        " reveal the JPEG files they were decoded from (default: only such files that are named)",
    )
    add_earlier_save_options(parser.add_argument_group("earlier saves").add_argument)
    _add_running_options(parser.add_argument_group("running").add_argument)
    _add_other_modes(parser.add_argument_group("instead of restoring files").add_argument)
    return parser


def _add_output_options(add: Callable[..., argparse.Action]) -> None:
    add(
        "-o",
        "--output",
        metavar="PATH",
        help="folder for the results (default: photo-restored.png and holiday-restored/ beside the"
        " inputs); for a single input also a file, whose extension gives the type, or - for stdout."
        " Several input folders get one folder each in it",
    )
    add(
        "--suffix",
        metavar="TEXT",
        help="suffix of the results' names, such as _clean for photo_clean.png, and of the names"
        " of folders beside the inputs (default: -restored; with -o, none)",
    )
    add_format_options(add)
    add(
        "--preserve-times",
        action="store_true",
        help="give results the modification times of their inputs (default: the time of writing)",
    )
    add("--overwrite", action="store_true", help="replace existing results (default: skip them)")
    add("--json", metavar="PATH", help="write a machine-readable report; - for stdout")
    add(
        "--in-place",
        action="store_true",
        help="replace each JPEG file by its restored JPEG file, and keep the original",
    )
    add(
        "--originals",
        metavar="WHERE",
        help="place where --in-place keeps originals and --undo finds them: beside (default:"
        " photo.jpg is kept as photo.jpg_original); inside the restored file, which takes a few"
        " hundred bytes, or beside where that is impossible; or a folder, in which originals keep"
        " their paths relative to the folder that contains it",
    )


def add_format_options(add: Callable[..., argparse.Action]) -> None:
    """Adds the options of the output's format."""
    add(
        "--format",
        metavar="EXT",
        help="type of the files written to folders: png, tif, webp, jpg (default: png);"
        " CMYK files are written as tif, unless the type is jpg",
    )
    add("--bits", type=int, choices=(8, 16), default=8, help="bits per sample; 16 for PNG, TIFF")
    add(
        "--quality",
        type=number_between(int, 1, 100),
        metavar="Q",
        help="quality of WebP (default: lossless), and of JPEG files whose pixels are compressed"
        " again (default: restored coefficients are written, and the file's other contents are"
        " kept)",
    )
    add(
        "--budget",
        type=_budget,
        metavar="LOSS",
        help="limit on a JPEG file's loss from rounding, such as 0.1dB (default), or on its size,"
        " such as 300kB",
    )
    add(
        "--subsampling",
        choices=("4:4:4",),
        help="write a JPEG file's chroma at full size, at which it was restored (default: at its"
        " size in the input)",
    )
    add(
        "--upright",
        action="store_true",
        help="turn the pixels by the camera's orientation, and reset it (default: both are kept,"
        " and viewers turn the picture)",
    )


def add_restoring_options(add: Callable[..., argparse.Action]) -> None:
    """Adds the options of restoring."""
    add(
        "--weights",
        "--model",
        metavar="NAME",
        help="a bundled model, a weights file or the folder of a training run (default: the bundled"
        " model trained for quantisation tables like the file's; a plane that no model was trained"
        " for is only decoded)",
    )
    add(
        "--size",
        choices=("auto", "fast", "full"),
        default="auto",
        help="size of the bundled model: fast, or full, which restores better (default: full with"
        " an accelerator or OpenVINO)",
    )
    add(
        "--strength",
        type=number_between(float, 0, 1),
        default=1.0,
        metavar="S",
        help="blend the restored picture with the JPEG: 0 is the decoded JPEG, 1 the restored"
        " picture (default)",
    )
    add(
        "--ensemble",
        action="store_true",
        help="average over the eight rotations and reflections: slightly better, eight times"
        " slower",
    )
    add(
        "--no-project",
        dest="project",
        action="store_false",
        help="don't project the restored planes into the quantisation intervals of the file's"
        " coefficients",
    )
    add(
        "--no-trial",
        dest="trial",
        action="store_false",
        help="skip the trial, which restores parts of the picture to see whether restoring helps;"
        " pixel art comes out worse without it",
    )
    add(
        "--allow-truncated",
        action="store_true",
        help="restore truncated or damaged files as far as they can be read",
    )


def add_earlier_save_options(add: Callable[..., argparse.Action]) -> None:
    """Adds the options of an earlier save."""
    add(
        "--no-detect",
        dest="detect",
        action="store_false",
        help="don't look for an earlier save at lower quality",
    )
    add(
        "--assume-quality",
        type=number_between(int, 1, 100),
        metavar="Q",
        help="assume that the pictures were saved at this quality before",
    )
    add(
        "--prior-grid",
        type=_grid,
        metavar="X,Y",
        help="offset of the earlier save's blocks: pixels from the left and the top, 0 to 7",
    )


def _add_running_options(add: Callable[..., argparse.Action]) -> None:
    add(
        "--device",
        choices=("cpu", "cuda", "tpu"),
        help="device that runs the networks (default: an accelerator, if there is one)",
    )
    add_engine_options(add)
    add("-q", "--quiet", action="store_true", help="print errors only")


def add_engine_options(add: Callable[..., argparse.Action]) -> None:
    """Adds the options of the engine, and of limits."""
    add(
        "--engine",
        choices=("auto", "jax", "openvino", "openvino-float32", "openvino-bfloat16"),
        default="auto",
        help="library that computes the network's layers: openvino is faster on CPUs, in bfloat16"
        " where that helps (default: openvino on a CPU, if it is installed, else jax)",
    )
    add(
        "--max-pixels",
        type=number_between(int, 1, 2**32),
        default=200_000_000,
        metavar="N",
        help="reject pictures with more pixels (default: 200 million)",
    )


def _add_other_modes(add: Callable[..., argparse.Action]) -> None:
    add(
        "--verify",
        nargs=2,
        metavar=("ORIGINAL", "RESTORED"),
        help="check that quantising a restored picture again, or a restored JPEG file's"
        " coefficients, yields the original's coefficients",
    )
    add(
        "--undo",
        action="store_true",
        help="put back the originals of files that --in-place replaced, unless the files were"
        " changed since",
    )
    add(
        "--serve",
        nargs="?",
        type=number_between(int, 0, 65535),
        const=0,
        metavar="PORT",
        help="serve a web page, for this computer only, to drop JPEG files on (default: any free"
        " port)",
    )


def _budget(text: str) -> dict[str, float | int | None]:
    from dmcnn_jax.restoration.jpeg_options import parse_budget

    try:
        return parse_budget(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _grid(text: str) -> tuple[int, int]:
    """Parses "X,Y" as two offsets from 0 to 7."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part in "01234567" and len(part) == 1 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}; expected two offsets from 0 to 7, as in 3,5")
    return int(parts[0]), int(parts[1])


def number_between(
    kind: type[int] | type[float], low: float, high: float
) -> Callable[[str], int | float]:
    """Returns a parser of numbers from `low` to `high`."""

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r}; expected a number from {low} to {high}")
        return value

    return parse
