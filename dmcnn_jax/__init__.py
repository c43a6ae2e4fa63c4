"""Removes JPEG artifacts with DMCNN, a dual-domain multi-scale network in JAX and Flax.

>>> import dmcnn_jax
>>> clean = dmcnn_jax.restore("photo.jpg")  # doctest: +SKIP
>>> data = dmcnn_jax.restore_jpeg("photo.jpg")  # doctest: +SKIP
>>> model = dmcnn_jax.load("dmcnn-qf10")  # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING, Any

from dmcnn_jax.version import __version__

if TYPE_CHECKING:
    from dmcnn_jax.inference.model import load
    from dmcnn_jax.restoration.restorer import restore, restore_jpeg

__all__ = ["__version__", "load", "restore", "restore_jpeg"]


def __getattr__(name: str) -> Any:
    """Imports functions that need JAX when they are first used; `import dmcnn_jax` stays quick."""
    if name == "load":
        return importlib.import_module("dmcnn_jax.inference.model").load
    if name in ("restore", "restore_jpeg"):
        return getattr(importlib.import_module("dmcnn_jax.restoration.restorer"), name)
    raise AttributeError(f"module 'dmcnn_jax' has no attribute {name!r}")
