"""Checks that a folder holds the images that figures were measured on, by checksums of pixels.

    python tools/checksums.py LIVE1 --check docs/live1.txt
    python tools/checksums.py FOLDER > mine.txt

A checksum is the SHA-256 of the RGB pixels, row by row, so it doesn't depend on the file format.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from dmcnn_jax.data import images


def main(argv: Sequence[str] | None = None) -> None:
    """Prints checksums, or compares them; exit status 1 if any is missing or differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="folder of images")
    parser.add_argument("--check", type=Path, metavar="FILE", help="checksums to compare with")
    options = parser.parse_args(argv)
    try:
        found = dict(_checksum(path) for path in images.list_images(options.folder))
        if options.check is None:
            print("\n".join(f"{line}  {name}" for name, line in found.items()))
            return
        expected = dict(_parse(line) for line in options.check.read_text().splitlines() if line)
    except (ValueError, OSError) as error:
        sys.exit(f"checksums: {error}")
    wrong = [f"{name} is missing" for name in expected.keys() - found.keys()]
    wrong += [
        f"{name} differs" for name in found.keys() & expected if found[name] != expected[name]
    ]
    wrong += [f"{name} is not in the list" for name in found.keys() - expected.keys()]
    if wrong:
        sys.exit("checksums: " + "; ".join(sorted(wrong)))
    print(f"all {len(expected)} images are those of {options.check}")


def _checksum(path: Path) -> tuple[str, str]:
    """Returns the name of an image, and its checksum and size."""
    pixels = images.read_rgb(path)
    height, width, _ = pixels.shape
    return path.stem, f"{hashlib.sha256(pixels.tobytes()).hexdigest()}  {width}x{height}"


def _parse(line: str) -> tuple[str, str]:
    """Returns the same of a printed line."""
    checksum, size, name = line.split(maxsplit=2)
    return name, f"{checksum}  {size}"


if __name__ == "__main__":
    main()
