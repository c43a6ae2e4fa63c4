"""ARCNN (Dong et al., ICCV 2015), as its authors trained it, or on a budget all networks share.

    python -m dmcnn_jax.main --config configs/arcnn.py --config.data.source=FOLDER
    python -m dmcnn_jax.main --config configs/arcnn.py:cpu --config.data.source=FOLDER

SGD at 5e-4, the last layer at a tenth of it, batches of 128, are the authors'; 35 × 35 pixels
become 40 × 40, of which 22 × 22 count. Theirs starts from the weights of an easier quality:

    python -m dmcnn_jax.main --config configs/arcnn.py --config.quality=20 --workdir=runs/arcnn-20
    python -m dmcnn_jax.main --config configs/arcnn.py --config.init_from=runs/arcnn-20

Published for LIVE1: 28.96 dB at quality 10, 31.29 dB at 20 (DMCNN's paper: 29.13, 31.40).
"""

import ml_collections

from dmcnn_jax.config import default_config
from dmcnn_jax.config.recipes import set_budget


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
    return config
