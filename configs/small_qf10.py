"""The network of small_qf20.py at quality 10, from its weights.

    python -m dmcnn_jax.main --config configs/small_qf20.py --config.data.source=FOLDER_OF_IMAGES
    python -m dmcnn_jax.main --config configs/small_qf10.py --config.data.source=FOLDER_OF_IMAGES

About an hour on two CPU cores.
"""

from dmcnn_jax.config import default_config


def get_config():
    """As small_qf20.py, longer and on larger patches."""
    config = default_config()
    config.name = "small-qf10"
    config.quality = 10
    config.init_from = "runs/small-qf20"
    config.model.features = 24
    config.train.patch_sizes = (96, 160)
    config.train.batch_sizes = (8, 3)
    config.train.stage_steps = (3200, 1400)
    config.train.clip_norm = 1.0
    config.train.validate_every = 500
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 200
    return config
