"""DDCN (Guo, Chao, ECCV 2016), by what is known of its recipe, or on a budget all networks share.

    python -m dmcnn_jax.main --config configs/ddcn.py --config.data.source=FOLDER
    python -m dmcnn_jax.main --config configs/ddcn.py:cpu --config.data.source=FOLDER

Adam and patches of 55 × 55 pixels (56 × 56 here) are the authors'; the rest is assumed.
DMCNN's paper reports, for the test images of BSDS500, 29.59 dB at quality 10 and 31.88 dB at 20.
"""

import ml_collections

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_budget


def get_config(recipe: str = "paper"):
    """Returns the authors' recipe or, for a budget such as "cpu" or "gpu", a common one."""
    config = default_config()
    config.name = "ddcn"
    config.quality = 10
    config.model = ml_collections.ConfigDict({"name": "ddcn", "features": 64, "dtype": "float32"})
    config.train.patch_sizes = (56,)
    config.train.batch_sizes = (64,)
    config.train.stage_steps = (400_000,)
    if recipe != "paper":
        set_budget(config, recipe)
    return config
