"""The paper's network for every JPEG on one large GPU: qualities 5 to 95, any table.

    python tools/pack_images.py FOLDER_OF_IMAGES -o packs/full --luma full
    python -m dmcnn_jax.main --config configs/any.py --config.data.source=packs/full

It starts from the weights of fast_qf20.py; small_any.py is the same for a CPU.
"""

from dmcnn_jax.config import default_config


def get_config():
    """The network is told the table; half of the tables are no standard ones; full-range luma."""
    config = default_config()
    config.name = "any"
    config.quality_range = (5, 95)
    config.table_variety = 0.5
    config.init_from = "runs/fast-qf20"
    config.model.condition_on_table = True
    config.model.dtype = "bfloat16"
    config.data.luma = "full"
    config.evaluate.luma = "full"
    config.train.patch_sizes = (224,)
    config.train.batch_sizes = (40,)
    config.train.stage_steps = (16_000,)
    config.train.clip_norm = 1.0
    config.train.validate_every = 2000
    config.train.log_every = 100
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 500
    return config
