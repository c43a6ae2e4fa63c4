"""Restores CMYK and YCCK files, each part as a separate picture.

The planes of a CMYK file are restored like luma, each by its own table. A YCCK file holds a YCbCr
picture, which is restored like a colour file, and a plane of black.

Pixels follow Pillow's convention: 0 is no ink. The planes in files are inverted, as Adobe's
programs write them and Pillow assumes for all files: 255 is no ink. Only the YCbCr part of a YCCK
file is not inverted, since libjpeg inverts it when it converts it to C, M and Y.
"""

import copy
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.jpeg.frame import ColorModel
from dmcnn_jax.restoration.coefficient_check import CoefficientTally
from dmcnn_jax.restoration.results import Planes, Restoration
from dmcnn_jax.system.progress import Progress, scaled

if TYPE_CHECKING:
    from dmcnn_jax.restoration.restorer import Restorer


def is_inks(file: jpeg.JpegFile) -> bool:
    """Returns whether a file holds four inks for print (CMYK or YCCK)."""
    return file.color in ("cmyk", "ycck")


def restore_parts(
    restorer: "Restorer", file: jpeg.JpegFile, progress: Progress | None
) -> tuple[tuple[Planes, ...], tuple[str, ...]]:
    """Restores the planes of a CMYK or YCCK file.

    Args:
        restorer: the restorer of each part.
        file: the file.
        progress: called with the share of the work done since its last call.

    Returns:
        The planes of each part, and notes for a report.
    """
    options = restorer.options
    requested = options.assume_quality is not None or options.prior_grid is not None
    notes = ["earlier saves are not considered for CMYK files"] if requested else []
    without_detection = copy.copy(restorer)
    without_detection.options = dataclasses.replace(
        options, detect=False, assume_quality=None, prior_grid=None
    )
    parts = []
    for part in _split(file):
        share = len(part.components) / len(file.components)
        parts.append(without_detection.restore_planes(part, scaled(progress, share)))
    for planes in parts:
        notes += planes.notes
    return tuple(parts), (*file.notes, *dict.fromkeys(notes))


def decoded_parts(file: jpeg.JpegFile) -> tuple[Planes, ...]:
    """Returns the parts of a CMYK or YCCK file that is left as decoded; none of another file."""
    if not is_inks(file):
        return ()
    return tuple(Planes(part, (None,) * len(part.components), (), (), ()) for part in _split(file))


def render_parts(restorer: "Restorer", planes: Planes) -> Restoration:
    """Renders a picture from the parts that `restore_parts` returned.

    Args:
        restorer: the restorer of each part.
        planes: the file's planes, with its parts.

    Returns:
        The picture: uint8 or uint16, [height, width, 4] (CMYK, 0 is no ink).
    """
    parts = [restorer.render(part) for part in planes.parts]
    channels = [np.atleast_3d(part.pixels) for part in parts]
    pixels = np.concatenate(channels, axis=-1)
    full = np.iinfo(pixels.dtype).max
    inverted = slice(3, 4) if planes.file.color == "ycck" else slice(None)
    np.subtract(full, pixels[..., inverted], out=pixels[..., inverted])
    return dataclasses.replace(
        parts[0],
        pixels=pixels,
        models=planes.models,
        luma_tally=_total([part.luma_tally for part in parts]),
        notes=planes.notes,
    )


def _split(file: jpeg.JpegFile) -> tuple[jpeg.JpegFile, ...]:
    """Returns the parts of a file: YCbCr and black, or four gray pictures."""
    colors: list[ColorModel] = ["gray"] * 4 if file.color == "cmyk" else ["ycbcr", "gray"]
    parts = []
    rest = file.components
    for color in colors:
        size = 3 if color == "ycbcr" else 1
        parts.append(dataclasses.replace(file, color=color, components=rest[:size], notes=()))
        rest = rest[size:]
    return tuple(parts)


def _total(tallies: Sequence[CoefficientTally | None]) -> CoefficientTally | None:
    """Returns the sum of the tallies that are not None; None if all are."""
    found = [tally for tally in tallies if tally is not None]
    return sum(found, CoefficientTally()) if found else None
