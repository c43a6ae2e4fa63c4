"""DMCNN without dilation: the layers in the middle see their neighbours only.

    python -m dmcnn_jax.main --config configs/ablations/no_dilation.py:cpu

With :cpu, an hour or two on two cores; with :gpu, ninety times the pixels and the whole network.
"""

from dmcnn_jax.config.recipes import ablation_config


def get_config(budget: str = "gpu"):
    """Returns the configuration; `budget` is "cpu" or "gpu", the same for all ablations."""
    config = ablation_config("no-dilation", budget)
    config.model.dilations = (1, 1, 1)
    return config
