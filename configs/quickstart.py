"""A small network on the packaged photographs: a first run, in minutes on a laptop.

python -m dmcnn_jax.main --config configs/quickstart.py
"""

from dmcnn_jax.config import default_config


def get_config():
    """Returns a configuration with F = 16, a single stage and a cosine schedule."""
    config = default_config()
    config.name = "quickstart"
    config.quality = 10
    config.model.features = 16
    config.data.validation_images = 4
    config.train.patch_sizes = (56,)
    config.train.batch_sizes = (16,)
    config.train.stage_steps = (600,)
    config.train.ema_decay = 0.99
    config.train.validate_every = 200
    config.train.log_every = 10
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 50
    return config
