"""TNRD (Chen, Pock, TPAMI 2017) for JPEG, on as many crops as its authors used, or on a budget.

    python -m dmcnn_jax.main --config configs/tnrd.py --config.data.source=FOLDER
    python -m dmcnn_jax.main --config configs/tnrd.py:cpu --config.data.source=FOLDER

The authors train by L-BFGS: 300 iterations over 400 crops of 176 × 176 pixels, which form a single
batch and have to fit into memory at once:

    python -m dmcnn_jax.main --config configs/tnrd.py:lbfgs --config.data.source=FOLDER

By default, Adam sees as many crops, drawn at random: 300 · 400, in batches of 10.

Published for LIVE1: 29.15 dB at quality 10, 31.46 dB at 20 (DMCNN's paper: 29.24, 31.52).
"""

import ml_collections

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_budget


def get_config(recipe: str = "paper"):
    """Returns a recipe on as many crops as the authors', "lbfgs" for theirs, or a budget."""
    config = default_config()
    config.name = "tnrd"
    config.quality = 10
    config.model = ml_collections.ConfigDict({"name": "tnrd"})
    config.train.patch_sizes = (176,)
    config.train.batch_sizes = (10,)
    config.train.stage_steps = (12_000,)
    config.train.learning_rate = 1e-3
    config.schedule.name = "cosine"
    if recipe == "lbfgs" or recipe.endswith("-own"):
        config.train.optimizer, config.train.learning_rate = "lbfgs", 1.0
        config.train.fixed_batch = True
        config.train.batch_sizes, config.train.stage_steps = (400,), (300,)
        config.train.validate_every = 30
        config.schedule.min_lr_ratio = 1.0  # the line search finds the rate
    if recipe == "lbfgs":
        config.name = "tnrd-lbfgs"
    elif recipe != "paper":
        set_budget(config, recipe)
    return config
