"""Rotates and mirrors an image in the eight possible ways, through its JPEG's coefficients.

Mirroring an image mirrors each block and the order of the blocks, and in the DCT negates the odd
frequencies along that axis: cos((2(7 - x) + 1)uπ/16) = (-1)^u cos((2x + 1)uπ/16). Transposing it
transposes blocks, coefficients and the quantisation table.
"""

import numpy as np

COUNT = 8
"""The number of ways: the order of the dihedral group of the square."""

TRANSPOSE = 4
"""The way that transposes; those from here on do."""

_SIGNS = np.array([1, -1] * 4, np.int8)
_DOWN = np.repeat(_SIGNS, 8)  # (-1)^v of coefficient 8v + u
_ACROSS = np.tile(_SIGNS, 8)  # (-1)^u


def turn(coefficients: np.ndarray, table: np.ndarray, which: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the coefficients and the table that the JPEG of the turned image would hold.

    Args:
        coefficients: k, integers [h, w, 64], natural order.
        table: Q, integers [8, 8], natural order.
        which: 0 to 7; bit 0 mirrors rows (upside down), then bit 1 columns, then bit 2 transposes;
            0 leaves the image as it is.

    Returns:
        k and Q of the turned image, [h, w, 64] or [w, h, 64], and [8, 8].
    """
    k = coefficients
    if which & 1:
        k = k[::-1] * _DOWN
    if which & 2:
        k = k[:, ::-1] * _ACROSS
    if which & TRANSPOSE:
        height, width, _ = k.shape
        k = k.reshape(height, width, 8, 8).transpose(1, 0, 3, 2).reshape(width, height, 64)
        table = table.T
    return k, table


def continue_mirrored(
    coefficients: np.ndarray, blocks: int | tuple[tuple[int, int], tuple[int, int]]
) -> np.ndarray:
    """Continues a plane beyond its border by its mirror image.

    Args:
        coefficients: k, integers [h, w, 64], natural order.
        blocks: number of blocks added on each side; or ((above, below), (before, after)), as in
            `np.pad`.

    Returns:
        k of the larger plane.
    """
    height, width, _ = coefficients.shape
    down, across = ((blocks, blocks),) * 2 if isinstance(blocks, int) else blocks
    rows, upside_down = mirror_index(height, *down)
    columns, reversed_ = mirror_index(width, *across)
    signs = np.where(upside_down[:, None, None], _DOWN, 1) * np.where(
        reversed_[:, None], _ACROSS, np.int8(1)
    )
    return coefficients[rows[:, None], columns] * signs.astype(coefficients.dtype)


def mirror_index(size: int, before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the source index of each position along an axis continued by its mirror image.

    Args:
        size: length of the axis.
        before: number of positions added at its start.
        after: number of positions added at its end.

    Returns:
        For each position of the longer axis the index on the axis, int [before + size + after]; and
        whether it is mirrored there, bool.
    """
    position = np.arange(-before, size + after) % (2 * size)
    mirrored = position >= size
    return np.where(mirrored, 2 * size - 1 - position, position), mirrored


def turn_back(plane: np.ndarray, which: int) -> np.ndarray:
    """Turns pixels back: the inverse of `turn`.

    Args:
        plane: [H, W], turned.
        which: as in `turn`.

    Returns:
        The plane before it was turned, as a view.
    """
    if which & 4:
        plane = plane.T
    if which & 2:
        plane = plane[:, ::-1]
    return plane[::-1] if which & 1 else plane
