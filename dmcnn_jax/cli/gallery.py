"""The command `dmcnn-gallery`: writes a page with a slider between before and after."""

import argparse
import sys
from collections.abc import Sequence

from dmcnn_jax.web.gallery import CROP, MAX_BYTES, describe, read_pairs, write_gallery


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; an error that a user can mend is one line and exit status 1."""
    parser = argparse.ArgumentParser(
        prog="dmcnn-gallery",
        description="Makes one HTML file of JPEG files and what they were restored to, with a "
        "slider between them.",
        epilog="examples:\n"
        "  dmcnn-gallery photo.jpg clean.png           gallery.html\n"
        "  dmcnn-gallery photos/ cleaned/ -o look.html pictures of the same names\n"
        "  dmcnn-gallery photos/ cleaned/ --originals originals/   figures too\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("jpegs", help="a JPEG file, or a folder of them")
    add("restored", help="the restored picture, or a folder with pictures of the same names")
    add("--originals", help="what the JPEG files were made from, likewise; adds figures")
    add("-o", "--output", default="gallery.html", help="default: %(default)s")
    add("--title", default="JPEG and restored", help="of the page (default: %(default)s)")
    add(
        "--max-mb",
        type=float,
        default=MAX_BYTES / 2**20,
        help="how large the file may get; the middle of the order is left out (default: "
        "%(default).0f)",
    )
    add(
        "--crop",
        type=int,
        default=CROP,
        help="largest side, pixels; of larger pictures the middle is shown (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    try:
        left_out = write_gallery(
            options.output,
            read_pairs(options.jpegs, options.restored, options.originals),
            title=options.title,
            max_bytes=int(options.max_mb * 2**20),
            crop=options.crop,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"dmcnn_jax: {error}")
    print(describe(options.output, left_out))
