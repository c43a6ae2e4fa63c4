"""The network of medium_qf20.py at quality 10, from its weights.

    python -m dmcnn_jax.main --config configs/medium_qf20.py --config.data.source=packs/train
    python -m dmcnn_jax.main --config configs/medium_qf10.py --config.data.source=packs/train

Twenty minutes on two CPU cores.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.recipes import set_steps


def get_config():
    """As medium_qf20.py, shorter, and on larger patches."""
    config = default_config()
    config.name = "medium-qf10"
    config.quality = 10
    config.init_from = "runs/medium-qf20"
    config.model.features = 32
    config.model.dct_features = 128
    config.train.optimizer = "muon"
    config.train.learning_rate = 2e-3
    stages = (96, 160, 224), (8, 4, 2), (600, 500, 150)
    set_steps(config, *stages, warmup_steps=50, validate_every=300)
    return config
