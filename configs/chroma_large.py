"""The larger network for chroma, continued from the bundled dmcnn-chroma-large.

    python tools/pack_images.py FOLDER_OF_IMAGES -o packs/rgb-272 --luma rgb --max-short-side 272
    python -m dmcnn_jax.main --config configs/chroma_large.py --config.data.source=packs/rgb-272

`configs/shipped/dmcnn_chroma_large.py` trains it from random weights.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_steps


def get_config():
    """Returns a configuration with Muon on all samplings: two hours on two CPU cores."""
    config = default_config()
    config.name = "chroma-large"
    config.init_from = "dmcnn-chroma-large"
    config.quality = 10
    config.quality_range = (5, 95)
    config.random_table_prob = 0.4
    dilations = (1, 2, 4, 8, 16, 8, 4, 2, 1)
    config.model = {"name": "chroma", "features": 64, "dilations": dilations}
    config.data.luma = "rgb"
    config.data.guide = "dmcnn-small-any"
    config.data.max_short_side = 272
    config.data.subsampling = ("4:2:0",) * 6 + ("4:2:2", "4:4:4")
    config.train.optimizer = "muon"
    config.train.learning_rate = 2e-3
    set_steps(config, (128,), (6,), (5200,), warmup_steps=100, validate_every=250)
    config.train.clip_norm = 0.05
    return config
