"""The network for photographs on one large GPU, from random weights.

    python tools/gpu_session.py pack FOLDER_OF_IMAGES -o PACK
    python tools/gpu_session.py train configs/fast_photo.py:5 --source PACK -o OUT

As photo.py, in bfloat16 and with larger batches; `tools/gpu_session.py` trains it by the clock.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_steps


def get_config():
    """Returns a configuration with Muon on all samplings."""
    config = default_config()
    config.name = "fast-photo"
    config.quality = 10
    config.quality_range = (5, 97)
    config.random_table_prob = 0.4
    config.model = {"name": "photo", "dtype": "bfloat16"}
    config.data.luma = "rgb"
    config.data.max_short_side = 0
    config.data.subsampling = ("4:2:0",) * 5 + ("4:2:2", "4:4:4", "4:4:4")
    config.train.optimizer = "muon"
    config.train.learning_rate = 2e-3
    set_steps(config, (128,), (64,), (20_000,), warmup_steps=400, validate_every=2000)
    config.train.log_every = 100
    config.schedule.name = "constant"
    config.schedule.cooldown = 0.25
    return config
