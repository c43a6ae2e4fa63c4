"""The network of medium_qf20.py at quality 10, from its weights.

    python -m dmcnn_jax.main --config configs/medium_qf20.py --config.data.source=packs/train
    python -m dmcnn_jax.main --config configs/medium_qf10.py --config.data.source=packs/train
    python -m dmcnn_jax.main --config configs/medium_qf10.py:more --config.data.source=packs/train
    python tools/pack_images.py FOLDER_OF_IMAGES -o packs/clean --max-short-side 272
    python -m dmcnn_jax.main --config configs/medium_qf10.py:clean --config.data.source=packs/clean
    python -m dmcnn_jax.main --config configs/medium_qf10.py:long --config.data.source=packs/clean
    python -m dmcnn_jax.main --config configs/medium_qf10.py:last --config.data.source=packs/clean
    python tools/average_weights.py runs/medium-qf10-long runs/medium-qf10-last \
        -o runs/medium-qf10-mean.safetensors
    python -m dmcnn_jax.main --config configs/medium_qf10.py:again --config.data.source=packs/clean

Twenty minutes on two CPU cores; those that go on, an hour on one, ten minutes on two, an hour and a
half on one, half an hour on one, and, from the mean of the last two, an hour on one.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.recipes import set_go, set_medium, set_steps


def get_config(go: str = ""):
    """As medium_qf20.py, shorter, and on larger patches."""
    config = default_config()
    config.name = "medium-qf10"
    config.quality = 10
    config.init_from = "runs/medium-qf20"
    set_medium(config)
    stages = (96, 160, 224), (8, 4, 2), (600, 500, 150)
    set_steps(config, *stages, warmup_steps=50, validate_every=300)
    set_go(config, go)
    return config
