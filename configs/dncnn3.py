"""DnCNN-3 (Zhang et al., TIP 2017), by its authors' recipe, or on a budget all networks share.

    python -m dmcnn_jax.main --config configs/dncnn3.py --config.data.source=FOLDER
    python -m dmcnn_jax.main --config configs/dncnn3.py:cpu --config.data.source=FOLDER

One set of weights serves qualities 5 to 99. The authors' recipe is Adam from a rate of 1e-3,
batches of 128, and 50 epochs of about 3,000 steps. Their patches of 50 × 50 pixels become 48 × 48
here, and their other tasks, noise and super-resolution, are left out.

Published for LIVE1: 29.19 dB at quality 10, 31.59 dB at 20 (DMCNN's paper: 29.27, 31.62).
"""

import ml_collections

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_budget


def get_config(recipe: str = "paper"):
    """Returns the authors' recipe or, for a budget such as "cpu" or "gpu", a common one."""
    config = default_config()
    config.name = "dncnn3"
    config.quality, config.quality_range = 10, (5, 99)
    config.model = ml_collections.ConfigDict(
        {"name": "dncnn", "features": 64, "batch_norm": True, "dtype": "float32"}
    )
    config.train.patch_sizes = (48,)
    config.train.batch_sizes = (128,)
    config.train.stage_steps = (150_000,)
    config.schedule.factor = 0.1
    if recipe != "paper":
        set_budget(config, recipe)
    return config
