"""Counts the coefficients of a restored JPEG file that lie in the original's intervals."""

import dataclasses
from typing import Any

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.jpeg.finer_table import lies_inside
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.jpeg.resampling import average_samples
from dmcnn_jax.restoration.bands import BAND, BASIS, from_blocks, pad_to_blocks, transform
from dmcnn_jax.restoration.coefficient_check import CoefficientTally, interval_reach


@dataclasses.dataclass(frozen=True)
class JpegVerdict:
    """The result of comparing two JPEG files: whether one could be the original of the other.

    Attributes:
        luma: tally of luma's coefficients; for RGB files and inks, of all planes.
        chroma: tally of Cb and Cr together; empty if there are none.
        averaged: whether chroma was compared after averaging it over the samples of the file.
    """

    luma: CoefficientTally
    chroma: CoefficientTally
    averaged: bool

    @property
    def passed(self) -> bool:
        """Whether all compared coefficients lie inside."""
        total = self.luma + self.chroma
        return total.kept == total.coefficients

    def lines(self) -> list[str]:
        """Returns the result as a table for people, line by line, with the verdict."""
        rows = ["coefficients          number        inside"]
        for name, tally in self._named_tallies():
            rows.append(f"{name:16} {tally.coefficients:11,} {tally.kept:13,}")
        total = self.luma + self.chroma
        outside = total.coefficients - total.kept
        if self.passed:
            verdict = f"passed: all {total.coefficients:,} coefficients lie in their intervals"
        else:
            verdict = f"FAILED: {outside:,} of {total.coefficients:,} coefficients lie outside"
        return [*rows, verdict]

    def to_json(self) -> dict[str, Any]:
        """Returns the result as JSON values."""
        return {"passed": self.passed, "chroma_averaged": self.averaged} | {
            name: dataclasses.asdict(tally) | {"share": tally.share}
            for name, tally in (("luma", self.luma), ("chroma", self.chroma))
            if tally.blocks
        }

    def _named_tallies(self) -> list[tuple[str, CoefficientTally]]:
        name = "chroma, averaged" if self.averaged else "chroma"
        return [(name, t) for name, t in (("luma", self.luma), (name, self.chroma)) if t.blocks]


def are_comparable(file: jpeg.JpegFile, restored: jpeg.JpegFile) -> bool:
    """Returns whether `tally_files` can compare the coefficients of two files."""
    try:
        _check_alike(file, restored)
    except ValueError:
        return False
    return True


def compare_files(file: jpeg.JpegFile, restored: jpeg.JpegFile) -> JpegVerdict:
    """Compares the coefficients of a file with those of a restored file, by `tally_files`.

    Raises:
        ValueError: if the files can't be compared.
    """
    luma, chroma = tally_files(file, restored)
    pairs = zip(file.components, restored.components, strict=True)
    averaged = any(original.subsampling != other.subsampling for original, other in pairs)
    return JpegVerdict(luma, chroma, averaged)


def tally_files(
    file: jpeg.JpegFile, restored: jpeg.JpegFile
) -> tuple[CoefficientTally, CoefficientTally]:
    """Counts a file's coefficients whose intervals contain another file's coefficients.

    In planes of equal size, all coefficients are compared, in integers. Chroma at full size is
    averaged over the samples of the file, in floating point, and compared in blocks that lie
    completely in the picture.

    Args:
        file: a file.
        restored: the other file, with the same size, number of components and colours.

    Returns:
        The tally of luma, or of R, G and B, or of all inks; and the tally of Cb and Cr.

    Raises:
        ValueError: if the files differ in size or colours, or in the sampling of planes other than
            chroma, or if chroma has neither the file's sampling nor full size.
    """
    _check_alike(file, restored)
    size = file.height, file.width
    luma, chroma = CoefficientTally(), CoefficientTally()
    for index, (original, other) in enumerate(
        zip(file.components, restored.components, strict=True)
    ):
        same_size = original.subsampling == other.subsampling
        tally = _tally(original, other) if same_size else _tally_averages(original, other, size)
        if _is_chroma(file, index):
            chroma += tally
        else:
            luma += tally
    return luma, chroma


def _is_chroma(file: jpeg.JpegFile, index: int) -> bool:
    return file.color in ("ycbcr", "ycck") and index in (1, 2)


def _check_alike(file: jpeg.JpegFile, restored: jpeg.JpegFile) -> None:
    """Checks that the components of two files can be compared."""

    def describe(each: jpeg.JpegFile) -> str:
        return f"{each.width} x {each.height} pixels, {each.color}"

    if describe(file) != describe(restored):
        raise ValueError(
            f"{restored.name}: {describe(restored)}; expected {describe(file)}, as in {file.name}"
        )
    for index, (original, other) in enumerate(
        zip(file.components, restored.components, strict=True)
    ):
        allowed = [original.subsampling] + [(1, 1)] * _is_chroma(file, index)
        if other.subsampling not in allowed:
            raise ValueError(
                f"{restored.name}: component {index + 1} is subsampled by {other.subsampling};"
                f" expected {original.subsampling}, as in {file.name}"
            )


def _tally(original: Component, other: Component) -> CoefficientTally:
    """Compares two planes of equal size, in integers."""
    total = CoefficientTally()
    for top in range(0, len(original.coefficients), BAND):
        inside = lies_inside(
            other.coefficients[top : top + BAND],
            other.table.reshape(64),
            original.coefficients[top : top + BAND],
            original.table.reshape(64),
        )
        total += CoefficientTally.of(inside.reshape(-1, 64))
    return total


def _tally_averages(
    original: Component, other: Component, size: tuple[int, int]
) -> CoefficientTally:
    """Compares a subsampled plane with one at full size.

    Args:
        original: the file's plane.
        other: the plane at full size.
        size: of the picture, pixels: rows and columns.
    """
    down, across = original.subsampling
    steps, reach = other.table.reshape(64).astype(np.float32), interval_reach(original.table)
    total = CoefficientTally()
    # Blocks that lie completely in the picture.
    rows, columns = size[0] // (8 * down), size[1] // (8 * across)
    if not columns:
        return total
    for top in range(0, rows, BAND):
        k = original.coefficients[top : min(top + BAND, rows), :columns]
        n = other.coefficients[down * top : down * (top + len(k)), : across * columns]
        plane = from_blocks((n.reshape(-1, 64) * steps) @ BASIS, across * columns) + 128
        x = transform(pad_to_blocks(average_samples(plane, original.subsampling)))
        center = k.reshape(-1, 64) * original.table.reshape(64).astype(np.float32)
        total += CoefficientTally.of(np.abs(x - center) < reach.reshape(64))
    return total
