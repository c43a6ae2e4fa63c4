"""The paper's recipe: quality 20, from random weights.

    python -m dmcnn_jax.main --config configs/qf20.py
    python -m dmcnn_jax.main --config configs/qf20.py --config.data.source=FOLDER_OF_IMAGES

The paper trains on ImageNet. For LIVE1, it reports PSNR 32.09 dB, SSIM 0.905 and PSNR-B 31.32 dB;
the JPEG has 30.07 dB, 0.868 and 27.57 dB.
"""

from dmcnn_jax.config import default_config


def get_config():
    """Returns the default configuration, which is the paper's recipe."""
    config = default_config()
    config.name = "qf20"
    config.quality = 20
    return config
