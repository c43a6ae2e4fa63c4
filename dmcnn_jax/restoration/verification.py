"""Verifies that a picture could be the original of a JPEG file, by quantising it again."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.images import formats
from dmcnn_jax.images.orientation import turn_back
from dmcnn_jax.jpeg.file_kinds import describe_other
from dmcnn_jax.restoration.coefficient_check import (
    BlockTallies,
    CoefficientTally,
    tally_chroma,
    tally_component,
)
from dmcnn_jax.restoration.decoded_file import is_lossless
from dmcnn_jax.restoration.jpeg_verification import JpegVerdict, are_comparable, compare_files
from dmcnn_jax.restoration.plane_models import luma_components
from dmcnn_jax.restoration.results import Restoration
from dmcnn_jax.system.printable import printable


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The result of a verification: how many of a file's coefficients a picture keeps.

    Only luma decides whether it passes. Chroma is reported, but whole pixels are chosen for luma
    and the gamut first. Chroma's coefficients are counted after averaging over its samples.

    Attributes:
        bits: bits per sample of the picture, 8 or 16.
        guaranteed: least share of inner luma coefficients that this package's restored pictures
            keep.
        luma: tallies of luma; for an RGB file, of its three planes together.
        chroma: tallies of Cb and Cr together; None without chroma.
    """

    bits: int
    guaranteed: float
    luma: BlockTallies
    chroma: BlockTallies | None = None

    @property
    def passed(self) -> bool:
        """Whether the inner luma coefficients meet the guarantee."""
        return self.luma.inner.share >= self.guaranteed

    def lines(self) -> list[str]:
        """Returns the result as a table for people, line by line, with the verdict."""
        rows = ["blocks              number   all 64 kept   coefficients kept"]
        for name, tally in self._named_tallies():
            if tally.blocks:
                whole = f"{tally.whole / tally.blocks:.3%}"
                rows.append(f"{name:16} {tally.blocks:9,} {whole:>13} {tally.share:>19.4%}")
        verdict = "passed" if self.passed else "FAILED"
        return [
            *rows,
            f"{verdict}: {self.luma.inner.share:.4%} of the inner coefficients are kept;"
            f" {self.guaranteed:.2%} are guaranteed at {self.bits} bits",
        ]

    def to_json(self) -> dict[str, Any]:
        """Returns the result as JSON values."""
        return {
            "passed": self.passed,
            "bits": self.bits,
            "guaranteed": self.guaranteed,
        } | {
            name.replace(" ", "_"): dataclasses.asdict(tally) | {"share": tally.share}
            for name, tally in self._named_tallies()
        }

    def _named_tallies(self) -> Iterator[tuple[str, CoefficientTally]]:
        """Yields each tally with its name."""
        for prefix, tallies in (("", self.luma), ("chroma ", self.chroma)):
            if tallies:
                yield f"{prefix}inner", tallies.inner
                yield f"{prefix}saturated", tallies.saturated
                yield f"{prefix}edge", tallies.edge


def verify(
    original: str | os.PathLike,
    restored: str | os.PathLike,
    *,
    max_pixels: int = jpeg.MAX_PIXELS,
    allow_truncated: bool = False,
) -> Verdict | JpegVerdict:
    """Verifies that a picture, or another JPEG file, could be the original of a JPEG file.

    If the picture is a JPEG file with the same planes, coefficients are compared directly. The
    pixels of other pictures are quantised with the original's tables.

    Args:
        original: the JPEG file.
        restored: the picture, in any format that Pillow reads, or PNG or TIFF of 16 bits. It may be
            turned upright, if its EXIF orientation is 1.
        max_pixels: the largest width * height of the JPEG file to accept.
        allow_truncated: whether to read a truncated or damaged JPEG file as far as possible.

    Returns:
        How many coefficients the picture keeps.

    Raises:
        OSError: if a file can't be read.
        ValueError: if a file has an unexpected format, the picture another size, or the JPEG file
            subsampled luma.
    """
    file = _read_original(original, max_pixels, allow_truncated)
    other = _read_coefficients(restored, max_pixels)
    if other is not None and are_comparable(file, other):
        return compare_files(file, other)
    if len(file.components) == 4:
        raise ValueError(f"{file.name}: a CMYK file; expected gray or three colours to verify")
    # Checked before decoding, since a small file can hold a picture of any size.
    width, height = formats.read_size(restored)
    if {width, height} != {file.width, file.height}:
        raise _wrong_size(restored, width, height, file)
    pixels = formats.read(restored)
    if file.metadata.orientation != 1 and formats.read_orientation(restored) == 1:
        pixels = turn_back(pixels, file.metadata.orientation)
    if pixels.shape[:2] != (file.height, file.width):
        raise _wrong_size(restored, pixels.shape[1], pixels.shape[0], file)
    luma = file.components[0]
    if luma.subsampling != (1, 1):
        raise ValueError(f"{file.name}: luma is subsampled; expected a file with luma at full size")
    bits = 8 if pixels.dtype == np.uint8 else 16
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if len(file.components) == 3 and pixels.shape[-1] == 1:
        # Many programs save a colour picture that has only grays as a gray file.
        pixels = np.repeat(pixels, 3, axis=-1)
    table = min((component.table for component in luma_components(file)), key=np.mean)
    return Verdict(bits, guaranteed(bits, table), *_tally(file, pixels, bits))


def count_as_written(
    file: jpeg.JpegFile, result: Restoration, style: formats.OutputFormat
) -> Restoration:
    """Returns a restoration with the tallies of its pixels as read back from the written file.

    A lossy format changes pixels, and so the tallies; other formats don't.

    Args:
        file: the file that was restored, not of CMYK.
        result: the restoration.
        style: the format in which it is written.
    """
    if result.luma_tally is None or not style.lossy:
        return result
    pixels = formats.pixels_as_written(result.pixels, file.metadata, style)
    luma, chroma = _tally(file, pixels[..., None] if pixels.ndim == 2 else pixels, 8)
    return dataclasses.replace(
        result,
        luma_tally=luma.inside + luma.edge,
        chroma_tally=chroma.inside if chroma and result.chroma_tally else None,
    )


def _tally(
    file: jpeg.JpegFile, pixels: np.ndarray, bits: int
) -> tuple[BlockTallies, BlockTallies | None]:
    """Returns the tallies of luma (or of R, G and B together) and of chroma, if there is any.

    Args:
        file: the file.
        pixels: uint8 or uint16 [height, width, 1 or 3].
        bits: 8 or 16 per sample of the pixels.
    """
    if file.color == "rgb":
        channels = (
            tally_component(pixels[..., channel : channel + 1], component, bits)
            for channel, component in enumerate(file.components)
        )
        return sum(channels, BlockTallies()), None
    chroma = tally_chroma(pixels, file.components, bits) if file.color == "ycbcr" else None
    return tally_component(pixels, file.components[0], bits), chroma


def _read_original(
    path: str | os.PathLike, max_pixels: int, allow_truncated: bool
) -> jpeg.JpegFile:
    """Reads the JPEG file; a copy of its pixels raises an error that asks for the file."""
    try:
        return jpeg.read(path, max_pixels=max_pixels, allow_truncated=allow_truncated)
    except jpeg.JpegError:
        if not os.path.isfile(path):
            raise
        with open(path, "rb") as file:
            head = file.read(16)
        if not is_lossless(head):
            raise
        raise ValueError(
            f"{printable(os.fspath(path))}: not a JPEG file but {describe_other(head)}; expected"
            " the JPEG file itself: coefficients recovered from a copy of its pixels are estimates,"
            " which verify nothing"
        ) from None


def _read_coefficients(path: str | os.PathLike, max_pixels: int) -> jpeg.JpegFile | None:
    """Reads a JPEG file's coefficients; returns None for other files and unreadable ones."""
    with open(path, "rb") as file:
        if file.read(2) != b"\xff\xd8":
            return None
    try:
        return jpeg.read(path, max_pixels=max_pixels)
    except jpeg.JpegError:
        return None


def _wrong_size(
    restored: str | os.PathLike, width: int, height: int, file: jpeg.JpegFile
) -> ValueError:
    return ValueError(
        f"{os.fspath(restored)}: {width} x {height} pixels; expected {file.width} x {file.height},"
        f" as in {file.name}, and not turned (unless its EXIF orientation says so)"
    )


def guaranteed(bits: int, table: np.ndarray) -> float:
    """Returns the least share of inner luma coefficients that restored pictures keep.

    At 16 bits it is 0.9999. At 8 bits it depends on m, the mean quantisation step:

        m >= 48: 0.9999;   8 <= m < 48: 0.9995;   4 <= m < 8: 0.99;   m < 4: 0.9

    Rounding to 8 bits changes a coefficient by about 0.3 grey levels (standard deviation 1/√12).
    With fine steps, no whole pixels quantise to some blocks' coefficients. Inner blocks lie within
    the picture, without pixels at an end of the range.

    Args:
        bits: per sample, 8 or 16.
        table: Q, integers [8, 8].
    """
    if bits == 16:
        return 0.9999
    mean = float(np.mean(table))
    bounds = ((48, 0.9999), (8, 0.9995), (4, 0.99), (0, 0.9))
    return next(share for least, share in bounds if mean >= least)
