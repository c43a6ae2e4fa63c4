"""Makes the README's picture: a photograph, its JPEG, and the JPEG restored, labelled.

    python tools/readme_picture.py
    python tools/readme_picture.py --weights runs/mine --quality 30 -o mine.png

The photograph is scikit-image's `astronaut` (NASA, public domain; the extra train brings it). Its
face is shown three times as large; PSNR is that of the whole photograph in RGB.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("readme_picture: interrupted")  # imports take seconds

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import dmcnn_jax
from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import command_parser, prepare_process
from dmcnn_jax.data.images import packaged_images
from dmcnn_jax.images.metrics import psnr
from dmcnn_jax.system.atomic_write import write_file

_SHOWN = (slice(32, 208), slice(140, 304))  # rows and columns: multiples of 8 and 4
_SCALE = 3
_LABEL_HEIGHT = 44
_GAP = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    add = parser.add_argument
    add("--weights", help="bundled name, weights file or run's folder (default: chosen by table)")
    add("--quality", type=int, default=20, help="of the JPEG (default: %(default)s)")
    add("-o", "--output", default="docs/before_after.png", help="default: %(default)s")
    options = parser.parse_args(argv)
    return run_main("readme_picture", lambda: _write_picture(options), argv)


def _write_picture(options: argparse.Namespace) -> None:
    """Compresses, restores and measures the photograph, and writes the three panels."""
    prepare_process()
    with Image.open(next(p for p in packaged_images() if p.stem == "astronaut")) as image:
        original = np.asarray(image)
    file = io.BytesIO()
    Image.fromarray(original).save(file, "JPEG", quality=options.quality)
    restored = dmcnn_jax.restore(file.getvalue(), options.weights)
    with Image.open(file) as image:
        decoded = np.asarray(image)

    def decibels(picture: np.ndarray) -> str:
        # Channels side by side make one plane.
        return f"{psnr(original.reshape(len(original), -1), picture.reshape(len(picture), -1)):.2f}"

    panels = {
        "original": original,
        f"JPEG, quality {options.quality}: {decibels(decoded)} dB": decoded,
        f"restored: {decibels(restored)} dB": restored,
    }
    content = io.BytesIO()
    _draw_panels({label: picture[_SHOWN] for label, picture in panels.items()}).save(
        content, "PNG", optimize=True
    )
    write_file(Path(options.output), content.getvalue())
    print(f"{options.output}: {'; '.join(panels)}")


def _draw_panels(panels: dict[str, np.ndarray]) -> Image.Image:
    """Returns pictures side by side, enlarged without smoothing, each below its label.

    Args:
        panels: uint8 [H, W, 3] by label, all of one size.
    """
    height, width, _ = next(iter(panels.values())).shape
    width, height = _SCALE * width, _SCALE * height
    size = (len(panels) * (width + _GAP) - _GAP, height + _LABEL_HEIGHT)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=26)
    for number, (label, picture) in enumerate(panels.items()):
        left = number * (width + _GAP)
        enlarged = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (left, _LABEL_HEIGHT))
        place = (left + width // 2, _LABEL_HEIGHT // 2)
        draw.text(place, label, fill="black", font=font, anchor="mm")
    return sheet


if __name__ == "__main__":
    sys.exit(main())
