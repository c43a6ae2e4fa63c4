"""The arguments of `dmcnn-restore`."""

import argparse
import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmcnn_jax.restoration.options import RestoreOptions

_EXAMPLES = """examples:
  dmcnn-restore photo.jpg                           photo-restored.png beside it
  dmcnn-restore photo.jpg -o photo.tif              PNG, TIFF, WebP or JPEG, by extension
  dmcnn-restore photo.jpg holiday/ -o cleaned/      folders too, their structure mirrored
  dmcnn-restore holiday/ -o cleaned/ --bits 16      PNG files of 16 bits
  dmcnn-restore - < photo.jpg > photo.png
  dmcnn-restore meme.jpg --assume-quality 30        was saved twice, first at 30
  dmcnn-restore --serve                             a page to drop files on
  dmcnn-restore --verify photo.jpg photo.png        could one be the original of the other?

exit status: 0 all went well, 1 some file failed (or --verify found less than is guaranteed),
2 the command makes no sense, 130 interrupted. Files that exist are left alone and not counted as
failures, unless --overwrite. Inputs are never written over.

What was compiled is kept in the user's cache folder, so that the next start is quick;
DMCNN_JAX_CACHE names another folder or, if it is empty, keeps nothing.
"""


def restore_options(namespace: argparse.Namespace) -> "RestoreOptions":
    """Returns the options of a `Restorer` that the command line sets."""
    from dmcnn_jax.restoration.options import RestoreOptions

    fields = dataclasses.fields(RestoreOptions)
    return RestoreOptions(**{field.name: getattr(namespace, field.name) for field in fields})


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of `dmcnn-restore`."""
    parser = argparse.ArgumentParser(
        prog="dmcnn-restore",
        description="Removes JPEG artifacts from photographs.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("inputs", nargs="*", metavar="INPUT", help="JPEG files; folders, recursively; - for stdin")
    add(
        "-o",
        "--output",
        metavar="PATH",
        help="a folder; for one input also a file, whose extension says its type, or - for stdout",
    )
    add(
        "--format",
        default="png",
        metavar="EXT",
        help="type of files in folders: png, tif, webp, jpg (default: %(default)s)",
    )
    add("--bits", type=int, choices=(8, 16), default=8, help="bits of a sample; 16 for PNG, TIFF")
    add(
        "--quality",
        type=_number(int, 1, 100),
        metavar="Q",
        help="of JPEG (default: 95) and WebP (default: without loss)",
    )
    add("--overwrite", action="store_true", help="replace results that exist (default: skip)")
    add(
        "--weights",
        "--model",
        metavar="NAME",
        help="a bundled model, a weights file or a workdir (default: the bundled model trained for"
        " tables like the file's; files that none is trained for are left as decoded)",
    )
    add(
        "--size",
        choices=("auto", "fast", "full"),
        default="auto",
        help="of the bundled model: fast, or full, which is better (default: full where there is an"
        " accelerator or OpenVINO)",
    )
    add(
        "--strength",
        type=_number(float, 0, 1),
        default=1.0,
        metavar="S",
        help="from 0, as decoded, to 1, all the way (default)",
    )
    add(
        "--ensemble",
        action="store_true",
        help="average over the picture turned and mirrored in eight ways: a little better, eight"
        " times slower",
    )
    add(
        "--no-project",
        dest="project",
        action="store_false",
        help="don't keep luma where it quantises to the file's coefficients",
    )
    add(
        "--no-detect",
        dest="detect",
        action="store_false",
        help="don't look for an earlier, coarser save that a later one has hidden",
    )
    add(
        "--assume-quality",
        type=_number(int, 1, 100),
        metavar="Q",
        help="take it that the pictures were saved before at this quality",
    )
    add(
        "--prior-grid",
        type=_grid,
        metavar="X,Y",
        help="where the blocks of that earlier save begin, pixels from the left and top, 0 to 7",
    )
    add(
        "--device", choices=("cpu", "cuda", "tpu"), help="where to run (default: the best there is)"
    )
    add(
        "--engine",
        choices=("auto", "jax", "openvino", "openvino-float32", "openvino-bfloat16"),
        default="auto",
        help="what computes the layers: openvino is quicker on CPUs, in bfloat16 on those that have"
        " it (default: openvino on a CPU, if it is installed, else jax)",
    )
    add("--allow-truncated", action="store_true", help="restore what there is of damaged files")
    add(
        "--max-pixels",
        type=_number(int, 1, 2**32),
        default=200_000_000,
        metavar="N",
        help="refuse larger pictures (default: 200 million)",
    )
    add("--json", metavar="PATH", help="write a report for programs; - for stdout")
    add("-q", "--quiet", action="store_true", help="say nothing but errors")
    add(
        "--verify",
        nargs=2,
        metavar=("ORIGINAL", "RESTORED"),
        help="quantise a restored picture by the tables of the JPEG file it comes from",
    )
    add(
        "--serve",
        nargs="?",
        type=_number(int, 0, 65535),
        const=0,
        metavar="PORT",
        help="show a page, for this computer only, to drop JPEG files on (default: any free port)",
    )
    return parser


def _grid(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part in "01234567" and len(part) == 1 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}; expected two offsets from 0 to 7, as in 3,5")
    return int(parts[0]), int(parts[1])


def _number(kind: type, low: float, high: float):
    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r}; expected a number from {low} to {high}")
        return value

    return parse
