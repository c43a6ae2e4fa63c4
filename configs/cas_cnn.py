r"""CAS-CNN (Cavigelli, Hager, Benini, IJCNN 2017), by what is known of its recipe, or on a budget.

    python -m dmcnn_jax.main --config configs/cas_cnn.py --config.data.source=FOLDER
    python -m dmcnn_jax.main --config configs/cas_cnn.py:cpu --config.data.source=FOLDER

The loss first counts all scales, then the full one alone:

    python -m dmcnn_jax.main --config configs/cas_cnn.py --workdir=runs/cas_cnn-2 \
        --config.init_from=runs/cas_cnn --config.model.side_weight=0

Patches of 120 × 120 pixels are the authors'; the optimizer and its rate are assumed.
DMCNN's paper reports, for LIVE1, 29.44 dB at quality 10 and 31.70 dB at 20.
"""

import ml_collections

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_budget


def get_config(recipe: str = "paper"):
    """Returns the authors' recipe or, for a budget such as "cpu" or "gpu", a common one."""
    config = default_config()
    config.name = "cas_cnn"
    config.quality = 10
    config.model = ml_collections.ConfigDict(
        {"name": "cas_cnn", "features": 128, "side_weight": 1.0, "dtype": "float32"}
    )
    config.train.patch_sizes = (120,)
    config.train.batch_sizes = (20,)
    config.train.stage_steps = (400_000,)
    config.train.learning_rate = 1e-4
    if recipe != "paper":
        set_budget(config, recipe)
    return config
