"""The paper's network, F = 64, at quality 20, on two CPU cores: from a narrower one's weights.

    python tools/train_recipe.py configs/shipped/dmcnn_qf20.py --source FOLDER -o runs/dmcnn-qf20
    python -m dmcnn_jax.main --config configs/wide_qf20.py \
        --config.data.source=runs/dmcnn-qf20/packs/studio-256-512

It takes an hour, and starts from the second phase of dmcnn-qf20, after which the first command may
be interrupted. The narrower network's channels are kept; new ones beside them leave the output
unchanged at first. On LIVE1 it reaches 31.63 dB, no better than the narrower network yet.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_steps


def get_config():
    """Returns a configuration with Muon, as in medium_qf20.py, and larger patches."""
    config = default_config()
    config.name = "wide-qf20"
    config.quality = 20
    config.init_from = "runs/dmcnn-qf20/2-larger"
    config.train.optimizer = "muon"
    config.train.learning_rate = 2e-3
    stages = (128, 192, 256), (4, 2, 2), (1600, 500, 250)
    set_steps(config, *stages, warmup_steps=100, validate_every=500)
    config.train.checkpoint_every = 100
    return config
