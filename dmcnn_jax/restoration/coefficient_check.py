"""Counts the coefficients of a file that the pixels of a picture keep."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.jpeg.reader import Component

# Rows of blocks finished at a time.
BAND = 16


BASIS = jpeg.BASIS_IMAGES.reshape(64, 64)


LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)


@dataclasses.dataclass(frozen=True)
class Count:
    """How many coefficients of some blocks quantise to what the file holds.

    Attributes:
        blocks: how many blocks.
        whole: how many of them give all of their 64 coefficients back.
        coefficients: how many coefficients they have.
        kept: how many of those come back.
    """

    blocks: int = 0
    whole: int = 0
    coefficients: int = 0
    kept: int = 0

    @property
    def share(self) -> float:
        """Of coefficients that come back, 0 to 1; 1 where there are none."""
        return self.kept / self.coefficients if self.coefficients else 1.0

    def __add__(self, other: "Count") -> "Count":
        """Of both."""
        return Count(*(a + b for a, b in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple[int, int, int, int]:
        """The four numbers."""
        return self.blocks, self.whole, self.coefficients, self.kept


def count(kept: np.ndarray) -> Count:
    """Counts.

    Args:
        kept: bool [blocks, 64], which coefficients come back.
    """
    return Count(len(kept), int(kept.all(axis=1).sum()), kept.size, int(kept.sum()))


def pixel_luma(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Luma of pixels, float32 [...], levels 0 to 255.

    Args:
        pixels: uint8 or uint16 [..., 3], or [..., 1] for gray.
        bits: 8 or 16.
    """
    levels = pixels.astype(np.float32)
    levels = levels[..., 0] if levels.shape[-1] == 1 else levels @ LUMA_WEIGHTS
    return levels if bits == 8 else levels / 257


def count_kept(pixels, y, component, top, bits):
    """What pixels of a band keep. Outside of the picture, the plane's own samples count."""
    luma = y.copy()
    luma[: pixels.shape[0], : pixels.shape[1]] = pixel_luma(pixels, bits)
    return count(quantizes_to(to_blocks(luma), *band_coefficients(component, top)))


def band_coefficients(component, top):
    """Returns k, [blocks, 64], and Q, [64], of the band that begins at a row of pixels."""
    k = component.coefficients[top // 8 : top // 8 + BAND].reshape(-1, 64)
    return k, component.table.reshape(64)


def chroma_kept(pixels: np.ndarray, components: Sequence[Component], bits: int) -> Count:
    """What pixels keep of the chroma coefficients, averaged over the samples of the file.

    Args:
        pixels: uint8 or uint16 [height, width, 3].
        components: the file's three. Blocks that the picture's border cuts are not counted.
        bits: 8 or 16.
    """
    luma_weights = np.float32(1) - LUMA_WEIGHTS

    def band(index: int, top: int) -> Count:
        component = components[index]
        (down, across), table = component.subsampling, component.table.reshape(64)
        columns = pixels.shape[1] // (8 * across)
        k = component.coefficients[top : min(top + BAND, pixels.shape[0] // (8 * down)), :columns]
        rows = slice(8 * down * top, 8 * down * (top + len(k)))
        part = pixels[rows, : 8 * across * columns]
        # Cb comes of blue, Cr of red.
        channel = {1: 2, 2: 0}[index]
        levels = part[..., channel].astype(np.float32) / (1 if bits == 8 else 257)
        difference = (levels - pixel_luma(part, bits)) / (2 * luma_weights[channel])
        cells = difference.reshape(8 * len(k), down, 8 * columns, across).mean(axis=(1, 3))
        return count(quantizes_to(to_blocks(cells) + 128, k.reshape(-1, 64), table))

    jobs = [
        (index, top)
        for index in (1, 2)
        for top in range(0, pixels.shape[0] // (8 * components[index].subsampling[0]), BAND)
    ]
    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return sum(pool.map(lambda job: band(*job), jobs), Count())


def quantizes_to(blocks: np.ndarray, coefficients: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Which coefficients of blocks come back.

    Args:
        blocks: float32 [blocks, 64], luma in levels 0 to 255.
        coefficients: k, integers [blocks, 64].
        table: Q, integers [64].

    Returns:
        bool [blocks, 64].
    """
    x = (blocks - 128) @ BASIS.T
    return np.abs(x - coefficients * table.astype(np.float32)) < interval_reach(table)


def interval_reach(table):
    """How far a coefficient may be from the middle of its interval."""
    # Not as far as the end: there encoders differ in rounding, and whole pixels do come to lie.
    return table / np.float32(2) - np.float32(1e-3)


def to_blocks(plane: np.ndarray) -> np.ndarray:
    """[8 * rows, 8 * columns] → [rows * columns, 64]."""
    return jpeg.to_blocks(plane).reshape(-1, 64)


def from_blocks(blocks, columns):
    """[rows * columns, 64] → [8 * rows, 8 * columns]."""
    return jpeg.from_blocks(blocks.reshape(-1, columns, 64))
