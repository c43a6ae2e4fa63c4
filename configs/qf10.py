"""The paper's recipe: quality 10, from the weights of quality 20.

    python -m dmcnn_jax.main --config configs/qf20.py
    python -m dmcnn_jax.main --config configs/qf10.py

For LIVE1, the paper reports PSNR 29.73 dB, SSIM 0.842 and PSNR-B 29.55 dB; the JPEG has 27.77 dB,
0.791 and 25.33 dB.
"""

from dmcnn_jax.config import default_config


def get_config():
    """Returns the default configuration at quality 10, started from quality 20."""
    config = default_config()
    config.name = "qf10"
    config.quality = 10
    config.init_from = "runs/qf20"
    return config
