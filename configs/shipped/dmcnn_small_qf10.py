"""The bundled dmcnn-small-qf10, from images to weights: two hours, LIVE1 29.22 dB (JPEG 27.77 dB).

python tools/train_recipe.py configs/shipped/dmcnn_small_qf10.py --source FOLDER \
    -o runs/dmcnn-small-qf10
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_steps
from dmcnn_jax.config.recipes import TrainPhase


def get_phases():
    """Returns two training runs: at quality 20, and from there at 10."""
    # The same as the first phase of dmcnn_small_qf20.py: about an hour on two CPU cores.
    easier = base_config(quality=20)
    set_steps(easier, (64, 128), (16, 4), (2100, 700), warmup_steps=200, validate_every=500)

    # 50 minutes on two cores. For want of time, the bundled file's run was shortened to 3,900 steps
    # on the way; its weights are those of step 3,500.
    harder = base_config(quality=10)
    set_steps(harder, (96, 160), (8, 3), (3200, 1400), warmup_steps=200, validate_every=500)

    return [TrainPhase("easier", easier), TrainPhase("harder", harder, start="easier")]


def base_config(quality):
    """Returns the configuration that the phases share: F = 24, Adam."""
    config = default_config()
    config.quality = quality
    config.model.features = 24
    return config
