"""A network of medium size, quality 20: F = 32, a DCT branch as wide as the paper's, 2 M weights.

    python tools/pack_images.py FOLDER_OF_IMAGES -o packs/train
    python -m dmcnn_jax.main --config configs/medium_qf20.py --config.data.source=packs/train

It takes about an hour on two CPU cores. The DCT branch computes on the grid of blocks, where
channels cost little: with 128 of them instead of 64, a step takes 5 % longer. The bundled
dmcnn-qf20 was trained further, in the phases of configs/shipped/dmcnn_qf20.py.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_medium, set_steps


def get_config():
    """Returns a configuration with Muon, small batches, three patch sizes and a cosine schedule."""
    config = default_config()
    config.name = "medium-qf20"
    config.quality = 20
    set_medium(config)
    config.train.learning_rate = 3e-3
    stages = (96, 160, 224), (8, 4, 2), (3000, 1000, 300)
    set_steps(config, *stages, warmup_steps=100, validate_every=500)
    return config
