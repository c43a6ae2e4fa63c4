"""The paper's network, F = 64, at quality 20, on two CPU cores: from the weights of medium_qf20.py.

    python tools/pack_images.py FOLDER_OF_IMAGES -o packs/train
    python -m dmcnn_jax.main --config configs/medium_qf20.py --config.data.source=packs/train
    python -m dmcnn_jax.main --config configs/medium_qf20.py:more --config.data.source=packs/train
    python -m dmcnn_jax.main --config configs/wide_qf20.py --config.data.source=packs/train

An hour. The narrower network's channels are kept, and new ones beside them change nothing at first.
LIVE1: 31.63 dB, as the narrower one; it is a start for more.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.recipes import set_steps


def get_config():
    """Muon, as the networks of middle size have it, on larger patches."""
    config = default_config()
    config.name = "wide-qf20"
    config.quality = 20
    config.init_from = "runs/medium-qf20-more"
    config.train.optimizer = "muon"
    config.train.learning_rate = 2e-3
    stages = (128, 192, 256), (4, 2, 2), (1600, 500, 250)
    set_steps(config, *stages, warmup_steps=100, validate_every=500)
    config.train.checkpoint_every = 100
    return config
