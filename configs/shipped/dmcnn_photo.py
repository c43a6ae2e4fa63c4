"""The bundled dmcnn-photo, from images to weights: seven hours on two CPU cores.

python tools/train_recipe.py configs/shipped/dmcnn_photo.py --source FOLDER -o runs/dmcnn-photo

The bundled weights have seen as many pixels in several runs, whose lengths followed the clock
(docs/training-weights.md); these are three runs by steps. Luma begins with the bundled dmcnn-any.
"""

from dataclasses import replace

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_photographs, set_steps
from dmcnn_jax.config.recipes import PackOptions, TrainPhase


def get_phases():
    """Returns three runs: with luma's network frozen, with all weights, and with skies."""
    frozen, everything, skies = (base_config(steps) for steps in (19_000, 4_100, 3_400))
    everything.train.unfreeze = skies.train.unfreeze = True
    # These start from good weights, and end with long cooldowns.
    everything.schedule.cooldown = 0.5
    skies.train.learning_rate, skies.schedule.cooldown = 4e-4, 0.97
    pack = PackOptions((0.5, 0.8), copies=3, graphics=350)
    return [
        TrainPhase("frozen", frozen, pack=pack),
        TrainPhase("everything", everything, start="frozen", pack=pack),
        TrainPhase("skies", skies, start="everything", pack=replace(pack, skies=150)),
    ]


def base_config(steps):
    """Returns the configuration that all runs share: a constant rate, then a cooldown."""
    config = default_config()
    config.init_from = "dmcnn-any"
    set_steps(config, (128,), (4,), (steps,), warmup_steps=400, validate_every=500)
    set_photographs(config)
    config.data.tile = 160
    config.data.device_bytes = 2**28
    config.train.learning_rate = 8e-4
    return config
