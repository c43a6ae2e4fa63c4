"""Cuts a folder of images into tiles, as a pack that training opens at once.

    python tools/pack_images.py FOLDER -o PACK
    python -m dmcnn_jax.main --config configs/qf20.py --config.data.source=PACK

--tile and --luma have to agree with config.data.tile and config.data.luma; training checks them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from dmcnn_jax.data import images, packs, tiles


def main(argv: Sequence[str] | None = None) -> None:
    """Writes a pack; an error is one line and exit status 1, an interrupt 130."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help='folder of images, or "packaged"')
    parser.add_argument("-o", "--output", required=True, help="folder to make")
    parser.add_argument(
        "--tile", type=int, default=256, help="side of the tiles, pixels (default: 256)"
    )
    parser.add_argument(
        "--luma",
        choices=("studio", "full", "rgb"),
        default="studio",
        help="luma of 16 to 235 (studio) or 0 to 255 (full), or rgb for networks of chroma "
        "(default: studio)",
    )
    parser.add_argument(
        "--max-short-side",
        type=int,
        default=512,
        help="reduce images to this shorter side first, which removes their own JPEG artifacts, "
        "pixels; 0: never (default: 512)",
    )
    parser.add_argument(
        "--compact", action="store_true", help="lossless WebP: less than half the bytes, slower"
    )
    options = parser.parse_args(argv)
    try:
        pack(options)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"pack_images: {error}")
    except KeyboardInterrupt:
        print("pack_images: interrupted; nothing is left of the pack", file=sys.stderr)
        sys.exit(130)


def pack(options: argparse.Namespace) -> None:
    """Writes a pack as the options say, and prints the number of tiles and what was skipped.

    Raises:
        ValueError: if an option is out of range, or no image gives a tile.
        OSError: if the folder can't be read, or the pack can't be written.
    """
    if options.tile < 8 or options.tile % 8:
        raise ValueError(f"--tile is {options.tile}; expected a multiple of 8")
    if options.max_short_side < 0:
        raise ValueError(
            f"--max-short-side is {options.max_short_side}; expected 0 or a number of pixels"
        )
    if 0 < options.max_short_side < options.tile:
        raise ValueError(
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
    main()
