"""A network of middle size for every JPEG: qualities 5 to 95, any table, F = 32.

    python tools/pack_images.py FOLDER_OF_IMAGES -o packs/full --luma full
    python -m dmcnn_jax.main --config configs/medium_any.py --config.data.source=packs/full
    python tools/pack_images.py FOLDER_OF_IMAGES -o packs/full-clean --luma full \
        --max-short-side 272
    python -m dmcnn_jax.main --config configs/medium_any.py:clean \
        --config.data.source=packs/full-clean

It starts from the bundled weights of quality 20. An hour on one CPU core, half on two; then, on
images that are reduced further, and are cleaner, forty minutes on one.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.recipes import set_every_table, set_medium, set_steps


def get_config(go: str = ""):
    """The network is told the table; half of the tables are no standard ones; full-range luma.

    Args:
        go: "" for the first, "clean" for the one that goes on from it.

    Raises:
        ValueError: for another go.
    """
    config = default_config()
    config.name = "medium-any"
    set_every_table(config)
    config.init_from = "dmcnn-qf20"
    set_medium(config)
    set_steps(config, (128, 192), (4, 2), (2600, 900), warmup_steps=100, validate_every=500)
    if go not in ("", "clean"):
        raise ValueError(f"unknown go {go!r}; expected clean, or nothing")
    if go:
        config.name = "medium-any-clean"
        config.init_from = "runs/medium-any"
        config.data.max_short_side = 272
        config.train.learning_rate = 1e-3
        stages = (128, 192, 256), (4, 2, 2), (2400, 600, 300)
        set_steps(config, *stages, warmup_steps=100, validate_every=300)
        # Gradients have a norm of 0.003. Muon's steps are as long for any, but its momentum turned
        # to one of 0.7, of some rare table, for so long that half of the gain was lost.
        config.train.clip_norm = 0.01
    return config
