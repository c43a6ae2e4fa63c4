"""Rounds restored planes to whole pixels that stay within the file's quantisation intervals."""

from collections.abc import Sequence

import numpy as np

from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.jpeg.resampling import upsample
from dmcnn_jax.restoration.bands import (
    BAND,
    BASIS,
    band_tops,
    chroma_offsets,
    from_blocks,
    map_bands,
    to_blocks,
)
from dmcnn_jax.restoration.coefficient_check import (
    CoefficientTally,
    interval_reach,
    pixel_luma,
    quantizes_to,
)


def round_to_pixels(
    luma: np.ndarray,
    chroma: Sequence[np.ndarray],
    components: Sequence[Component],
    height: int,
    width: int,
    *,
    bits: int = 8,
    project: bool = True,
) -> tuple[np.ndarray, CoefficientTally]:
    """Makes a picture from restored planes.

    Args:
        luma: float32, levels 0 to 255, whole blocks at full size: [8 * rows, 8 * columns] of the
            first component; at its own size if that is subsampled.
        chroma: Cb and Cr, float32, levels 0 to 255, without the padding of blocks: both
            [height, width], or each at its own size, to be upsampled. Empty for a gray picture.
        components: the file's components, in the order of the planes.
        height: of the picture.
        width: of the picture.
        bits: 8 or 16 per sample.
        project: whether to choose pixels whose luma quantises to the file's coefficients, as far as
            whole pixels within the gamut allow.

    Returns:
        The picture, uint8 or uint16 [height, width] or [height, width, 3] (RGB); and how many luma
        coefficients its pixels keep, an empty tally if luma is subsampled.
    """
    shape = (height, width, 3) if chroma else (height, width)
    subsampling = [
        (1, 1) if plane.shape == (height, width) else component.subsampling
        for plane, component in zip(chroma, components[1:], strict=False)
    ]
    picture = np.empty(shape, np.uint8 if bits == 8 else np.uint16)
    first = components[0]
    full_size = first.subsampling == (1, 1)
    if not full_size:
        luma = upsample(luma[: first.height, : first.width], first.subsampling)

    def band(top: int) -> CoefficientTally:
        bottom = min(top + 8 * BAND, height)
        y = luma[top : min(top + 8 * BAND, len(luma))]
        offsets = np.stack(chroma_offsets(chroma, subsampling, top, bottom, y.shape[1]), axis=-1)
        offsets = offsets[:, :width]
        if full_size and project:
            pixels, tally = round_within_intervals(y, offsets, first, top, bits)
        else:
            pixels = _round(y[: bottom - top, :width, None] + offsets, bits)
            tally = _tally_luma(pixels, y, first, top, bits) if full_size else CoefficientTally()
        picture[top:bottom] = pixels if chroma else pixels[..., 0]
        return tally

    return picture, sum(map_bands(band, band_tops(height)), CoefficientTally())


def round_within_intervals(
    y: np.ndarray, offsets: np.ndarray, component: Component, top: int, bits: int
) -> tuple[np.ndarray, CoefficientTally]:
    """Rounds a band to pixels whose luma stays in its quantisation intervals, as far as possible.

    Blocks with coefficients outside their intervals are corrected and rounded again. As in
    Dykstra's projection algorithm, corrections accumulate before rounding; otherwise one of less
    than half a level would be rounded away each time.

    Args:
        y: luma of the band, float32 [rows, columns], levels 0 to 255, whole blocks.
        offsets: the channels minus luma (`chroma_offsets`), float32 [height, width, channels],
            within the picture.
        component: the file's luma.
        top: first row of the band, pixels.
        bits: 8 or 16 per sample.

    Returns:
        uint8 or uint16 [height, width, channels], and how many luma coefficients they keep. Beyond
        the picture, `y` itself is counted.
    """
    height, width, channels = offsets.shape
    k, table = _band_coefficients(component, top)
    mask = np.zeros(y.shape, bool)
    mask[:height, :width] = True
    inside = to_blocks(mask)
    padded = np.zeros((*y.shape, channels), np.float32)
    padded[:height, :width] = offsets
    added = np.stack([to_blocks(padded[..., c]) for c in range(channels)], axis=-1)

    def round_blocks(
        luma: np.ndarray, added: np.ndarray, inside: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        pixels = _round(luma[..., None] + added, bits)
        return pixels, np.where(inside, pixel_luma(pixels, bits), luma)

    centers = k * table.astype(np.float32)
    reach = interval_reach(table)
    # Corrections aim slightly inside the interval, so that rounding is less likely to leave it
    # again.
    target = reach - np.minimum(np.float32(0.5), reach / 2)
    wanted = to_blocks(y)  # [blocks, 64]
    pixels, rounded = round_blocks(wanted, added, inside)
    kept = quantizes_to(rounded, k, table)
    left = np.flatnonzero(~kept.all(axis=1))  # blocks that still lose coefficients
    wanted, rounded = wanted[left], rounded[left]
    for _ in range(_MAX_CORRECTIONS):
        if not len(left):
            break
        x = (rounded - 128) @ BASIS.T - centers[left]
        correction = np.where(np.abs(x) > reach, np.clip(x, -target, target) - x, 0)
        wanted = wanted + correction @ BASIS
        tried, rounded = round_blocks(wanted, added[left], inside[left])
        now = quantizes_to(rounded, k[left], table)
        better = now.sum(axis=1) > kept[left].sum(axis=1)
        pixels[left[better]] = tried[better]
        kept[left[better]] = now[better]
        unsettled = ~now.all(axis=1)
        left, wanted, rounded = left[unsettled], wanted[unsettled], rounded[unsettled]
    planes = [from_blocks(pixels[..., c], y.shape[1] // 8) for c in range(channels)]
    return np.stack(planes, axis=-1)[:height, :width], CoefficientTally.of(kept)


_MAX_CORRECTIONS = 8


def _round(levels: np.ndarray, bits: int) -> np.ndarray:
    """Rounds levels 0 to 255 to pixels of 8 or 16 bits."""
    if bits == 8:
        return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return np.clip(np.rint(levels * 257), 0, 65535).astype(np.uint16)


def _tally_luma(
    pixels: np.ndarray, y: np.ndarray, component: Component, top: int, bits: int
) -> CoefficientTally:
    """Returns the coefficients that a band's pixels keep; beyond the picture, `y` is used."""
    luma = y.copy()
    luma[: pixels.shape[0], : pixels.shape[1]] = pixel_luma(pixels, bits)
    return CoefficientTally.of(quantizes_to(to_blocks(luma), *_band_coefficients(component, top)))


def _band_coefficients(component: Component, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns k, [blocks, 64], and Q, [64], of the band that begins at a row of pixels."""
    k = component.coefficients[top // 8 : top // 8 + BAND].reshape(-1, 64)
    return k, component.table.reshape(64)
