"""A network that a CPU can train and run: F = 24, 0.66 M weights, quality 20.

    python -m dmcnn_jax.main --config configs/small_qf20.py --config.data.source=FOLDER_OF_IMAGES

It takes about an hour on two CPU cores.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_steps


def get_config():
    """Returns a configuration with small batches, two patch sizes and a cosine schedule."""
    config = default_config()
    config.name = "small-qf20"
    config.quality = 20
    config.model.features = 24
    set_steps(config, (64, 128), (16, 4), (2100, 700), warmup_steps=200, validate_every=500)
    return config
