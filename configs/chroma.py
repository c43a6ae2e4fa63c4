"""The network for chroma: Cb and Cr at full size, guided by restored luma; qualities 5 to 95.

    python tools/pack_images.py FOLDER_OF_IMAGES -o packs/rgb --luma rgb
    python -m dmcnn_jax.main --config configs/chroma.py --config.data.source=packs/rgb

--config.data.guide names the weights that restore luma.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_steps


def get_config():
    """Returns a configuration for CPUs, with 4:2:0 in six of eight steps."""
    config = default_config()
    config.name = "chroma"
    config.quality = 10
    config.quality_range = (5, 95)
    config.random_table_prob = 0.4
    config.model = {"name": "chroma", "features": 32}
    config.data.luma = "rgb"
    config.data.subsampling = ("4:2:0",) * 6 + ("4:2:2", "4:4:4")
    set_steps(config, (96, 160), (8, 4), (3000, 1500), warmup_steps=100, validate_every=500)
    config.train.learning_rate = 2e-3
    return config
