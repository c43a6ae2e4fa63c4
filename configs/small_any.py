"""One small network for every JPEG: qualities 5 to 95, any table, F = 24.

    python -m dmcnn_jax.main --config configs/small_any.py --config.data.source=FOLDER_OF_IMAGES

It starts from weights for quality 20. About an hour on two CPU cores.
"""

from dmcnn_jax.config import default_config


def get_config():
    """The network is told the table; half of the tables are no standard ones; full-range luma."""
    config = default_config()
    config.name = "small-any"
    config.quality_range = (5, 95)
    config.table_variety = 0.5
    config.init_from = "dmcnn-small-qf20"
    config.model.features = 24
    config.model.condition_on_table = True
    config.data.luma = "full"
    config.evaluate.luma = "full"
    config.train.patch_sizes = (96, 160)
    # Even numbers: on CPU the gradient of an odd batch takes four times as long.
    config.train.batch_sizes = (8, 4)
    config.train.stage_steps = (1500, 1800)
    config.train.clip_norm = 1.0
    config.train.validate_every = 500
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 200
    return config
