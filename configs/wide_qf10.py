"""The paper's network, F = 64, at quality 10, on two CPU cores: from the weights of wide_qf20.py.

    python -m dmcnn_jax.main --config configs/wide_qf10.py --config.data.source=packs/train

Half an hour, after the commands of wide_qf20.py.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.recipes import set_steps


def get_config():
    """As wide_qf20.py, shorter."""
    config = default_config()
    config.name = "wide-qf10"
    config.quality = 10
    config.init_from = "runs/wide-qf20"
    config.train.optimizer = "muon"
    config.train.learning_rate = 2e-3
    stages = (128, 192, 256), (4, 2, 2), (700, 300, 200)
    set_steps(config, *stages, warmup_steps=100, validate_every=300)
    config.train.checkpoint_every = 100
    return config
