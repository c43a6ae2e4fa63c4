"""DMCNN with all it has: what the ablations are measured against.

    python -m dmcnn_jax.main --config configs/ablations/full.py:cpu

With :cpu, an hour or two on two cores; with :gpu, ninety times the pixels and the whole network.
"""

from dmcnn_jax.config.recipes import ablation_config


def get_config(budget: str = "gpu"):
    """Returns the configuration; `budget` is "cpu" or "gpu", the same for all ablations."""
    return ablation_config("full", budget)
