"""The paper's network at quality 20 on one large GPU.

    python tools/pack_images.py FOLDER_OF_IMAGES -o packs/train
    python -m dmcnn_jax.main --config configs/fast_qf20.py --config.data.source=packs/train

It computes in bfloat16, with two patch sizes and Muon, and the learning rate falls along a cosine
over a given number of steps instead of waiting for plateaus. `tools/gpu_session.py` trains it for a
given time instead.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_steps


def get_config():
    """Returns the configuration of qf20.py with a fixed number of steps."""
    config = default_config()
    config.name = "fast-qf20"
    config.quality = 20
    config.model.dtype = "bfloat16"
    config.train.optimizer = "muon"
    config.train.learning_rate = 1.5e-3
    set_steps(config, (128, 192), (64, 28), (13_000, 7_000), warmup_steps=400, validate_every=2000)
    config.train.log_every = 100
    config.schedule.cooldown = 0.25
    return config
