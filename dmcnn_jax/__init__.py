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
    from dmcnn_jax.restoration.jpeg_options import JpegOptions
    from dmcnn_jax.restoration.options import RestoreOptions
    from dmcnn_jax.restoration.restore import restore, restore_jpeg
    from dmcnn_jax.restoration.restorer import Restorer

__all__ = [
    "JpegOptions",
    "RestoreOptions",
    "Restorer",
    "__version__",
    "load",
    "restore",
    "restore_jpeg",
]


def __getattr__(name: str) -> Any:
    """Imports names that need JAX at their first use, so that `import dmcnn_jax` is quick."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'dmcnn_jax' has no attribute {name!r}")


_MODULES = {
    "JpegOptions": "dmcnn_jax.restoration.jpeg_options",
    "RestoreOptions": "dmcnn_jax.restoration.options",
    "Restorer": "dmcnn_jax.restoration.restorer",
    "load": "dmcnn_jax.inference.model",
    "restore": "dmcnn_jax.restoration.restore",
    "restore_jpeg": "dmcnn_jax.restoration.restore",
}
