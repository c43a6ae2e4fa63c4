"""The bundled dmcnn-small-qf20, from images to weights: an hour, LIVE1 31.44 dB (JPEG 30.07 dB).

python tools/train_recipe.py configs/shipped/dmcnn_small_qf20.py --source FOLDER \
    -o runs/dmcnn-small-qf20
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_steps
from dmcnn_jax.config.recipes import TrainPhase


def get_phases():
    """Returns two training runs; together they took 65 minutes on two CPU cores."""
    first = base_config()
    set_steps(first, (64, 128), (16, 4), (2100, 700), warmup_steps=200, validate_every=500)

    larger = base_config()
    larger.train.learning_rate = 4e-4
    set_steps(larger, (160,), (4,), (900,), warmup_steps=50, validate_every=500)

    return [TrainPhase("first", first), TrainPhase("larger", larger, start="first")]


def base_config():
    """Returns the configuration that the phases share: F = 24, Adam, quality 20."""
    config = default_config()
    config.quality = 20
    config.model.features = 24
    return config
