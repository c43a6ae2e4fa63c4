"""Bounds the harm of a restoration by measuring how much of a file's detail its result keeps.

A restored plane in the file's quantisation intervals keeps at least half of every nonzero
coefficient: the interval k·Q ± Q/2 begins at half of k·Q for k = 1, and nearer to k·Q for larger k.
A result restored in another way (by an earlier save's table, or without projection) has no such
bound, so it is measured.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dmcnn_jax.jpeg.dct import block_coefficients
from dmcnn_jax.jpeg.reader import Component

REGION = 8
"""Side of the regions in which detail is measured, in blocks."""

MIN_OVERALL, MIN_REGION = 0.5, 0.3
"""The least shares of detail that a picture, and each of its regions, must keep. Of 24 photographs
saved twice and restored by the first save's table, all kept 83 % or more, and every region 55 % or
more; three restored by a wrong table of quality 5 or less kept 32 % at most."""

# Regions with less detail than this are ignored: root of the mean AC energy, in grey levels per
# pixel.
_FAINT = 1.0


def describe_harm(components: Sequence[Component], planes: Sequence[np.ndarray]) -> str:
    """Describes the detail that a restoration would lose, if it is too much.

    Args:
        components: of the file.
        planes: the restored plane of each component, as in `measure_kept_detail`; none if the
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
    """Checks that a network's results are finite.

    Even sound weights can overflow on a file unlike all training data.

    Args:
        planes: restored, float32 of any shape.
        model: name of the network.

    Raises:
        ValueError: if a value is infinite or NaN.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        total = planes.sum()  # needs no array of the planes' size
    if not np.isfinite(total):
        raise ValueError(
            f"the weights {model!r} restore this file to values that are not finite; nothing is "
            "written; use other weights"
        )


@dataclasses.dataclass(frozen=True)
class KeptDetail:
    """The share of a file's detail that a restored plane keeps.

    Attributes:
        overall: Σ x·y / Σ x² over the AC coefficients x that are not zero in the file, and the
            corresponding coefficients y of the result: 1 if nothing is lost, 0 if everything is.
            NaN if the file has no detail.
        least: this share in the region with the smallest one.
    """

    overall: float
    least: float


def measure_kept_detail(component: Component, plane: np.ndarray) -> KeptDetail:
    """Measures the share of a file's detail that a restored plane keeps.

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
