"""The network of small_qf20.py at quality 10, starting from its weights.

    python -m dmcnn_jax.main --config configs/small_qf20.py --config.data.source=FOLDER_OF_IMAGES
    python -m dmcnn_jax.main --config configs/small_qf10.py --config.data.source=FOLDER_OF_IMAGES

It takes about an hour on two CPU cores.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_steps


def get_config():
    """Returns the configuration of small_qf20.py with more steps and larger patches."""
    config = default_config()
    config.name = "small-qf10"
    config.quality = 10
    config.init_from = "runs/small-qf20"
    config.model.features = 24
    set_steps(config, (96, 160), (8, 3), (3200, 1400), warmup_steps=200, validate_every=500)
    return config
