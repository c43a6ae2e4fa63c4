"""DMCNN with intervals around D(C), as in the paper, instead of around the file's own k·Q.

    python -m dmcnn_jax.main --config configs/ablations/decoded_rectifier.py:cpu

With :cpu, it takes an hour or two on two cores. With :gpu, it has ninety times the pixels and the
paper's number of channels.
"""

from dmcnn_jax.config.presets import ablation_config


def get_config(budget: str = "gpu"):
    """Returns the configuration; `budget` is one that `presets.set_budget` names."""
    config = ablation_config("decoded-rectifier", budget)
    config.model.rectifier = "decoded"
    return config
