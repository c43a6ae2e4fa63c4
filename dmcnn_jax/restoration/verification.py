"""Whether a picture could be the original of a JPEG file: does quantising it give the file back?"""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.images import formats
from dmcnn_jax.restoration import coefficient_check
from dmcnn_jax.restoration.coefficient_check import Count


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a picture keeps of a file's coefficients.

    Luma decides. Chroma is reported: it is brought to full size, where whole pixels and the gamut
    are luma's first, and averaged back as libjpeg does before it is quantised.

    Attributes:
        bits: of a sample of the picture, 8 or 16.
        guaranteed: the share of inner coefficients that come back of our pictures.
        inner: of whole blocks whose pixels are all within the range. For them there is a guarantee.
        saturated: of whole blocks with pixels at an end of the range, where others are cut off.
        edge: of blocks that the picture's border cuts, the outside taken as the border goes on.
        chroma: likewise "inner", "saturated" and "edge" of Cb and Cr; empty without chroma.
    """

    bits: int
    guaranteed: float
    inner: Count
    saturated: Count
    edge: Count
    chroma: Mapping[str, Count] = dataclasses.field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the guarantee is kept."""
        return self.inner.share >= self.guaranteed

    def lines(self) -> list[str]:
        """A table for people."""
        rows = ["blocks              number   all 64 kept   coefficients kept"]
        for name, counted in self._kinds().items():
            if counted.blocks:
                whole = f"{counted.whole / counted.blocks:.3%}"
                rows.append(f"{name:16} {counted.blocks:9,} {whole:>13} {counted.share:>19.4%}")
        verdict = "passed" if self.passed else "FAILED"
        return [
            *rows,
            f"{verdict}: {self.inner.share:.4%} of inner coefficients come back;"
            f" at {self.bits} bits {self.guaranteed:.2%} are guaranteed",
        ]

    def to_json(self) -> dict:
        """The same for programs."""
        return {
            "passed": self.passed,
            "bits": self.bits,
            "guaranteed": self.guaranteed,
        } | {
            name.replace(" ", "_"): dataclasses.asdict(counted) | {"share": counted.share}
            for name, counted in self._kinds().items()
        }

    def _kinds(self) -> dict[str, Count]:
        luma = {"inner": self.inner, "saturated": self.saturated, "edge": self.edge}
        return luma | {f"chroma {name}": counted for name, counted in self.chroma.items()}


def verify(
    original: str | os.PathLike,
    restored: str | os.PathLike,
    *,
    max_pixels: int = jpeg.MAX_PIXELS,
    allow_truncated: bool = False,
) -> Verdict:
    """Quantises a picture with the tables of a JPEG file and compares coefficients.

    Args:
        original: the JPEG file.
        restored: the picture, of any format that Pillow reads, or PNG or TIFF of 16 bits.
        max_pixels: as of `jpeg.read`.
        allow_truncated: as of `jpeg.read`.

    Returns:
        The shares that come back. Of a file of RGB, those of its three planes count as luma's.

    Raises:
        OSError: if a file can't be read.
        ValueError: if one is not what it should be, or the picture has another size.
    """
    file = jpeg.read(original, max_pixels=max_pixels, allow_truncated=allow_truncated)
    pixels = formats.read(restored)
    if pixels.shape[:2] != (file.height, file.width):
        raise ValueError(
            f"{os.fspath(restored)}: {pixels.shape[1]} x {pixels.shape[0]} pixels;"
            f" expected {file.width} x {file.height}, as in {file.name}, and not turned"
        )
    if file.components[0].subsampling != (1, 1):
        raise ValueError(f"{file.name}: its luma is subsampled; no picture can be quantised to it")
    bits = 8 if pixels.dtype == np.uint8 else 16
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if len(file.components) == 3 and pixels.shape[-1] == 1:
        # What happens to be gray is gray in many programs' files.
        pixels = np.repeat(pixels, 3, axis=-1)
    if file.color == "rgb":
        pairs = [(pixels[..., i : i + 1], c) for i, c in enumerate(file.components)]
    else:
        pairs = [(pixels, file.components[0])]
    counts = {"inner": Count(), "saturated": Count(), "edge": Count()}
    for part, component in pairs:
        for kind, counted in _count(part, component, bits).items():
            counts[kind] += counted
    chroma = {}
    if file.color == "ycbcr":
        chroma = {kind: Count() for kind in counts}
        for rows, component in zip(_CHROMA, file.components[1:], strict=True):
            for kind, counted in _count_chroma(pixels, rows, component, bits).items():
                chroma[kind] += counted
    table = min((component.table for _, component in pairs), key=np.mean)
    return Verdict(bits, guaranteed(bits, table), **counts, chroma=chroma)


def guaranteed(bits: int, table: np.ndarray) -> float:
    """The share of luma coefficients that come back of our pictures, at the least.

    In whole blocks away from the ends of the range of pixels. Rounding to 8 bits moves coefficients
    by 0.3 grey levels, typically, which fine steps don't forgive: then no whole pixels may quantise
    to what the file holds. Coarse ones do, where other programs' pictures lose some.

    Args:
        bits: of a sample, 8 or 16.
        table: Q, integers [8, 8].
    """
    if bits == 16:
        return 0.9999
    mean = float(np.mean(table))
    bounds = ((48, 0.9999), (8, 0.9995), (4, 0.99), (0, 0.9))
    return next(share for least, share in bounds if mean >= least)


def _count(pixels, component, bits):
    limits = (0, 255 if bits == 8 else 65535)
    ends = ((pixels == limits[0]) | (pixels == limits[1])).any(axis=-1)
    return _compare(coefficient_check.pixel_luma(pixels, bits), ends, pixels.shape[:2], component)


# Weights of R, G and B in Cb and Cr (JFIF), to be added to 128.
_CHROMA = (
    np.array([-0.299, -0.587, 0.886], np.float32) / np.float32(1.772),
    np.array([0.701, -0.587, -0.114], np.float32) / np.float32(1.402),
)


def _count_chroma(pixels, weights, component, bits):
    """Like `_count`, of a chroma plane at its own size: libjpeg averages pixels to a sample."""
    limits = (0, 255 if bits == 8 else 65535)
    ends = ((pixels == limits[0]) | (pixels == limits[1])).any(axis=-1)
    plane = pixels.astype(np.float32) @ weights
    plane = (plane if bits == 8 else plane / 257) + 128
    down, across = component.subsampling
    size = component.height, component.width
    # At the border pixels are repeated, in samples that reach beyond.
    pad = ((0, down * size[0] - plane.shape[0]), (0, across * size[1] - plane.shape[1]))

    def samples(full):
        return np.pad(full, pad, mode="edge").reshape(size[0], down, size[1], across)

    plane, ends = samples(plane).mean(axis=(1, 3)), samples(ends).any(axis=(1, 3))
    return _compare(plane, ends, size, component)


def _compare(plane, ends, size, component):
    """Counts by kind of block; ends: bool, where samples are at an end of the range."""
    height, width = size
    pad = ((0, -height % 8), (0, -width % 8))
    saturated = coefficient_check.to_blocks(np.pad(ends, pad)).any(axis=1)
    edge = coefficient_check.to_blocks(
        np.pad(np.zeros((height, width), bool), pad, constant_values=True)
    )
    edge = edge.any(axis=1)
    kept = coefficient_check.quantizes_to(
        coefficient_check.to_blocks(np.pad(plane, pad, mode="edge")),
        component.coefficients.reshape(-1, 64),
        component.table.reshape(64),
    )
    return {
        "inner": coefficient_check.count(kept[~saturated & ~edge]),
        "saturated": coefficient_check.count(kept[saturated & ~edge]),
        "edge": coefficient_check.count(kept[edge]),
    }
