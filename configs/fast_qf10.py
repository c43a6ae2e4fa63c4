"""The paper's network at quality 10 on one large GPU, from the weights of fast_qf20.py.

python -m dmcnn_jax.main --config configs/fast_qf20.py --config.data.source=packs/train
python -m dmcnn_jax.main --config configs/fast_qf10.py --config.data.source=packs/train
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_steps


def get_config():
    """Returns the configuration of fast_qf20.py at quality 10, with fewer steps."""
    config = default_config()
    config.name = "fast-qf10"
    config.quality = 10
    config.init_from = "runs/fast-qf20"
    config.model.dtype = "bfloat16"
    config.train.optimizer = "muon"
    config.train.learning_rate = 1e-3
    set_steps(config, (128, 192), (64, 28), (6_000, 6_000), warmup_steps=400, validate_every=2000)
    config.train.log_every = 100
    config.schedule.cooldown = 0.25
    return config
