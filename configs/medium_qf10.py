"""The network of medium_qf20.py at quality 10, starting from its weights.

    python -m dmcnn_jax.main --config configs/medium_qf20.py --config.data.source=packs/train
    python -m dmcnn_jax.main --config configs/medium_qf10.py --config.data.source=packs/train

It takes twenty minutes on two CPU cores. The bundled dmcnn-qf10 was trained further, in the phases
of configs/shipped/dmcnn_qf10.py.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_medium, set_steps


def get_config():
    """Returns the configuration of medium_qf20.py with fewer steps, at quality 10."""
    config = default_config()
    config.name = "medium-qf10"
    config.quality = 10
    config.init_from = "runs/medium-qf20"
    set_medium(config)
    stages = (96, 160, 224), (8, 4, 2), (600, 500, 150)
    set_steps(config, *stages, warmup_steps=50, validate_every=300)
    return config
