"""DMCNN without dilation: the layers in the middle see their neighbours only.

    python -m dmcnn_jax.main --config configs/ablations/no_dilation.py:cpu

With :cpu, an hour or two on two cores; with :gpu, ninety times the pixels and the whole network.
"""

from dmcnn_jax.config.recipes import ablation_config


def get_config(budget: str = "gpu"):
    """One claim of the paper switched off; the budget, "cpu" or "gpu", is that of all ablations."""
    config = ablation_config("no-dilation", budget)
    config.model.dilations = (1, 1, 1)
    return config
