"""Removes JPEG artifacts with DMCNN, a dual-domain multi-scale network in JAX and Flax."""

from dmcnn_jax.version import __version__

__all__ = ["__version__"]
