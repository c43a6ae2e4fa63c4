"""The bundled dmcnn-chroma-large, from images to weights: two hours on two CPU cores.

python tools/train_recipe.py configs/shipped/dmcnn_chroma_large.py --source FOLDER \
    -o runs/dmcnn-chroma-large
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_steps
from dmcnn_jax.config.recipes import TrainPhase

DILATIONS = (1, 2, 4, 8, 16, 8, 4, 2, 1)


def get_phases():
    """Returns three training runs: two on 4:2:0 alone, and a long one on all samplings."""
    # 41 million pixels: nine minutes on two CPU cores.
    first = base_config()
    set_steps(first, (128,), (6,), (420,), warmup_steps=30, validate_every=210)
    first.train.clip_norm = 0.05

    # 98 million pixels: twelve minutes on two cores.
    longer = base_config()
    set_steps(longer, (128,), (6,), (1000,), warmup_steps=100, validate_every=250)
    longer.train.clip_norm = 0.05

    # 511 million pixels: about two hours on two cores that did other work, too. Of eight steps, six
    # have 4:2:0, one has 4:2:2 and one has 4:4:4, on average.
    long = base_config()
    long.data.subsampling = ("4:2:0",) * 6 + ("4:2:2", "4:4:4")
    set_steps(long, (128,), (6,), (5200,), warmup_steps=100, validate_every=250)
    long.train.clip_norm = 0.05

    return [
        TrainPhase("first", first),
        TrainPhase("longer", longer, start="first"),
        TrainPhase("long", long, start="longer"),
    ]


def base_config():
    """Returns the configuration that the phases share: 64 channels, 11 layers, Muon."""
    config = default_config()
    config.quality = 10
    config.quality_range = (5, 95)
    config.random_table_prob = 0.4
    config.model = {"name": "chroma", "features": 64, "dilations": DILATIONS}
    config.data.luma = "rgb"
    config.data.guide = "dmcnn-small-any"
    config.data.max_short_side = 272
    config.train.optimizer = "muon"
    config.train.learning_rate = 2e-3
    return config
