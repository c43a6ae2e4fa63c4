"""The command `dmcnn-gallery`: writes a page with a slider between before and after."""

import argparse
from collections.abc import Sequence

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import FAILED, OK, command_parser, say
from dmcnn_jax.cli.restore_arguments import number_between

_EXAMPLES = """examples:
  dmcnn-gallery photo.jpg clean.png           writes gallery.html
  dmcnn-gallery photos/ cleaned/ -o look.html pictures with the same names
  dmcnn-gallery photos/ photos/               pairs photo.jpg with photo-restored.png
  dmcnn-gallery photos/ cleaned/ --originals originals/   with PSNR and SSIM
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `dmcnn-gallery` and returns its exit status."""
    return run_main("dmcnn-gallery", lambda: _run(make_parser().parse_args(argv)), argv)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of `dmcnn-gallery`."""
    parser = command_parser(
        "dmcnn-gallery",
        "Makes one HTML file of JPEG files and restored pictures, with a slider between them.",
        _EXAMPLES,
    )
    add = parser.add_argument
    add("jpegs", help="a JPEG file, or a folder of JPEG files")
    add(
        "restored",
        help="the restored picture, or a folder of pictures with the same names, to which -restored"
        " may be added",
    )
    add(
        "--originals",
        metavar="PATH",
        help="the uncompressed picture, or a folder of pictures with the same names: adds PSNR,"
        " SSIM and PSNR-B",
    )
    add("-o", "--output", default="gallery.html", help="file to write (default: %(default)s)")
    add("--title", default="JPEG and restored", help="title of the page (default: %(default)s)")
    add(
        "--max-mb",
        type=number_between(float, 0, 10**6),
        default=32.0,
        help="largest size of the file, MB; beyond it, pictures from the middle of the order are"
        " left out (default: %(default).0f)",
    )
    add(
        "--crop",
        type=int,
        default=1024,
        help="longest side shown, pixels; larger pictures are cropped to their centre (default:"
        " %(default)s)",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    from dmcnn_jax.web.gallery import describe, write_gallery
    from dmcnn_jax.web.pairs import read_pairs

    skipped = 0

    def skip(reason: str) -> None:
        nonlocal skipped
        skipped += 1
        say("dmcnn-gallery", f"left out: {reason}")

    left_out = write_gallery(
        options.output,
        read_pairs(options.jpegs, options.restored, options.originals, skip=skip),
        title=options.title,
        max_bytes=int(options.max_mb * 2**20),
        crop=options.crop,
    )
    note = f"; {skipped} could not be shown, see above" if skipped else ""
    print(f"{describe(options.output, left_out)}{note}")
    return FAILED if skipped else OK
