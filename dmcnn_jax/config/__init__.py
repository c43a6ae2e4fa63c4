"""Every setting of a run, its checks, and the recipes that configurations share."""

from dmcnn_jax.config.defaults import default_config

__all__ = ["default_config"]
