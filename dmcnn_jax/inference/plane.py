"""Restores one plane of any size by any network that restores luma."""

import numpy as np

from dmcnn_jax.inference.luma import restore_luma
from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.photo import restore_gray
from dmcnn_jax.models.photo import PhotoNet
from dmcnn_jax.system.progress import Progress


def restore_plane(
    model: Model,
    coefficients: np.ndarray,
    table: np.ndarray,
    *,
    project: bool = False,
    strength: float = 1.0,
    ensemble: bool = False,
    size: tuple[int, int] | None = None,
    mirrored: int = 0,
    progress: Progress | None = None,
) -> np.ndarray:
    """Restores one plane by `luma.restore_luma`, or as a gray file by a network for photographs.

    Arguments, result and errors are those of `luma.restore_luma`; networks for photographs ignore
    `size`.
    """
    if isinstance(model.module, PhotoNet):
        return restore_gray(
            model,
            coefficients,
            table,
            project=project,
            strength=strength,
            ensemble=ensemble,
            mirrored=mirrored,
            progress=progress,
        )
    return restore_luma(
        model,
        coefficients,
        table,
        project=project,
        strength=strength,
        ensemble=ensemble,
        size=size,
        mirrored=mirrored,
        progress=progress,
    )
