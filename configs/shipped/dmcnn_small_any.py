"""The bundled dmcnn-small-any, from images to weights: two hours; qualities 5 to 95, any table.

python tools/train_recipe.py configs/shipped/dmcnn_small_any.py --source FOLDER \
    -o runs/dmcnn-small-any
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_every_table, set_steps
from dmcnn_jax.config.recipes import TrainPhase


def get_phases():
    """Returns two training runs: at quality 20, and from there for every table."""
    # The same as the first phase of dmcnn_small_qf20.py: about an hour on two CPU cores.
    easier = base_config()
    set_steps(easier, (64, 128), (16, 4), (2100, 700), warmup_steps=200, validate_every=500)

    # 52 minutes on two cores.
    every_table = base_config()
    set_every_table(every_table)
    set_steps(every_table, (96, 160), (8, 4), (1500, 1100), warmup_steps=200, validate_every=500)

    return [TrainPhase("easier", easier), TrainPhase("every-table", every_table, start="easier")]


def base_config():
    """Returns the configuration that the phases share: F = 24, Adam, validated at quality 20."""
    config = default_config()
    config.quality = 20
    config.model.features = 24
    return config
