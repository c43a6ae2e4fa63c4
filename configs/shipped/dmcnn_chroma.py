"""The bundled dmcnn-chroma, from images to weights: 15 minutes on two CPU cores.

python tools/train_recipe.py configs/shipped/dmcnn_chroma.py --source FOLDER -o runs/dmcnn-chroma
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_steps
from dmcnn_jax.config.recipes import TrainPhase


def get_phases():
    """Returns one training run, guided by luma that the bundled dmcnn-small-any restores."""
    config = default_config()
    config.quality = 10
    config.quality_range = (5, 95)
    config.random_table_prob = 0.4
    config.model = {"name": "chroma", "features": 32}
    config.data.luma = "rgb"
    config.data.guide = "dmcnn-small-any"
    # Of eight steps, six have 4:2:0, one has 4:2:2 and one has 4:4:4, on average.
    config.data.subsampling = ("4:2:0",) * 6 + ("4:2:2", "4:4:4")
    config.train.learning_rate = 2e-3
    set_steps(config, (96, 160), (8, 4), (900, 500), warmup_steps=100, validate_every=250)
    return [TrainPhase("chroma", config)]
