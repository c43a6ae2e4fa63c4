"""From restored planes to the pixels of a picture: upsampling, colour, gamut and rounding.

Quantising the restored luma plane gives the file's coefficients back. The pixels of the picture are
whole numbers of a limited range, so that their luma is another plane. It is led back here, by
alternating projections: between the planes that quantise as the file says, and the pictures that
there are. What that leaves is counted.

Everything is NumPy, on blocks that don't know of each other; bands of them run in threads.
"""

import concurrent.futures
import dataclasses
import math
import os
from collections.abc import Sequence

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.images import color
from dmcnn_jax.jpeg.reader import Component

# Rows of blocks finished at a time.
_BAND = 16

_BASIS = jpeg.BASIS_IMAGES.reshape(64, 64)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


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


def finish(
    luma: np.ndarray,
    chroma: Sequence[np.ndarray],
    components: Sequence[Component],
    height: int,
    width: int,
    *,
    bits: int = 8,
    project: bool = True,
) -> tuple[np.ndarray, Count]:
    """Makes the picture of restored planes.

    Args:
        luma: float32, levels 0 to 255, at full size, whole blocks: [8 * rows, 8 * columns] of the
            first component; or, if that is subsampled, at its own size.
        chroma: none, or Cb and Cr likewise, without what only fills up blocks: both at full size,
            or each at its own, to be upsampled.
        components: the file's, whose sampling and coefficients the planes have.
        height: of the picture.
        width: of the picture.
        bits: 8 or 16 for each sample.
        project: whether pixels are chosen such that luma keeps quantising to the file's
            coefficients, as far as whole pixels within the gamut can.

    Returns:
        uint8 or uint16 [height, width] or [height, width, 3], and what the pixels keep of the luma
        coefficients.
    """
    shape = (height, width, 3) if chroma else (height, width)
    steps = [
        (1, 1) if plane.shape == (height, width) else component.step
        for plane, component in zip(chroma, components[1:], strict=False)
    ]
    picture = np.empty(shape, np.uint8 if bits == 8 else np.uint16)
    first = components[0]
    if first.step != (1, 1):
        luma = upsample(luma[: first.height, : first.width], first.step)

    def band(top: int) -> Count:
        bottom = min(top + 8 * _BAND, height)
        y = luma[top : min(top + 8 * _BAND, len(luma))]
        rgb = np.stack(_offsets(chroma, steps, top, bottom, y.shape), axis=-1)[:, :width]
        if first.step != (1, 1) or not project:
            pixels, counted = _round(y[: bottom - top, :width, None] + rgb, bits), Count()
            if first.step == (1, 1):
                counted = _kept(pixels, y, first, top, bits)
        else:
            pixels, counted = _settle(y, rgb, first, top, bits)
        picture[top:bottom] = pixels if chroma else pixels[..., 0]
        return counted

    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return picture, sum(pool.map(band, _tops(height)), Count())


def dequantized_plane(component: Component, *, project: bool = True) -> np.ndarray:
    """A plane without a network: the middle of each coefficient's interval, in the range of pixels.

    Unlike the decoded plane it is not rounded, so that quantising gives the coefficients back.

    Args:
        component: of a file.
        project: whether it is, after the range of pixels has cut off what is beyond.

    Returns:
        float32 [8 * rows, 8 * columns] of the component, levels 0 to 255 (projected: or a little
        beyond).
    """
    rows, columns, _ = component.coefficients.shape
    table = component.table.reshape(64).astype(np.float32)
    plane = np.empty((8 * rows, 8 * columns), np.float32)
    for top in range(0, rows, _BAND):
        k = component.coefficients[top : top + _BAND].reshape(-1, 64)
        middle = k * table
        blocks = np.clip(middle @ _BASIS, -128, 127)
        if project:
            x = blocks @ _BASIS.T
            reach = table / 2 - 0.01
            blocks += (np.clip(x, middle - reach, middle + reach) - x) @ _BASIS
        plane[8 * top : 8 * (top + _BAND)] = _from_blocks(blocks, columns) + 128
    return plane


def keep_mean(
    plane: np.ndarray,
    component: Component,
    height: int,
    width: int,
    *,
    project: bool = True,
    movable: np.ndarray | None = None,
) -> None:
    """Gives a restored plane the mean that the file says, so that colours don't shift.

    Coarse tables round away what a network then guesses, and its guesses lean to one side. Of a
    whole picture, the mean of the blocks as the file holds them is the better estimate. All blocks
    move by one amount, as far as each may.

    Args:
        plane: float32, levels 0 to 255, whole blocks of the component, at full size or at its own.
            Changed in place.
        component: of the file.
        height: of the picture, in samples of the plane; what lies beyond doesn't count.
        width: of the picture, likewise.
        project: whether blocks stay within the intervals of their DC coefficients.
        movable: bool [rows, columns]: which blocks may move; None: all.
    """
    blocks = _Blocks(plane, component, height, width, project=project, movable=movable)
    said = np.clip(blocks.said, 0, 255)
    blocks.move(np.average(said - blocks.means, weights=blocks.weights))


def keep_colors(
    planes: Sequence[np.ndarray],
    components: Sequence[Component],
    height: int,
    width: int,
    reference: np.ndarray,
    *,
    project: Sequence[bool],
    movable: Sequence[np.ndarray | None] | None = None,
) -> None:
    """Leads a picture's mean colour to where the decoded file has its own, if it is far from it.

    Planes that have the mean that the file says (`keep_mean`) make a picture that need not: what is
    beyond the gamut is cut off, and of what libjpeg decodes, which overshoots at every edge, more
    is cut off than of a restored picture. Mostly the restored one is the nearer to the original
    for that, so that nothing is done up to `TOLERANCE`. Beyond that, each plane moves by one amount
    in all of its blocks, as far as each may, at most by `_MOST`.

    Args:
        planes: float32, levels 0 to 255, whole blocks of the components: Y, Cb and Cr, or one; at
            full size, or at their own, to be upsampled. Changed in place.
        components: of the file, whose planes these are.
        height: of the picture.
        width: of the picture.
        reference: the mean of each channel to keep to, float64 [3], or [1] of one plane.
        project: for each plane, whether blocks stay within the intervals of their DC coefficients.
        movable: for each plane, which blocks may move, as of `keep_mean`.
    """
    views, steps, blocks = [], [], []
    movable = movable or [None] * len(planes)
    for plane, component, *options in zip(planes, components, project, movable, strict=True):
        full = plane.size == component.coefficients.size * math.prod(component.step)
        size = (height, width) if full else (component.height, component.width)
        views.append(plane[: size[0], : size[1]])
        steps.append((1, 1) if full else component.step)
        part = _Blocks(plane, component, *size, project=options[0], movable=options[1])
        part.bound(_MOST)
        blocks.append(part)
    target = None
    for _ in range(_TURNS):
        means, free = _channel_means(views, steps, height, width)
        if target is None:
            target = np.clip(means, reference - TOLERANCE, reference + TOLERANCE)
        off = means - target
        if np.abs(off).max() < 0.005:
            break
        # What is at an end of the range doesn't follow.
        wanted = -off / np.maximum(free, 0.1)
        if len(planes) == 3:
            wanted = color.rgb_to_ycbcr(wanted, "full") - (0, 128, 128)
        for part, mean in zip(blocks, wanted, strict=True):
            part.move(mean)


TOLERANCE = 0.15
"""How far, in levels, the mean of a channel of a restored picture may be from the decoded file's
before it is moved. Rounding moves it by some hundredths more."""

_MOST = 2.0  # levels: the most that a block moves for the sake of the picture's mean colour.
_TURNS = 8


def _channel_means(planes, steps, height, width):
    """Of the picture that planes make, the mean of each channel, and the share within the range."""

    def band(top):
        bottom = min(top + 8 * _BAND, height)
        y = upsample_rows(planes[0], steps[0], top, bottom)[:, :width]
        sums = []
        for offset in _offsets(planes[1:], steps[1:], top, bottom, y.shape):
            levels = y + offset[:, :width]
            clipped = np.clip(levels, 0, 255)
            inside = np.count_nonzero(clipped == levels)
            sums.append((clipped.sum(dtype=np.float64), inside))
        return np.array(sums).T

    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        sums = sum(pool.map(band, _tops(height)))
    return sums / (height * width)


class _Blocks:
    """The blocks of a plane, which move as wholes, each within bounds.

    Args:
        plane: float32, levels 0 to 255, whole blocks of the component.
        component: of the file.
        height: of the picture, in samples of the plane; what lies beyond doesn't count.
        width: of the picture, likewise.
        project: whether blocks stay within the intervals of their DC coefficients.
        movable: bool [rows, columns], which blocks may move; None: all.
    """

    def __init__(self, plane, component, height, width, *, project, movable):
        rows, columns, _ = component.coefficients.shape
        self.cell = plane.shape[0] // rows, plane.shape[1] // columns
        self.bands = [plane[self.cell[0] * row : self.cell[0] * (row + 1)] for row in range(rows)]
        self.weights = np.outer(
            _inside(height, self.cell[0], rows), _inside(width, self.cell[1], columns)
        )
        cells = [band.reshape(self.cell[0], columns, self.cell[1]) for band in self.bands]
        self.means = np.stack([cell.mean(axis=(0, 2)) for cell in cells])
        # A block's mean is an eighth of its DC coefficient.
        q = float(component.table[0, 0])
        self.said = component.coefficients[..., 0] * (q / 8) + 128
        self.lower, self.upper = (np.full(self.means.shape, end) for end in (-np.inf, np.inf))
        if project:
            reach = (q / 2 - 0.01) / 8
            self.lower = np.minimum(self.said - reach - self.means, 0)
            self.upper = np.maximum(self.said + reach - self.means, 0)
        if movable is not None:
            self.lower, self.upper = np.where(movable, (self.lower, self.upper), 0)

    def bound(self, most):
        """No block is to move further than so many levels."""
        self.lower = np.maximum(self.lower, -most)
        self.upper = np.minimum(self.upper, most)

    def move(self, mean):
        """Moves all by one amount, as far as each may, so that the picture's mean moves as told."""
        shift = _common_shift(self.lower, self.upper, self.weights, mean)
        for band, row in zip(self.bands, shift, strict=True):
            band += np.repeat(row, self.cell[1])
        self.lower, self.upper = self.lower - shift, self.upper - shift


def _inside(size: int, cell: int, number: int) -> np.ndarray:
    """How many pixels each of a number of cells holds of a picture, float64 [number]."""
    return np.clip(size - cell * np.arange(number), 0, cell).astype(np.float64)


def _common_shift(lower, upper, weights, mean):
    """The one shift, clipped to each block's bounds, whose weighted mean is as wanted, or nearest.

    The mean grows with the shift, and the shift is found by halving.
    """
    low, high = -16.0, 16.0
    for _ in range(40):
        shift = (low + high) / 2
        too_low = np.average(np.clip(shift, lower, upper), weights=weights) < mean
        low, high = (shift, high) if too_low else (low, shift)
    return np.clip((low + high) / 2, lower, upper).astype(np.float32)


def decoded_picture(file: jpeg.JpegFile) -> np.ndarray:
    """The pixels that libjpeg decodes of a file: uint8 [height, width] or [height, width, 3]."""
    gray = len(file.components) == 1
    picture = np.empty((file.height, file.width, 1 if gray else 3), np.uint8)

    def store(top: int, band: np.ndarray) -> None:
        picture[top : top + len(band)] = band

    _decode(file, store)
    return picture[..., 0] if gray else picture


def decoded_mean(file: jpeg.JpegFile) -> np.ndarray:
    """The mean of each channel of what libjpeg decodes of a file, float64 [channels]."""
    total = sum(_decode(file, lambda top, band: band.sum(axis=(0, 1), dtype=np.uint64)))
    return total / (file.height * file.width)


def _decode(file, use):
    """What `use` makes of each band of the decoded picture, given its first row and its pixels."""
    planes = jpeg.decode_planes(file)

    def band(top):
        bottom = min(top + 8 * _BAND, file.height)
        channels = [
            upsample_rows(plane, component.step, top, bottom)[:, : file.width]
            for plane, component in zip(planes, file.components, strict=True)
        ]
        stack = np.stack(channels, axis=-1)
        return use(top, color.ycbcr_to_rgb(stack, "full") if file.color == "ycbcr" else stack)

    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(band, _tops(file.height)))


def _tops(height):
    return range(0, height, 8 * _BAND)


def upsample(plane: np.ndarray, step: tuple[int, int]) -> np.ndarray:
    """Brings a subsampled plane to full size as libjpeg does.

    Its "fancy upsampling" by two is a triangle filter: a new sample is 3/4 of the nearer old one
    and 1/4 of the other, along either axis; at the border the sample itself. By other factors, or
    two columns and less, samples are repeated.

    Args:
        plane: [height, width], uint8 (libjpeg's integer arithmetic) or floating point (exact).
        step: rows and columns of the result to a sample.

    Returns:
        [step[0] * height, step[1] * width] of the plane's dtype.
    """
    down, across = step
    narrow = plane.shape[1] <= 2
    if step == (1, 1):
        return plane
    if step == (1, 2) and not narrow:
        return _scale(_double(_wide(plane), 1), 1, 4, (1, 2), plane.dtype)
    if step == (2, 1):
        return _scale(_double(_wide(plane), 0), 0, 4, (1, 2), plane.dtype)
    if step == (2, 2) and not narrow:
        return _scale(_double(_double(_wide(plane), 0), 1), 1, 16, (8, 7), plane.dtype)
    return plane.repeat(down, axis=0).repeat(across, axis=1)


def _wide(plane):
    return plane.astype(np.uint16) if plane.dtype == np.uint8 else plane


def _double(plane, axis):
    """Twice as many samples along an axis, times 4."""
    edge = [(1, 1) if a == axis else (0, 0) for a in range(2)]
    padded = np.pad(plane, edge, mode="edge")
    count = plane.shape[axis]
    before, after = padded.take(range(count), axis), padded.take(range(2, count + 2), axis)
    pairs = np.stack([3 * plane + before, 3 * plane + after], axis=axis + 1)
    shape = list(plane.shape)
    shape[axis] *= 2
    return pairs.reshape(shape)


def _scale(sums, axis, divisor, biases, dtype):
    """Divides; in integers, with a bias that alternates along an axis, lest rounding shift."""
    if dtype != np.uint8:
        return sums / np.asarray(divisor, dtype)
    bias = np.resize(np.array(biases, np.uint16), sums.shape[axis])
    return ((sums + (bias if axis == 1 else bias[:, None])) // divisor).astype(np.uint8)


def _offsets(chroma, steps, top, bottom, shape):
    """What chroma adds to luma: for R, G and B, or once, float32 [bottom - top, columns]."""
    if not chroma:
        return (np.zeros((bottom - top, shape[1]), np.float32),)
    cb, cr = (
        upsample_rows(plane, step, top, bottom) - np.float32(128)
        for plane, step in zip(chroma, steps, strict=True)
    )
    # Sampled differently, one may reach further beyond the picture.
    columns = min(cb.shape[1], cr.shape[1])
    cb, cr = cb[:, :columns], cr[:, :columns]
    red, blue = 2 * (1 - _LUMA[0]) * cr, 2 * (1 - _LUMA[2]) * cb
    green = -(_LUMA[0] * red + _LUMA[2] * blue) / _LUMA[1]
    return red, green, blue


def upsample_rows(plane: np.ndarray, step: tuple[int, int], top: int, bottom: int) -> np.ndarray:
    """A part of what `upsample` makes, from those rows of the plane that it depends on.

    Args:
        plane: as of `upsample`.
        step: as of `upsample`.
        top: the first row wanted, of the result.
        bottom: the row after the last.

    Returns:
        [bottom - top, step[1] * width] of the plane's dtype.
    """
    down = step[0]
    first, last = max(0, top // down - 1), min(len(plane), -(-bottom // down) + 1)
    return upsample(plane[first:last], step)[top - first * down : bottom - first * down]


def _round(levels, bits):
    """Levels 0 to 255 as pixels of 8 or 16 bits."""
    if bits == 8:
        return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return np.clip(np.rint(levels * 257), 0, 65535).astype(np.uint16)


def pixel_luma(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Luma of pixels, float32 [...], levels 0 to 255.

    Args:
        pixels: uint8 or uint16 [..., 3], or [..., 1] for gray.
        bits: 8 or 16.
    """
    levels = pixels.astype(np.float32)
    levels = levels[..., 0] if levels.shape[-1] == 1 else levels @ _LUMA
    return levels if bits == 8 else levels / 257


def _kept(pixels, y, component, top, bits):
    """What pixels of a band keep. Outside of the picture, the plane's own samples count."""
    luma = y.copy()
    luma[: pixels.shape[0], : pixels.shape[1]] = pixel_luma(pixels, bits)
    return count(quantizes_to(to_blocks(luma), *_band(component, top)))


def _band(component, top):
    k = component.coefficients[top // 8 : top // 8 + _BAND].reshape(-1, 64)
    return k, component.table.reshape(64)


def chroma_kept(pixels: np.ndarray, components: Sequence[Component], bits: int) -> Count:
    """What pixels keep of the chroma coefficients, averaged over the samples of the file.

    Args:
        pixels: uint8 or uint16 [height, width, 3].
        components: the file's three. Blocks that the picture's border cuts are not counted.
        bits: 8 or 16.
    """
    luma_weights = np.float32(1) - _LUMA

    def band(index: int, top: int) -> Count:
        component = components[index]
        (down, across), table = component.step, component.table.reshape(64)
        columns = pixels.shape[1] // (8 * across)
        k = component.coefficients[top : min(top + _BAND, pixels.shape[0] // (8 * down)), :columns]
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
        for top in range(0, pixels.shape[0] // (8 * components[index].step[0]), _BAND)
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
    x = (blocks - 128) @ _BASIS.T
    return np.abs(x - coefficients * table.astype(np.float32)) < _reach(table)


def _reach(table):
    """How far a coefficient may be from the middle of its interval."""
    # Not as far as the end: there encoders differ in rounding, and whole pixels do come to lie.
    return table / np.float32(2) - np.float32(1e-3)


def _settle(y, rgb, component, top, bits):
    """Pixels of a band whose luma stays in its intervals, as far as that can be had.

    Dykstra's idea: what rounding and gamut took off is not forgotten but asked for again, since
    a correction of less than half a level would be rounded away each time.
    """
    k, table = _band(component, top)
    inside = np.zeros(y.shape, bool)
    inside[: rgb.shape[0], : rgb.shape[1]] = True
    inside = to_blocks(inside)
    padded = np.zeros((*y.shape, rgb.shape[-1]), np.float32)
    padded[: rgb.shape[0], : rgb.shape[1]] = rgb
    wanted = to_blocks(y)  # [blocks, 64]
    offsets = np.stack([to_blocks(padded[..., c]) for c in range(rgb.shape[-1])], axis=-1)

    def realise(wanted, offsets, inside):
        pixels = _round(wanted[..., None] + offsets, bits)
        return pixels, np.where(inside, pixel_luma(pixels, bits), wanted)

    middle = k * table.astype(np.float32)
    reach = _reach(table)
    # Corrections aim a little within, where rounding leads astray less often.
    target = reach - np.minimum(np.float32(0.5), reach / 2)
    pixels, luma = realise(wanted, offsets, inside)
    kept = quantizes_to(luma, k, table)
    open_ = np.flatnonzero(~kept.all(axis=1))
    mine, luma = wanted[open_], luma[open_]
    for _ in range(_ROUNDS):
        if not len(open_):
            break
        x = (luma - 128) @ _BASIS.T - middle[open_]
        move = np.where(np.abs(x) > reach, np.clip(x, -target, target) - x, 0)
        mine = mine + move @ _BASIS
        tried, luma = realise(mine, offsets[open_], inside[open_])
        now = quantizes_to(luma, k[open_], table)
        better = now.sum(axis=1) > kept[open_].sum(axis=1)
        pixels[open_[better]] = tried[better]
        kept[open_[better]] = now[better]
        left = ~now.all(axis=1)
        open_, mine, luma = open_[left], mine[left], luma[left]
    counted = count(kept)
    columns = y.shape[1] // 8
    channels = [_from_blocks(pixels[..., c], columns) for c in range(pixels.shape[-1])]
    return np.stack(channels, axis=-1)[: rgb.shape[0], : rgb.shape[1]], counted


_ROUNDS = 8


def to_blocks(plane: np.ndarray) -> np.ndarray:
    """[8 * rows, 8 * columns] → [rows * columns, 64]."""
    return jpeg.to_blocks(plane).reshape(-1, 64)


def _from_blocks(blocks, columns):
    return jpeg.from_blocks(blocks.reshape(-1, columns, 64))
