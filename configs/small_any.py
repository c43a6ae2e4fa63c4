"""One small network for every JPEG: qualities 5 to 95, any table, F = 24.

    python -m dmcnn_jax.main --config configs/small_any.py --config.data.source=FOLDER_OF_IMAGES

It starts from the bundled weights for quality 20, and takes about an hour on two CPU cores.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_every_table, set_steps


def get_config():
    """Returns a configuration whose network reads the table; half of the tables are random."""
    config = default_config()
    config.name = "small-any"
    set_every_table(config)
    config.init_from = "dmcnn-small-qf20"
    config.model.features = 24
    set_steps(config, (96, 160), (8, 4), (1500, 1800), warmup_steps=200, validate_every=500)
    return config
