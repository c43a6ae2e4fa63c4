"""Measures what restoring does to graphics: text, charts, pixel art, dithering, print and so on.

    python tools/graphics.py
    python tools/graphics.py --kinds "pixel art" dithering --qualities 90 --pictures 20
    python tools/graphics.py --gray

Pictures of each kind are drawn by code from a seed, saved by Pillow (4:2:0 and 4:4:4 in turn), and
restored as dmcnn-restore does. Prints the mean and the worst change of PSNR in RGB, or of gray, dB,
and how many pictures were left as decoded.
"""

import argparse
import io
import sys
from collections.abc import Sequence

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("graphics: interrupted")  # imports take seconds

import numpy as np
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import UsageError, command_parser, prepare_process
from dmcnn_jax.evaluation import drawings
from dmcnn_jax.images.metrics import psnr
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer

# PSNR of identical pictures is infinite; and nobody sees, or measures, a difference from here on.
_CEILING = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    add = parser.add_argument
    kinds = (*drawings.GRAPHICS, *drawings.SURFACES)
    add("--kinds", nargs="+", choices=kinds, default=list(drawings.GRAPHICS), metavar="KIND")
    add("--qualities", type=int, nargs="+", default=[30, 50, 75, 90, 95], metavar="Q")
    add("--pictures", type=int, default=8, help="of each kind (%(default)s)")
    add("--gray", action="store_true", help="save gray files")
    add("--size", choices=("auto", "fast", "full"), default="auto", help="of the model")
    add("--no-trial", dest="trial", action="store_false", help="restore without trying first")
    options = parser.parse_args(argv)
    return run_main("graphics", lambda: _run(options), argv)


def _run(options: argparse.Namespace) -> None:
    if options.pictures < 1:
        raise UsageError(f"--pictures is {options.pictures}; expected at least 1")
    prepare_process()
    restorer = Restorer(None, RestoreOptions(size=options.size, trial=options.trial))
    print("mean and worst change of PSNR, dB, and pictures left as decoded")
    print(f"{'':16}" + "".join(f"{f'quality {q}':>19}" for q in options.qualities))
    for kind in options.kinds:
        cells = []
        for quality in options.qualities:
            changes, left = [], 0
            for seed in range(options.pictures):
                original = Image.fromarray(drawings.draw(kind, seed))
                sampling = seed % 2 * 2
                if options.gray:
                    original, sampling = original.convert("L"), -1
                change, as_decoded = _measure(restorer, original, quality, sampling)
                changes.append(change)
                left += as_decoded
            cells.append(f"{np.mean(changes):+6.2f} {min(changes):+6.2f} {left:2}")
        print(f"{kind:16}" + "".join(f"{cell:>19}" for cell in cells), flush=True)


def _measure(
    restorer: Restorer, original: Image.Image, quality: int, sampling: int
) -> tuple[float, bool]:
    """Returns the change in PSNR of a picture, and whether it was left as decoded.

    Args:
        restorer: restores it.
        original: in RGB or gray.
        quality: of its JPEG.
        sampling: Pillow's number of the JPEG's subsampling; -1 for gray.
    """
    buffer = io.BytesIO()
    original.save(buffer, "JPEG", quality=quality, subsampling=sampling)
    decoded = np.asarray(Image.open(buffer))
    result = restorer(jpeg.read(buffer.getvalue()))
    # Channels side by side make one plane.
    before, after = (
        min(psnr(*(p.reshape(len(p), -1) for p in (np.asarray(original), picture))), _CEILING)
        for picture in (decoded, result.pixels)
    )
    return after - before, bool(np.array_equal(decoded, result.pixels))


if __name__ == "__main__":
    sys.exit(main())
