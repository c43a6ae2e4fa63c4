"""Bounds the harm of a restoration: measures how much of the detail in a file its result keeps.

A restored plane in the file's quantisation intervals keeps at least half of every coefficient that
is not zero: k·Q ± Q/2 begins at half of k·Q for k = 1, and later for larger k. What was restored in
another way (by an earlier save's table, or without projection) has no such bound of its own, so it
is measured.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dmcnn_jax.jpeg.dct import block_coefficients
from dmcnn_jax.jpeg.reader import Component

REGION = 8
"""Side of the regions in which detail is measured, in blocks."""

MIN_OVERALL, MIN_REGION = 0.5, 0.3
"""The least shares of its detail that a picture, and each region of it, must keep. Of 24
photographs that were saved twice and restored by the first save's table, all kept 83 % or more, and
every region 55 % or more; three that were restored by a wrong table of quality 5 or less kept 32 %
at most."""

# Regions with less detail than this don't count: the root of their mean AC energy, in grey levels a
# pixel.
_FAINT = 1.0


def describe_harm(components: Sequence[Component], planes: Sequence[np.ndarray]) -> str:
    """Describes the detail that a restoration would lose, if that is too much.

    Args:
        components: of the file.
        planes: restored, one for each component, as in `measure_kept_detail`; or none, if the
            picture is as decoded.

    Returns:
        A few words for a report; empty if enough is kept.
    """
    for component, plane in zip(components, planes, strict=False):
        kept = measure_kept_detail(component, plane)
        if kept.overall < MIN_OVERALL or kept.least < MIN_REGION:
            return (
                f"it would keep {kept.overall:.0%} of the file's detail, and in one region"
                f" {max(kept.least, 0):.0%}; expected {MIN_OVERALL:.0%} and {MIN_REGION:.0%}"
            )
    return ""


def check_finite(planes: np.ndarray, model: str) -> None:
    """Checks that what a network restored are numbers.

    Sound weights can overflow, on a file unlike all that the network was trained on.

    Args:
        planes: restored, float32 of any shape.
        model: name of the network.

    Raises:
        ValueError: if a value is infinite or NaN.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        total = planes.sum()  # without an array of the planes' size
    if not np.isfinite(total):
        raise ValueError(
            f"the weights {model!r} restore this file to values that are not finite; nothing is "
            "written; use other weights"
        )


@dataclasses.dataclass(frozen=True)
class KeptDetail:
    """How much of the detail in a file a restored plane keeps.

    Attributes:
        overall: Σ x·y / Σ x² over the AC coefficients x that are not zero in the file, and the same
            coefficients y of the result: 1 if nothing is lost, 0 if everything is. NaN if the file
            shows no detail.
        least: the same in the region that keeps least.
    """

    overall: float
    least: float


def measure_kept_detail(component: Component, plane: np.ndarray) -> KeptDetail:
    """Measures how much of the detail in a file a restored plane keeps.

    Args:
        component: of the file.
        plane: restored, float32 [8 · rows, 8 · columns], levels 0 to 255.

    Returns:
        The shares.
    """
    rows, columns, _ = component.coefficients.shape
    table = component.table.reshape(64).astype(np.float32)
    energy, common = (np.zeros((-(-rows // REGION), -(-columns // REGION))) for _ in range(2))
    starts = np.arange(0, columns, REGION)
    for index, first in enumerate(range(0, rows, REGION)):
        k = component.coefficients[first : first + REGION].reshape(-1, 64)
        x = k * table
        x[:, 0] = 0
        y = block_coefficients(plane[8 * first : 8 * (first + REGION)])
        for sums, products in ((energy, x * x), (common, x * y)):
            of_blocks = products.sum(axis=1, dtype=np.float64).reshape(-1, columns).sum(axis=0)
            sums[index] = np.add.reduceat(of_blocks, starts)
    total = energy.sum()
    if not total:
        return KeptDetail(float("nan"), float("nan"))
    clear = energy > _FAINT**2 * (8 * REGION) ** 2
    least = (common[clear] / energy[clear]).min() if clear.any() else float("nan")
    return KeptDetail(float(common.sum() / total), float(least))
