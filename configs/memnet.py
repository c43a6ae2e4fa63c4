"""MemNet (Tai et al., ICCV 2017), by its authors' recipe, or on a budget all networks share.

    python -m dmcnn_jax.main --config configs/memnet.py --config.data.source=FOLDER
    python -m dmcnn_jax.main --config configs/memnet.py:cpu --config.data.source=FOLDER

The authors' recipe is SGD at a rate of 0.1, divided by 10 on plateaus, with momentum 0.9, weight
decay 1e-4, gradients clipped to a norm of 0.01, and batches of 32. Their patches of 31 × 31 pixels
become 32 × 32 here.
"""

import ml_collections

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_budget


def get_config(recipe: str = "paper"):
    """Returns the authors' recipe or, for a budget such as "cpu" or "gpu", a common one."""
    config = default_config()
    config.name = "memnet"
    config.quality = 10
    config.model = ml_collections.ConfigDict({"name": "memnet", "features": 64, "dtype": "float32"})
    config.train.patch_sizes = (32,)
    config.train.batch_sizes = (32,)
    config.train.stage_steps = (1_000_000,)
    config.train.optimizer = "sgd"
    config.train.learning_rate = 0.1
    config.train.weight_decay = 1e-4
    config.train.clip_norm = 0.01
    config.schedule.factor = 0.1
    if recipe != "paper":
        set_budget(config, recipe)
    return config
