"""A network that a CPU can train and run: F = 24, 0.66 M weights, quality 20.

    python -m dmcnn_jax.main --config configs/small_qf20.py --config.data.source=FOLDER_OF_IMAGES

About an hour on two CPU cores.
"""

from dmcnn_jax.config import default_config


def get_config():
    """Small batches, two patch sizes, and a learning rate that falls along a cosine to its end."""
    config = default_config()
    config.name = "small-qf20"
    config.quality = 20
    config.model.features = 24
    config.train.patch_sizes = (64, 128)
    config.train.batch_sizes = (16, 4)
    config.train.stage_steps = (2100, 700)
    config.train.clip_norm = 1.0
    config.train.validate_every = 500
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 200
    return config
