"""The sample picture of an evaluation: a few photographs, their JPEGs, and restored pictures."""

import os
from collections.abc import Mapping

import numpy as np
from PIL import Image

from dmcnn_jax.images import labels
from dmcnn_jax.system.atomic_write import replacing

# Number of photographs shown, and the longest side shown of each.
_COUNT, _SIDE = 3, 512


class Samples:
    """The first photographs of an evaluation; large ones are cropped to the middle."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[str, np.ndarray]]] = {}

    def add(
        self,
        name: str,
        original: np.ndarray,
        planes: Mapping[str, np.ndarray],
        measured: Mapping[str, Mapping[str, float]],
    ) -> None:
        """Adds a picture if it belongs to a new photograph and there is room.

        Args:
            name: of the picture; that of a tile has its number in brackets after the photograph's.
            original: uint8 [H, W].
            planes: its "jpeg" and the "model"'s output, of the same shape.
            measured: their figures, of which "psnr" is shown, of the whole picture.
        """
        photograph = name.partition(" [")[0]
        if photograph in self._rows or len(self._rows) == _COUNT:
            return
        psnrs = [measured[key]["psnr"] for key in ("jpeg", "model")]
        shown = [_middle(plane) for plane in (original, planes["jpeg"], planes["model"])]
        self._rows[photograph] = labels.original_jpeg_restored(
            shown[0], shown[1], shown[2], psnrs, photograph
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes them as an 8-bit PNG, whole or not at all.

        Args:
            path: of the PNG file.
        """
        picture = labels.arrange(list(self._rows.values()))
        with replacing(path) as file:
            Image.fromarray(picture).save(file, format="png")


def _middle(plane: np.ndarray) -> np.ndarray:
    """Returns a copy of the middle of a plane."""
    top, left = (max(0, side - _SIDE) // 2 for side in plane.shape)
    return plane[top : top + _SIDE, left : left + _SIDE].copy()
