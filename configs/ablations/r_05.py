"""DMCNN with r fixed at 0.5, where it usually starts: the mean of JPEG and DCT branch is corrected.

    python -m dmcnn_jax.main --config configs/ablations/r_05.py:cpu

With :cpu, it takes an hour or two on two cores. With :gpu, it has ninety times the pixels and the
paper's number of channels.
"""

from dmcnn_jax.config.presets import ablation_config


def get_config(budget: str = "gpu"):
    """Returns the configuration; `budget` is one that `presets.set_budget` names."""
    config = ablation_config("r-05", budget)
    config.model.learn_residual = False
    return config
