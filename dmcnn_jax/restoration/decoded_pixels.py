"""Recovers the coefficients of a JPEG file from the pixels that were decoded from it.

Grid and tables are estimated from the pixels (`jpeg.decoded_plane`, `jpeg.lattice`), in colour
after chroma's upsampling is undone (`chroma_sampling`). Then coefficients are fitted to the pixels
(`coefficient_fit`). The share of pixels that come back exactly is the proof.
"""

import dataclasses

import numpy as np

from dmcnn_jax.images import color
from dmcnn_jax.jpeg.decoded_plane import (
    NOISE_SIZE,
    ROUNDING_NOISE,
    distinct_coefficients,
    find_grid,
)
from dmcnn_jax.jpeg.lattice import TableEstimate, estimate_table, step_evidence
from dmcnn_jax.jpeg.reader import Component, decode_plane
from dmcnn_jax.jpeg.resampling import upsample
from dmcnn_jax.jpeg.tables import nearest_quality
from dmcnn_jax.restoration.chroma_sampling import sampling_hypotheses
from dmcnn_jax.restoration.coefficient_fit import CoefficientFit, join_planes
from dmcnn_jax.system.progress import Progress, check

MIN_EXACT = 0.9
"""The least share of pixels that must come back exactly, but for those near the border."""

# With this share, no other sampling of chroma is tried.
_SURELY_EXACT = 0.995

# Where cropping has cut blocks, or samples of chroma, pixels are uncertain.
_BORDER = 16

# The evidence, in nats, from which pixels may be those of a JPEG file.
_MIN_EVIDENCE = 60.0

# The evidence for each AC coefficient, on average: 0.47 and more in decoded files up to quality 98,
# 0.09 and less in other pictures. With steps of 1, any pixels come back.
_MIN_MEAN_EVIDENCE = 0.2

# The least share of unclipped colours that are images of whole YCbCr values. All are in a decoded
# file, and a quarter in other pictures.
_MIN_YCBCR = 0.6

# Levels by which pixels of a block that comes back may differ: other decoders round differently.
_SAME = 2


class NotDecodedError(ValueError):
    """The pixels don't show the JPEG file that they came from, for the reason given."""


@dataclasses.dataclass(frozen=True, eq=False)
class Recovery:
    """What was recovered of a JPEG file.

    Attributes:
        components: as the file held them. The picture begins `margins` from their corner.
        margins: rows and columns that cropping has cut from the first blocks.
        exact: share of pixels that come back exactly, 0 to 1.
        trusted: bool [rows, columns] of 8 x 8 blocks: those whose pixels come back, to within two
            levels. The others were changed after decoding, or not recovered.
        tables: the estimates of luma's and, in colour, chroma's tables.
    """

    components: tuple[Component, ...]
    margins: tuple[int, int]
    exact: float
    trusted: np.ndarray
    tables: tuple[TableEstimate, ...]

    @property
    def quality(self) -> int:
        """The quality whose standard luma table is nearest to the file's, 1 to 100."""
        return nearest_quality(self.components[0].table)


def recover(pixels: np.ndarray, progress: Progress | None = None) -> Recovery:
    """Recovers the file that pixels were decoded from.

    Args:
        pixels: uint8 [height, width], or [height, width, 3] (RGB).
        progress: called now and then, with 0; what it raises ends the work.

    Returns:
        Its coefficients and tables, with a proof.

    Raises:
        NotDecodedError: if the pixels don't show a JPEG compression, or too few of them come back.
    """
    planes, unclipped = _planes_of(pixels)
    left, top, _ = find_grid(planes[0])
    check(progress)
    x = distinct_coefficients(planes[0][top:, left:], unclipped[top:, left:])
    luma = estimate_table(step_evidence(x, ROUNDING_NOISE))
    count = np.count_nonzero(np.abs(x[:, 1:]) > NOISE_SIZE)
    if luma.evidence < max(_MIN_EVIDENCE, _MIN_MEAN_EVIDENCE * count):
        raise NotDecodedError(
            "no JPEG compression found in its pixels: it was never compressed, or changed since,"
            " as by scaling or filters"
        )
    best, most = None, -1.0
    for sampling, tables in sampling_hypotheses(planes, unclipped, left, top, luma):
        check(progress)
        components = CoefficientFit(pixels, planes, unclipped, sampling, tables).components()
        error = _errors_of(pixels, components, sampling.margins)
        inner = error[_BORDER:-_BORDER, _BORDER:-_BORDER]
        exact = float(np.mean((inner if inner.size else error) == 0))
        if exact > most:
            trusted = _trusted_blocks(error, sampling.margins)
            best = Recovery(
                components, sampling.margins, float(np.mean(error == 0)), trusted, tables
            )
            most = exact
        if exact >= _SURELY_EXACT:
            break
    if best is None or most < MIN_EXACT:
        raise NotDecodedError(
            f"JPEG compression at about quality {nearest_quality(luma.table)} shows in its pixels,"
            f" but only {most:.0%} of them come back by decoding it again; expected"
            f" {MIN_EXACT:.0%}: they were changed since, as by scaling, filters or another"
            " compression"
        )
    return best


def _planes_of(pixels: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns a picture's planes, uint8, and which pixels were surely not clipped."""
    if pixels.ndim == 2:
        return [pixels], (pixels > 0) & (pixels < 255)
    unclipped = np.asarray(((pixels > 0) & (pixels < 255)).all(axis=-1))
    ycbcr = color.rgb_to_ycbcr(pixels, "full")
    same = (color.ycbcr_to_rgb(ycbcr, "full") == pixels).all(axis=-1)
    share = same[unclipped].mean() if unclipped.any() else 1.0
    if share < _MIN_YCBCR:
        raise NotDecodedError(
            f"no JPEG compression found in its pixels: only {share:.0%} of their colours are ones"
            f" that decoders of JPEG files give; expected {_MIN_YCBCR:.0%}. It was never"
            " compressed, or was changed since, as by scaling or filters"
        )
    return [np.ascontiguousarray(ycbcr[..., c]) for c in range(3)], unclipped


def _errors_of(
    pixels: np.ndarray, components: tuple[Component, ...], margins: tuple[int, int]
) -> np.ndarray:
    """Returns by how much pixels differ from the decoded components: int16 [height, width]."""
    above, before = margins
    height, width = pixels.shape[0] + above, pixels.shape[1] + before
    full = [upsample(decode_plane(c), c.subsampling)[:height, :width] for c in components]
    error = np.abs(pixels.astype(np.int16) - join_planes(full)[above:, before:])
    return error.max(axis=-1) if error.ndim == 3 else error


def _trusted_blocks(error: np.ndarray, margins: tuple[int, int]) -> np.ndarray:
    """Returns which blocks come back, given by how much pixels differ: bool [rows, columns]."""
    above, before = margins
    height, width = error.shape[0] + above, error.shape[1] + before
    padded = np.pad(error, ((above, -height % 8), (before, -width % 8)))
    rows, columns = padded.shape[0] // 8, padded.shape[1] // 8
    return np.asarray(padded.reshape(rows, 8, columns, 8).max(axis=(1, 3)) <= _SAME)
