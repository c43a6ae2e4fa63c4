"""Prints or checks the checksums of images, to tell whether test sets are the same.

    python tools/checksums.py LIVE1 --check docs/live1.txt
    python tools/checksums.py FOLDER > mine.txt

A checksum is the SHA-256 of the RGB pixels, row by row: it doesn't depend on how the file is
compressed.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("checksums: interrupted")  # imports take seconds

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import command_parser
from dmcnn_jax.data import images

_NAMED = 8  # images that a message names


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status: 1 if an image is missing or differs."""
    parser = command_parser(None, __doc__)
    parser.add_argument("folder", help="folder of images")
    parser.add_argument("--check", type=Path, metavar="FILE", help="checksums to compare with")
    options = parser.parse_args(argv)
    return run_main("checksums", lambda: _run(options), argv)


def _run(options: argparse.Namespace) -> None:
    found = dict(_checksum(path) for path in images.list_images(options.folder))
    if options.check is None:
        print("\n".join(f"{line}  {name}" for name, line in found.items()))
        return
    expected = dict(_parse(line) for line in options.check.read_text().splitlines() if line)
    wrong = [f"{name} is missing" for name in expected.keys() - found.keys()]
    wrong += [f"{name} is not in the list" for name in found.keys() - expected.keys()]
    both = found.keys() & expected.keys()
    wrong += [f"{name} differs" for name in both if found[name] != expected[name]]
    if wrong:
        more = f"; and {len(wrong) - _NAMED:,} more" if len(wrong) > _NAMED else ""
        raise ValueError("; ".join(sorted(wrong)[:_NAMED]) + more)
    print(f"all {len(expected)} images are those of {options.check}")


def _checksum(path: Path) -> tuple[str, str]:
    """Returns an image's name, and its checksum and size."""
    pixels = images.read_rgb(path)
    height, width, _ = pixels.shape
    return path.stem, f"{hashlib.sha256(pixels.tobytes()).hexdigest()}  {width}x{height}"


def _parse(line: str) -> tuple[str, str]:
    """Parses a line that this script printed, as name, and checksum and size."""
    checksum, size, name = line.split(maxsplit=2)
    return name, f"{checksum}  {size}"


if __name__ == "__main__":
    sys.exit(main())
