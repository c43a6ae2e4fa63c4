"""The core of a tile, and what a network's layers still have to compute around it."""

import dataclasses
from collections.abc import Sequence

import numpy as np

# Side of a block, in pixels.
_BLOCK = 8


@dataclasses.dataclass(frozen=True)
class CoreAxis:
    """The core of a tile along one axis, in pixels.

    Attributes:
        inside: where the inside of the tile's mask begins.
        length: length of the inside.
        first: where the core begins in the inside.
        stop: where it ends.
    """

    inside: int
    length: int
    first: int
    stop: int

    @staticmethod
    def of(mask: np.ndarray, axis: int, core: np.ndarray | None) -> "CoreAxis":
        """Returns the core along rows (0) or columns (1).

        Args:
            mask: bool [1, h, w, 1], true on a rectangle, the inside.
            axis: 0 or 1.
            core: first row and the row after the last, and the same for columns, in cells of the
                mask, integers [2, 2]. None: all.
        """
        part = masked_part(mask, 1 + axis, mask.shape[1 + axis])
        first, stop = (part.start, part.stop) if core is None else core[axis]
        first, stop = max(first, part.start) - part.start, min(stop, part.stop) - part.start
        blocks = part.start, part.stop - part.start, first, stop
        return CoreAxis(*(_BLOCK * int(count) for count in blocks))

    def around(self, pixels: int | None) -> tuple[int, int]:
        """Returns begin and end, in the inside, of the core and so many pixels around it.

        Args:
            pixels: None: the whole inside.
        """
        if pixels is None:
            return 0, self.length
        return max(0, self.first - pixels), min(self.length, self.stop + pixels)

    def core_in_tile(self, scale: int) -> slice:
        """Returns the core's position in the tile; `scale` is the side of a block in cells."""
        return _cells(self.inside + self.first, self.inside + self.stop, scale)

    def core_in_part(self, scale: int, pixels: int | None) -> slice:
        """Returns the core's position in `around(pixels)`; `scale` as in `core_in_tile`."""
        begin, _ = self.around(pixels)
        return _cells(self.first - begin, self.stop - begin, scale)


@dataclasses.dataclass(frozen=True)
class Cut:
    """A place in a network where an image is cut.

    Attributes:
        scale: side of a block in cells of the image.
        pixels: how far the result reaches around the core.
        had: how far the image reaches around it; None: it is the whole inside of the tile.
    """

    scale: int
    pixels: int
    had: int | None

    def bounds(self, axes: Sequence[CoreAxis]) -> tuple[np.ndarray, np.ndarray]:
        """Returns begin and end of the result in the image, in cells: int64 [2] each."""
        slices = []
        for axis in axes:
            start, _ = axis.around(self.had)
            begin, end = axis.around(self.pixels)
            slices.append(_cells(begin - start, end - start, self.scale))
        begins, ends = ([getattr(part, name) for part in slices] for name in ("start", "stop"))
        return np.array(begins, np.int64), np.array(ends, np.int64)


def masked_part(mask: np.ndarray, axis: int, length: int) -> slice:
    """Returns the position of a mask's rectangle along an axis of an image of given length.

    Args:
        mask: bool [1, h, w, 1], true on a rectangle.
        axis: 1 or 2.
        length: of the image along the axis, a multiple of the mask's.
    """
    found = np.flatnonzero(mask[0, :, :, 0].any(axis=2 - axis))
    unit = length // mask.shape[axis]
    return slice(unit * found[0], unit * (found[-1] + 1))


def _cells(begin: int, end: int, scale: int) -> slice:
    """Converts pixels to cells of which `scale` are the side of a block."""
    return slice(begin * scale // _BLOCK, end * scale // _BLOCK)
