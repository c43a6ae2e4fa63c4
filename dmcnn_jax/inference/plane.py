"""Restores one plane of any size by any network that restores luma."""

from typing import Unpack

import numpy as np

from dmcnn_jax.inference.luma import restore_luma
from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.photo import PlaneOptions, restore_gray
from dmcnn_jax.models.photo import PhotoNet


def restore_plane(
    model: Model,
    coefficients: np.ndarray,
    table: np.ndarray,
    *,
    size: tuple[int, int] | None = None,
    **options: Unpack[PlaneOptions],
) -> np.ndarray:
    """Restores one plane by `luma.restore_luma`, or like a gray file by a network for photographs.

    Arguments, result and errors as in `luma.restore_luma`; networks for photographs ignore `size`.
    """
    if isinstance(model.module, PhotoNet):
        return restore_gray(model, coefficients, table, **options)
    return restore_luma(model, coefficients, table, size=size, **options)
