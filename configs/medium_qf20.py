"""A network of middle size, quality 20: F = 32, a DCT branch as wide as the paper's, 2 M weights.

    python tools/pack_images.py FOLDER_OF_IMAGES -o packs/train
    python -m dmcnn_jax.main --config configs/medium_qf20.py --config.data.source=packs/train
    python -m dmcnn_jax.main --config configs/medium_qf20.py:more --config.data.source=packs/train
    python tools/pack_images.py FOLDER_OF_IMAGES -o packs/clean --max-short-side 272
    python -m dmcnn_jax.main --config configs/medium_qf20.py:clean --config.data.source=packs/clean
    python -m dmcnn_jax.main --config configs/medium_qf20.py:long --config.data.source=packs/clean
    python -m dmcnn_jax.main --config configs/medium_qf20.py:last --config.data.source=packs/clean
    python tools/average_weights.py runs/medium-qf20-long runs/medium-qf20-last \
        -o runs/medium-qf20-mean.safetensors
    python -m dmcnn_jax.main --config configs/medium_qf20.py:again --config.data.source=packs/clean

About an hour on two CPU cores; those that go on, an hour on one, ten minutes on two, an hour and a
half on one, half an hour on one, and, from the mean of the last two, an hour on one. On the grid of
blocks channels cost next to nothing: with 128 of them instead of 64, a step takes 5 % longer.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.recipes import set_go, set_medium, set_steps


def get_config(go: str = ""):
    """Muon, small batches, three patch sizes, and a rate that falls along a cosine to its end."""
    config = default_config()
    config.name = "medium-qf20"
    config.quality = 20
    set_medium(config)
    config.train.learning_rate = 3e-3
    stages = (96, 160, 224), (8, 4, 2), (3000, 1000, 300)
    set_steps(config, *stages, warmup_steps=100, validate_every=500)
    set_go(config, go)
    return config
