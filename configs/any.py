"""The paper's network for every JPEG, on one large GPU: qualities 5 to 95, any table.

    python tools/pack_images.py FOLDER_OF_IMAGES -o packs/full --luma full
    python -m dmcnn_jax.main --config configs/any.py --config.data.source=packs/full

It starts from the weights of fast_qf20.py; small_any.py is the same for a CPU.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_every_table, set_steps


def get_config():
    """Returns a configuration whose network reads the table; half of the tables are random."""
    config = default_config()
    config.name = "any"
    set_every_table(config)
    config.init_from = "runs/fast-qf20"
    config.model.dtype = "bfloat16"
    set_steps(config, (224,), (40,), (16_000,), warmup_steps=500, validate_every=2000)
    config.train.log_every = 100
    return config
