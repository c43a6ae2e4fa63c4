"""Cuts images into tiles for training and packs these, so that they open fast.

python tools/pack_images.py FOLDER -o PACK
python -m dmcnn_jax.main --config configs/qf20.py --config.data.source=PACK

Options that differ from the configuration's defaults must be set for training too; if one is
missing, training says which.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from dmcnn_jax.cli.process import UsageError, command_parser, run_command
from dmcnn_jax.data import images, packs, tiles


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    parser.add_argument("folder", help='folder of images, searched recursively; or "packaged"')
    parser.add_argument("-o", "--output", required=True, help="folder to write")
    parser.add_argument(
        "--tile", type=int, default=256, help="side of a tile, pixels (default: 256)"
    )
    parser.add_argument(
        "--luma",
        choices=("studio", "full", "rgb"),
        default="studio",
        help="content of tiles: luma of 16 to 235 (studio) or of 0 to 255 (full), or RGB for the"
        " network for chroma (default: studio)",
    )
    parser.add_argument(
        "--max-short-side",
        type=int,
        default=512,
        help="reduce larger images to this shorter side first, pixels, which removes most artifacts"
        " of their own; 0: never (default: 512)",
    )
    parser.add_argument(
        "--compact", action="store_true", help="lossless WebP: about half the size, slower to open"
    )
    options = parser.parse_args(argv)
    interrupted = "interrupted; nothing is left of the pack"
    return run_command("pack_images", lambda: _pack(options), interrupted=interrupted)


def _pack(options: argparse.Namespace) -> None:
    if options.tile < 8 or options.tile % 8:
        raise UsageError(f"--tile is {options.tile}; expected a multiple of 8")
    if options.max_short_side < 0:
        raise UsageError(
            f"--max-short-side is {options.max_short_side}; expected 0 or a number of pixels"
        )
    if 0 < options.max_short_side < options.tile:
        raise UsageError(
            f"--tile is {options.tile}; expected at most --max-short-side "
            f"({options.max_short_side}), which images are reduced to first"
        )
    about = packs.write_pack(
        options.output,
        images.open_images(options.folder),
        tile=options.tile,
        luma=options.luma,
        max_short_side=options.max_short_side,
        compact=options.compact,
        progress=lambda items, total: tqdm(items, total=total, unit="image"),
    )
    size = sum(file.stat().st_size for file in Path(options.output).iterdir())
    print(
        f"{len(about['images']):,} tiles of {len(about['names']):,} images, "
        f"{size / 2**20:.1f} MiB, in {options.output!r}; "
        f"skipped: {tiles.format_counts(about['skipped'])}"
    )


if __name__ == "__main__":
    sys.exit(main())
