"""The network for photographs on one large GPU: random weights, but for luma's dmcnn-any.

    python tools/gpu_session.py pack FOLDER_OF_IMAGES -o PACK
    python tools/gpu_session.py train configs/fast_photo.py:5 --source PACK -o OUT

As photo.py, in bfloat16 and with larger batches; `tools/gpu_session.py` trains it by the clock.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_photographs, set_steps


def get_config():
    """Returns the configuration of photo.py in bfloat16, with larger batches and a cooldown."""
    config = default_config()
    config.name = "fast-photo"
    set_steps(config, (128,), (64,), (20_000,), warmup_steps=400, validate_every=2000)
    set_photographs(config)
    config.model.dtype = "bfloat16"
    config.init_from = "dmcnn-any"
    config.train.log_every = 100
    config.schedule.cooldown = 0.25
    return config
