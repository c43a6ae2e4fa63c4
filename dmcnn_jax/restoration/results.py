"""The results of restoring a file: its planes, and the picture or JPEG file rendered from them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.jpeg.double_compression import PriorCompression
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.restoration.coefficient_check import CoefficientTally
from dmcnn_jax.restoration.plane_models import luma_components


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The common properties of a restored picture and a restored JPEG file.

    Attributes:
        models: for each of the file's components, the name of the model that restored it; None if
            the plane is as decoded. If all are None, the picture is what libjpeg decodes.
        quality: the standard quality whose luma table is nearest to the file's, 1 to 100.
        luma_tally: how many luma coefficients are kept. None if the picture is as decoded, was
            restored with an earlier save's table, or has subsampled luma.
        notes: remarks for a report, one sentence each.
        prior: the earlier save whose table it was restored with; None if the file's own table was
            used.
        chroma_tally: how many chroma coefficients are kept. None for gray and RGB files, if the
            picture is as decoded, or if none could be compared.
    """

    models: tuple[str | None, ...]
    quality: int
    luma_tally: CoefficientTally | None = None
    notes: tuple[str, ...] = ()
    prior: PriorCompression | None = None
    chroma_tally: CoefficientTally | None = None

    @property
    def model(self) -> str | None:
        """Name of the model that restored luma, or R; None if it is as decoded."""
        return self.models[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restoration(Outcome):
    """A restored picture. Its chroma is averaged over the file's samples before counting.

    Attributes:
        pixels: uint8 or uint16, [height, width], [height, width, 3] (RGB) or [height, width, 4]
            (CMYK, 0 is no ink).
    """

    pixels: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class JpegRestoration(Outcome):
    """A restored JPEG file.

    Attributes:
        data: the file.
        step: the step of its table where the original's is coarser; None if nothing was rounded.
        loss: the expected loss by rounding, dB; None if nothing was rounded.
        recoverable: whether the original file can be recovered from this one, as requested by
            `JpegOptions.recoverable`. False for a file that is returned unchanged.
    """

    data: bytes
    step: int | None = None
    loss: float | None = None
    recoverable: bool = False


@dataclasses.dataclass(frozen=True)
class Planes:
    """Restored planes of a file, before they become a picture.

    Attributes:
        file: the file.
        models: as in `Restoration`.
        luma: the Y plane, or R, G and B: float32, levels 0 to 255, whole blocks. Empty if the
            picture is left as decoded.
        chroma: Cb and Cr, float32, levels 0 to 255: both at full size, or each at its own.
        notes: remarks for a report.
        prior: the earlier save whose table luma was restored with; None if the file's own table was
            used.
        parts: the planes of each part of a CMYK or YCCK file, instead of `luma` and `chroma`; empty
            for other files.
    """

    file: jpeg.JpegFile
    models: tuple[str | None, ...]
    luma: tuple[np.ndarray, ...]
    chroma: tuple[np.ndarray, ...]
    notes: tuple[str, ...]
    prior: PriorCompression | None = None
    parts: tuple["Planes", ...] = ()

    @property
    def lumas(self) -> Sequence[Component]:
        """The file's components that `luma` was restored from."""
        return luma_components(self.file)
