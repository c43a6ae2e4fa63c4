"""The paper's network at quality 10 on one large GPU, from the weights of fast_qf20.py.

python -m dmcnn_jax.main --config configs/fast_qf20.py --config.data.source=packs/train
python -m dmcnn_jax.main --config configs/fast_qf10.py --config.data.source=packs/train
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_steps


def get_config():
    """Returns the configuration of fast_qf20.py with large patches only."""
    config = default_config()
    config.name = "fast-qf10"
    config.quality = 10
    config.init_from = "runs/fast-qf20"
    config.model.dtype = "bfloat16"
    set_steps(config, (224,), (40,), (16_000,), warmup_steps=500, validate_every=2000)
    config.train.log_every = 100
    return config
