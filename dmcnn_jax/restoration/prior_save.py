"""Decides whether a file is restored with the table and the grid of an earlier save."""

import dataclasses
import math

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.jpeg.double_compression import (
    PriorCompression,
    find_prior_compression,
    requantize,
)
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.restoration.options import RestoreOptions


def find_prior(
    file: jpeg.JpegFile, options: RestoreOptions
) -> tuple[PriorCompression | None, tuple[str, ...]]:
    """Looks for an earlier save to restore a file with.

    Args:
        file: what `jpeg.read` returned.
        options: whether to look for one, and its known quality and grid.

    Returns:
        The earlier save, or None if the file is restored by its own table; and notes for a report.
    """
    quality, grid = options.assume_quality, options.prior_grid
    requested = quality is not None or grid is not None
    if not (options.detect or requested) or options.strength == 0:
        return None, ()
    luma = file.components[0]
    # Resaved photographs have luma at full size.
    if file.color == "rgb" or luma.subsampling != (1, 1):
        kind = "RGB files" if file.color == "rgb" else "files with subsampled luma"
        return None, (f"earlier saves are not considered for {kind}",) if requested else ()
    prior = find_prior_compression(luma, quality=quality, grid=grid)
    if prior is None:
        where = f" on the grid at {grid[0]},{grid[1]}" if grid else ""
        return None, (f"no earlier save was found{where}",) if grid else ()
    return prior, (
        f"{'assumed' if quality else 'found'} an earlier save at about quality {prior.quality},"
        f" with blocks that begin at {prior.left},{prior.top}"
        f"{_describe_share(prior.explained)}; restored with its table, so the guarantee does not"
        " apply to this file",
    )


def _describe_share(explained: float) -> str:
    """Returns the share of the file's coefficients that an earlier save explains, as text."""
    if math.isnan(explained):
        return ""
    return f", which explains {explained:.0%} of the file's coefficients"


def prior_component(component: Component, prior: PriorCompression) -> Component:
    """Returns the plane as an earlier save's file held it.

    Args:
        component: of the file.
        prior: the earlier save.

    Returns:
        The plane on the earlier save's grid, including its margins above and left.
    """
    above, before = prior.margins
    return dataclasses.replace(
        component,
        coefficients=requantize(component, prior),
        table=prior.table,
        height=component.height + above,
        width=component.width + before,
    )


def crop_to_file_grid(
    plane: np.ndarray, component: Component, prior: PriorCompression
) -> np.ndarray:
    """Cuts the file's own blocks out of a plane on an earlier save's grid.

    Args:
        plane: [height, width], whole blocks of the earlier save.
        component: of the file.
        prior: the earlier save.

    Returns:
        [8 * rows, 8 * columns] of the component; beyond the picture, its last blocks repeat the
        border.
    """
    above, before = prior.margins
    rows, columns, _ = component.coefficients.shape
    part = plane[above : above + component.height, before : before + component.width]
    pad = ((0, 8 * rows - component.height), (0, 8 * columns - component.width))
    return np.pad(part, pad, mode="edge")
