"""The paper's recipe: quality 20, from random weights.

    python -m dmcnn_jax.main --config configs/qf20.py
    python -m dmcnn_jax.main --config configs/qf20.py --config.data.source=FOLDER_OF_IMAGES

The paper trains on ImageNet and reports, for LIVE1, 32.09 dB / 0.905 / 31.32 dB (JPEG: 30.07 / 0.868
/ 27.57).
"""

from dmcnn_jax.config import default_config


def get_config():
    """The default configuration is this one."""
    config = default_config()
    config.name = "qf20"
    config.quality = 20
    return config
