"""Measures what pictures lose at their borders, beyond which a network sees nothing.

    python tools/borders.py FOLDER --limit 24

Photographs of the folder are downscaled, which removes traces of their own compression, saved by
Pillow in colour, 4:2:0, and restored as dmcnn-restore does, twice: whole, and without their outer
32 pixels. Cropped along blocks, the JPEG is the same, so that the outer pixels of the crop can be
compared with the same pixels where they have surroundings. Prints the gain in PSNR over the JPEG,
dB, of both, in the outer 4 and 8 pixels of the crop and in the rest, for luma, chroma and RGB.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("borders: interrupted")  # imports take seconds

import numpy as np
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import UsageError, command_parser, prepare_process
from dmcnn_jax.data.images import find_images
from dmcnn_jax.images.color import rgb_to_ycbcr
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer

_SCALE, _MARGIN = 0.6, 32
# Shorter side, pixels, that leaves some picture within the margin and the outer 8 pixels.
_SMALLEST = 200


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    add = parser.add_argument
    add("folder", help="folder of photographs, searched recursively, or `packaged`")
    add("--limit", type=int, default=24, help="number of pictures, spread evenly (%(default)s)")
    add("--qualities", type=int, nargs="+", default=[10, 30, 70], metavar="Q")
    add("--size", choices=("auto", "fast", "full"), default="auto", help="of the model")
    options = parser.parse_args(argv)
    return run_main("borders", lambda: _run(options), argv)


def _run(options: argparse.Namespace) -> None:
    if options.limit < 1:
        raise UsageError(f"--limit is {options.limit}; expected at least 1")
    paths = [path for path in find_images(options.folder).values() if _is_large_enough(path)]
    if not paths:
        raise ValueError(
            f"no picture in {options.folder!r} has {_SMALLEST} pixels a side; expected at least one"
        )
    chosen = np.linspace(0, len(paths) - 1, min(options.limit, len(paths))).astype(int)
    prepare_process()
    restorer = Restorer(None, RestoreOptions(size=options.size))
    print(f"gain of {len(chosen)} pictures, dB: outer 4 pixels, outer 8, the rest")
    for quality in options.qualities:
        gains = np.mean([_gains(restorer, paths[i], quality) for i in chosen], axis=0)
        for how, planes in zip(("at the border", "surrounded"), gains, strict=True):
            cells = (
                f"{name} " + " ".join(f"{gain:+.3f}" for gain in row)
                for name, row in zip(("luma", "chroma", "RGB"), planes, strict=True)
            )
            print(f"quality {quality}, {how:13}  " + "   ".join(cells), flush=True)


def _is_large_enough(path: Path) -> bool:
    with Image.open(path) as image:
        return min(image.size) >= _SMALLEST


def _gains(restorer: Restorer, path: Path, quality: int) -> np.ndarray:
    """Returns the gains of a picture.

    Returns:
        float64 [at the border or surrounded; luma, chroma or RGB; outer 4, outer 8 or the rest].
    """
    with Image.open(path) as image:
        image = image.convert("RGB")
    size = [round(_SCALE * side) // 16 * 16 for side in image.size]
    original = np.asarray(image.resize((size[0], size[1]), Image.Resampling.LANCZOS))
    inner = (slice(_MARGIN, -_MARGIN), slice(_MARGIN, -_MARGIN))
    whole, cropped = _save(original, quality), _save(original[inner], quality)
    decoded = np.asarray(Image.open(io.BytesIO(cropped)))
    surrounded = restorer(jpeg.read(whole)).pixels[inner]
    alone = restorer(jpeg.read(cropped)).pixels
    inside = np.zeros((2, *decoded.shape[:2]), bool)
    inside[0, 4:-4, 4:-4] = inside[1, 8:-8, 8:-8] = True
    regions = (~inside[0], ~inside[1], inside[1])
    before, *after = (_errors(picture, original[inner]) for picture in (decoded, alone, surrounded))
    return np.array(
        [
            [
                [_gain(*planes, region) for region in regions]
                for planes in zip(before, restored, strict=True)
            ]
            for restored in after
        ]
    )


def _save(pixels: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _errors(picture: np.ndarray, original: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns the errors of luma, chroma and RGB: float64 [height, width, 1, 2 or 3]."""
    rgb = picture.astype(np.float64) - original
    ycbcr = rgb_to_ycbcr(rgb, "full") - (0, 128, 128)
    return ycbcr[..., :1], ycbcr[..., 1:], rgb


def _gain(before: np.ndarray, after: np.ndarray, region: np.ndarray) -> float:
    """Returns the gain in PSNR within a region, dB, from two errors."""
    squares = [np.square(error[region]).mean() for error in (before, after)]
    return float(10 * np.log10(squares[0] / squares[1]))


if __name__ == "__main__":
    sys.exit(main())
