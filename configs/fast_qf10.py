"""The paper's network at quality 10 on one large GPU, from the weights of fast_qf20.py.

python -m dmcnn_jax.main --config configs/fast_qf20.py --config.data.source=packs/train
python -m dmcnn_jax.main --config configs/fast_qf10.py --config.data.source=packs/train
"""

from dmcnn_jax.config import default_config


def get_config():
    """As fast_qf20.py, on large patches from the start."""
    config = default_config()
    config.name = "fast-qf10"
    config.quality = 10
    config.init_from = "runs/fast-qf20"
    config.model.dtype = "bfloat16"
    config.train.patch_sizes = (224,)
    config.train.batch_sizes = (40,)
    config.train.stage_steps = (16_000,)
    config.train.clip_norm = 1.0
    config.train.validate_every = 2000
    config.train.log_every = 100
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 500
    return config
