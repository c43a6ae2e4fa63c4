r"""Cuts images into tiles for training and packs these, so that they open fast.

python tools/pack_images.py FOLDER -o PACK
python -m dmcnn_jax.main --config configs/qf20.py --config.data.source=PACK

For the network for photographs: each photograph three times, reduced to 0.5 to 0.8 of its size at
random, and graphics and skies drawn by code:

python tools/pack_images.py FOLDER -o PACK --luma rgb --tile 160 --scales 0.5 0.8 --copies 3 \
    --graphics 350 --skies 150
python -m dmcnn_jax.main --config configs/photo.py --config.data.source=PACK

Options that differ from the configuration's defaults must be set for training too; if one is
missing, training says which.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("pack_images: interrupted")  # imports take seconds

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import UsageError, command_parser
from dmcnn_jax.data import images, pack_sources, packs, tiles
from dmcnn_jax.system.item_progress import show_progress


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
        "--scales",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="instead of --max-short-side: reduce each image by a random factor between these, but"
        " never to less than a tile",
    )
    parser.add_argument(
        "--copies",
        type=int,
        default=1,
        help="with --scales: how many times each image is packed, each time by another factor"
        " (default: 1)",
    )
    parser.add_argument(
        "--graphics",
        type=int,
        default=0,
        metavar="COUNT",
        help="add this many graphics drawn by code, two tiles wide and high: text, screenshots,"
        " charts, drawings, pixel art, dithering and others (default: 0)",
    )
    parser.add_argument(
        "--skies",
        type=int,
        default=0,
        metavar="COUNT",
        help="add this many skies drawn by code, likewise: smooth gradients, in which JPEG makes"
        " bands (default: 0)",
    )
    parser.add_argument(
        "--compact", action="store_true", help="lossless WebP: about half the size, slower to open"
    )
    options = parser.parse_args(argv)
    interrupted = "interrupted; nothing is left of the pack"
    return run_main("pack_images", lambda: _pack(options), argv, interrupted=interrupted)


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
    _check_scales(options)
    joined, numbers = pack_sources.join_sources(
        images.open_images(options.folder),
        options.tile,
        scales=options.scales,
        copies=options.copies,
        graphics=options.graphics,
        skies=options.skies,
    )
    about = packs.write_pack(
        options.output,
        joined,
        tile=options.tile,
        luma=options.luma,
        max_short_side=0 if options.scales else options.max_short_side,
        compact=options.compact,
        copies_of=numbers,
        progress=show_progress,
    )
    size = sum(file.stat().st_size for file in Path(options.output).iterdir())
    print(
        f"{len(about['images']):,} tiles of {len(about['names']):,} images, "
        f"{size / 2**20:.1f} MiB, in {options.output!r}; "
        f"skipped: {tiles.format_counts(about['skipped'])}"
    )


def _check_scales(options: argparse.Namespace) -> None:
    if options.copies < 1:
        raise UsageError(f"--copies is {options.copies}; expected at least 1")
    for name in ("graphics", "skies"):
        count = getattr(options, name)
        if count < 0:
            raise UsageError(f"--{name} is {count}; expected 0 or a number of pictures")
    if options.scales is None:
        if options.copies > 1:
            raise UsageError("--copies needs --scales, by which copies differ")
        return
    low, high = options.scales
    if not 0 < low <= high <= 1:
        raise UsageError(f"--scales is {low} {high}; expected two numbers, 0 < LOW <= HIGH <= 1")


if __name__ == "__main__":
    sys.exit(main())
