"""Sets gray pictures side by side, with a label above each."""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 8
_STRIP = 18
_SIZE = 12
_WHITE = 255


@functools.cache
def default_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns Pillow's own font, so that pictures are equal on every machine.

    Args:
        size: height of the letters, pixels.
    """
    return ImageFont.load_default(size)


def arrange(rows: Sequence[Sequence[tuple[str, np.ndarray]]]) -> np.ndarray:
    """Arranges pictures in rows, on white, each below its label.

    Args:
        rows: labels and pictures, uint8 [H, W], of each row; those of a row have one height.

    Returns:
        uint8 [height, width].
    """
    strips = [np.hstack([_labelled(*part) for part in row])[:, :-_GAP] for row in rows]
    width = max(strip.shape[1] for strip in strips)
    return np.vstack([_pad(strip, strip.shape[0] + _GAP, width) for strip in strips])[:-_GAP]


def original_jpeg_restored(
    original: np.ndarray, jpeg: np.ndarray, restored: np.ndarray, psnrs: Sequence[float], name: str
) -> list[tuple[str, np.ndarray]]:
    """Returns a row of `arrange`: a picture, its JPEG and the restored picture.

    Args:
        original: uint8 [H, W].
        jpeg: the same.
        restored: the same.
        psnrs: of the JPEG and of the restored picture, dB.
        name: of the picture; may be empty.
    """
    return [
        (f"original {name}".strip(), original),
        (f"JPEG {psnrs[0]:.2f} dB", jpeg),
        (f"restored {psnrs[1]:.2f} dB", restored),
    ]


def _labelled(label: str, picture: np.ndarray) -> np.ndarray:
    """Puts a strip with the label above a picture, and a gap to its right."""
    strip = Image.new("L", (picture.shape[1], _STRIP), _WHITE)
    ImageDraw.Draw(strip).text((0, 2), label, 0, default_font(_SIZE))
    stacked = np.vstack([np.asarray(strip), picture])
    return _pad(stacked, stacked.shape[0], stacked.shape[1] + _GAP)


def _pad(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Adds white below and to the right, up to a size."""
    below, right = height - picture.shape[0], width - picture.shape[1]
    return np.pad(picture, ((0, below), (0, right)), constant_values=_WHITE)
