"""TNRD (Chen, Pock, TPAMI 2017) for JPEG, on its authors' crops, or on a budget all share.

    python -m dmcnn_jax.main --config configs/tnrd.py --config.data.source=FOLDER
    python -m dmcnn_jax.main --config configs/tnrd.py:cpu --config.data.source=FOLDER

The authors train by L-BFGS, 300 iterations over 400 crops of 176 × 176. Here Adam goes over as many
crops, at random: 300 · 400 in batches of 10.

Published for LIVE1: 29.15 dB at quality 10, 31.46 dB at 20 (DMCNN's paper: 29.24, 31.52).
"""

import ml_collections

from dmcnn_jax.config import default_config
from dmcnn_jax.recipes import set_budget


def get_config(recipe: str = "paper"):
    """Its authors' recipe, or, with :cpu or :gpu after the file's name, a common budget."""
    config = default_config()
    config.name = "tnrd"
    config.quality = 10
    config.model = ml_collections.ConfigDict({"name": "tnrd"})
    config.train.patch_sizes = (176,)
    config.train.batch_sizes = (10,)
    config.train.stage_steps = (12_000,)
    config.train.learning_rate = 1e-3
    config.schedule.name = "cosine"
    if recipe != "paper":
        set_budget(config, recipe)
    return config
