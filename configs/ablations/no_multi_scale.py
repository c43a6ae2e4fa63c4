"""DMCNN without the multi-scale loss: no estimates at half and quarter size.

    python -m dmcnn_jax.main --config configs/ablations/no_multi_scale.py:cpu

With :cpu, it takes an hour or two on two cores. With :gpu, it has ninety times the pixels and the
paper's number of channels.
"""

from dmcnn_jax.config.presets import ablation_config


def get_config(budget: str = "gpu"):
    """Returns the configuration; `budget` is one that `presets.set_budget` names."""
    config = ablation_config("no-multi-scale", budget)
    config.model.multi_scale = False
    return config
