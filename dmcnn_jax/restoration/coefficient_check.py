"""Counts the coefficients of a JPEG file to which a picture's pixels quantise again."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from dmcnn_jax.images import color
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.restoration.bands import BAND, BASIS, LUMA_WEIGHTS, map_bands, to_blocks

Plane = Literal["y", "cb", "cr"]


@dataclasses.dataclass(frozen=True)
class CoefficientTally:
    """A count of the coefficients that quantise to the file's integers again.

    Attributes:
        blocks: number of blocks counted.
        whole: number of blocks with all 64 coefficients kept.
        coefficients: number of coefficients counted.
        kept: number of coefficients that quantise to the file's integers.
    """

    blocks: int = 0
    whole: int = 0
    coefficients: int = 0
    kept: int = 0

    @classmethod
    def of(cls, kept: np.ndarray) -> "CoefficientTally":
        """Returns the tally of a mask: bool [blocks, 64], true for coefficients that are kept."""
        return cls(len(kept), int(kept.all(axis=1).sum()), kept.size, int(kept.sum()))

    @property
    def share(self) -> float:
        """Share of the coefficients that are kept, 0 to 1; 1 if there are none."""
        return self.kept / self.coefficients if self.coefficients else 1.0

    def __add__(self, other: "CoefficientTally") -> "CoefficientTally":
        """Returns the tally of both sets of blocks."""
        return CoefficientTally(
            self.blocks + other.blocks,
            self.whole + other.whole,
            self.coefficients + other.coefficients,
            self.kept + other.kept,
        )


@dataclasses.dataclass(frozen=True)
class BlockTallies:
    """Tallies of a plane by kind of block.

    Attributes:
        inner: whole blocks without a pixel at an end of the range.
        saturated: whole blocks with pixels at an end of the range, 0 or the maximum.
        edge: blocks that reach beyond the picture, which is continued by repeating its border.
    """

    inner: CoefficientTally = CoefficientTally()
    saturated: CoefficientTally = CoefficientTally()
    edge: CoefficientTally = CoefficientTally()

    @property
    def inside(self) -> CoefficientTally:
        """Tally of all blocks that lie completely in the picture."""
        return self.inner + self.saturated

    def __add__(self, other: "BlockTallies") -> "BlockTallies":
        """Returns the tallies of both sets of blocks."""
        return BlockTallies(
            self.inner + other.inner, self.saturated + other.saturated, self.edge + other.edge
        )


def tally_component(
    pixels: np.ndarray, component: Component, bits: int, plane: Plane = "y"
) -> BlockTallies:
    """Quantises a picture's pixels like a component of a file, and compares the coefficients.

    Subsampled planes are averaged over the pixels of each sample, as libjpeg does.

    Args:
        pixels: uint8 or uint16 [height, width, 3] (RGB); or, for "y", [height, width, 1].
        component: the component, with the file's coefficients and table.
        bits: 8 or 16 per sample of the pixels.
        plane: which plane of the pixels to compare with the component.

    Returns:
        The tallies of all blocks of the component.
    """
    (down, across), (height, width) = component.subsampling, pixels.shape[:2]
    rows, columns, _ = component.coefficients.shape
    maximum = 255 if bits == 8 else 65535

    def band(first: int) -> BlockTallies:
        k = component.coefficients[first : first + BAND]
        part = pixels[8 * down * first : 8 * down * (first + len(k))]
        size = min(8 * len(k), component.height - 8 * first), component.width
        to_samples = ((0, down * size[0] - len(part)), (0, across * size[1] - width))
        to_whole_blocks = ((0, 8 * len(k) - size[0]), (0, 8 * columns - size[1]))

        def cells(full: np.ndarray) -> np.ndarray:
            padded = np.pad(full, to_samples, mode="edge")
            return padded.reshape(size[0], down, size[1], across)

        samples = cells(pixel_plane(part, bits, plane)).mean(axis=(1, 3))
        samples = np.pad(samples, to_whole_blocks, mode="edge")
        ends = cells(((part == 0) | (part == maximum)).any(axis=-1)).any(axis=(1, 3))
        saturated = to_blocks(np.pad(ends, to_whole_blocks)).any(axis=1)
        beyond = np.ones(k.shape[:2], bool)
        beyond[: max(0, height // (8 * down) - first), : width // (8 * across)] = False
        edge = beyond.ravel()
        kept = quantizes_to(to_blocks(samples), k.reshape(-1, 64), component.table.reshape(64))
        return BlockTallies(
            inner=CoefficientTally.of(kept[~saturated & ~edge]),
            saturated=CoefficientTally.of(kept[saturated & ~edge]),
            edge=CoefficientTally.of(kept[edge]),
        )

    return sum(map_bands(band, range(0, rows, BAND)), BlockTallies())


def tally_chroma(pixels: np.ndarray, components: Sequence[Component], bits: int) -> BlockTallies:
    """Returns the tallies of Cb and Cr together, by `tally_component`.

    Args:
        pixels: uint8 or uint16 [height, width, 3] (RGB).
        components: the file's three components.
        bits: 8 or 16 per sample of the pixels.
    """
    _, cb, cr = components
    return tally_component(pixels, cb, bits, "cb") + tally_component(pixels, cr, bits, "cr")


def pixel_plane(pixels: np.ndarray, bits: int, plane: Plane) -> np.ndarray:
    """Returns Y, Cb or Cr of pixels.

    Args:
        pixels: uint8 or uint16 [..., 3] (RGB).
        bits: 8 or 16.
        plane: which one.

    Returns:
        float32 [...], levels 0 to 255, Cb and Cr centred on 128 (JFIF).
    """
    if plane == "y":
        return pixel_luma(pixels, bits)
    weights = color.CB_WEIGHTS if plane == "cb" else color.CR_WEIGHTS
    levels = pixels.astype(np.float32) @ np.array(weights, np.float32)
    return (levels if bits == 8 else levels / 257) + 128


def pixel_luma(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Returns the luma of pixels (BT.601): float32 [...], levels 0 to 255.

    Args:
        pixels: uint8 or uint16 [..., 3], or [..., 1] of a gray picture.
        bits: 8 or 16.
    """
    levels = pixels.astype(np.float32)
    levels = levels[..., 0] if levels.shape[-1] == 1 else levels @ LUMA_WEIGHTS
    return levels if bits == 8 else levels / 257


def quantizes_to(blocks: np.ndarray, coefficients: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Returns which coefficients of blocks quantise to given integers: |x - k Q| < Q/2 - 0.001.

    Args:
        blocks: float32 [blocks, 64], pixels in levels 0 to 255.
        coefficients: k, integers [blocks, 64].
        table: Q, integers [64].

    Returns:
        bool [blocks, 64].
    """
    x = (blocks - 128) @ BASIS.T
    return np.abs(x - coefficients * table.astype(np.float32)) < interval_reach(table)


def interval_reach(table: np.ndarray) -> np.ndarray:
    """Returns the largest distance from the centre of an interval that counts as inside.

    Args:
        table: Q, integers [64].

    Returns:
        Q/2 - 0.001, floating point [64]. Coefficients of whole pixels can lie exactly at the end of
        an interval, which encoders round to either side.
    """
    return table / np.float32(2) - np.float32(1e-3)
