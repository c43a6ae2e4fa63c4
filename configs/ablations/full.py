"""DMCNN with nothing left out: the ablations are compared with it.

    python -m dmcnn_jax.main --config configs/ablations/full.py:cpu

With :cpu, it takes an hour or two on two cores. With :gpu, it has ninety times the pixels and the
paper's number of channels.
"""

from dmcnn_jax.config.presets import ablation_config


def get_config(budget: str = "gpu"):
    """Returns the configuration; `budget` is one that `presets.set_budget` names."""
    return ablation_config("full", budget)
