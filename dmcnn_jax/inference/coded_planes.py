"""Planes as a file codes them, and what is done with their estimate."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dmcnn_jax.jpeg import dihedral


@dataclasses.dataclass(frozen=True)
class CodedPlanes:
    """Planes as a colour file codes them: Y, Cb and Cr, or Cb and Cr.

    Attributes:
        coefficients: k of each plane, integers [h, w, 64], natural order.
        tables: Q of each plane, integers [8, 8], natural order.
        subsampling: rows and columns of the picture to a chroma sample.
    """

    coefficients: Sequence[np.ndarray]
    tables: Sequence[np.ndarray]
    subsampling: tuple[int, int]

    def turned(self, which: int) -> "CodedPlanes":
        """Returns the planes of the picture turned by `dihedral.turn`."""
        turned = [
            dihedral.turn(k, q, which) for k, q in zip(self.coefficients, self.tables, strict=True)
        ]
        down, across = self.subsampling
        subsampling = (across, down) if which & dihedral.TRANSPOSE else (down, across)
        return CodedPlanes([k for k, _ in turned], [q for _, q in turned], subsampling)


@dataclasses.dataclass(frozen=True)
class Finish:
    """What is done with the estimate of planes.

    Attributes:
        project: whether it is projected onto the nearest planes that quantise to the file's
            coefficients.
        strength: blends the decoded planes (0) with it (1), before the projection.
    """

    project: bool = False
    strength: float = 1.0

    def settings(self) -> tuple[np.float32, np.bool_]:
        """Returns strength and projection as arguments of a compiled program."""
        return np.float32(self.strength), np.bool_(self.project)
