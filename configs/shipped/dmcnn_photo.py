"""The bundled dmcnn-photo, from images to weights: five hours on two CPU cores.

python tools/train_recipe.py configs/shipped/dmcnn_photo.py --source FOLDER -o runs/dmcnn-photo

The bundled weights have seen as many pixels in several sittings, whose lengths followed the clock
(docs/training-weights.md); this is one run by steps. Luma begins with the bundled dmcnn-any.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_photographs, set_steps
from dmcnn_jax.config.recipes import PackOptions, TrainPhase


def get_phases():
    """Returns one training run: a constant rate, and a cooldown in the last fifth."""
    config = default_config()
    config.init_from = "dmcnn-any"
    set_steps(config, (128,), (4,), (20_000,), warmup_steps=400, validate_every=500)
    set_photographs(config)
    config.data.tile = 160
    config.data.device_bytes = 2**28
    config.train.learning_rate = 8e-4
    return [TrainPhase("photo", config, pack=PackOptions((0.5, 0.8), copies=3, graphics=350))]
