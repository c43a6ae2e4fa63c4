"""DMCNN without the rectifier's hard limit: DDCN's slope of 0.1 outside the interval.

    python -m dmcnn_jax.main --config configs/ablations/leaky_rectifier.py:cpu

With :cpu, an hour or two on two cores; with :gpu, ninety times the pixels and the whole network.
"""

from dmcnn_jax.config.recipes import ablation_config


def get_config(budget: str = "gpu"):
    """Returns the configuration; `budget` is "cpu" or "gpu", the same for all ablations."""
    config = ablation_config("leaky-rectifier", budget)
    config.model.rectifier = "leaky"
    return config
