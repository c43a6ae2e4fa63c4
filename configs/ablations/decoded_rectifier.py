"""DMCNN whose intervals lie around D(C), as the paper prints it, not around the file's own k·Q.

    python -m dmcnn_jax.main --config configs/ablations/decoded_rectifier.py:cpu

With :cpu, an hour or two on two cores; with :gpu, ninety times the pixels and the whole network.
"""

from dmcnn_jax.config.recipes import ablation_config


def get_config(budget: str = "gpu"):
    """Returns the configuration; `budget` is "cpu" or "gpu", the same for all ablations."""
    config = ablation_config("decoded-rectifier", budget)
    config.model.rectifier = "decoded"
    return config
