"""A network of medium size for every JPEG: qualities 5 to 95, any table, F = 32.

    python tools/pack_images.py FOLDER_OF_IMAGES -o packs/full --luma full
    python -m dmcnn_jax.main --config configs/medium_any.py --config.data.source=packs/full

It starts from the bundled weights for quality 20, and takes an hour on one CPU core, or half an
hour on two. configs/shipped/dmcnn_any.py has all three phases that made the bundled dmcnn-any.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_every_table, set_medium, set_steps


def get_config():
    """Returns a configuration whose network reads the table; half of the tables are random."""
    config = default_config()
    config.name = "medium-any"
    set_every_table(config)
    config.init_from = "dmcnn-qf20"
    set_medium(config)
    set_steps(config, (128, 192), (4, 2), (2600, 900), warmup_steps=100, validate_every=500)
    return config
