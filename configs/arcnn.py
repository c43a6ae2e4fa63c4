"""ARCNN (Dong et al., ICCV 2015), by its authors' recipe, or on a budget that all networks share.

    python -m dmcnn_jax.main --config configs/arcnn.py --config.data.source=FOLDER
    python -m dmcnn_jax.main --config configs/arcnn.py:cpu --config.data.source=FOLDER

The authors' recipe is SGD at a rate of 5e-4, with a tenth of that for the last layer, and batches
of 128. Their patches of 35 × 35 pixels become 40 × 40 here, of which the loss counts 22 × 22. The
authors start from the weights of an easier quality:

    python -m dmcnn_jax.main --config configs/arcnn.py --config.quality=20 --workdir=runs/arcnn-20
    python -m dmcnn_jax.main --config configs/arcnn.py --config.init_from=runs/arcnn-20

Published for LIVE1: 28.96 dB at quality 10, 31.29 dB at 20 (DMCNN's paper: 29.13, 31.40).
"""

import ml_collections

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_budget


def get_config(recipe: str = "paper"):
    """Returns the authors' recipe or, for a budget such as "cpu" or "gpu", a common one."""
    config = default_config()
    config.name = "arcnn"
    config.quality = 10
    config.model = ml_collections.ConfigDict({"name": "arcnn", "dtype": "float32"})
    config.train.patch_sizes = (40,)
    config.train.batch_sizes = (128,)
    config.train.stage_steps = (1_000_000,)
    config.train.optimizer = "sgd"
    config.train.learning_rate = 5e-4
    if recipe != "paper":
        set_budget(config, recipe)
    if recipe.endswith("-own"):
        # The loss is a sum over the pixels that padding doesn't influence, of which there are more.
        config.train.learning_rate *= 22**2 / (config.train.patch_sizes[0] - 18) ** 2
    return config
