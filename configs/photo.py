r"""The network for photographs: Y, Cb and Cr at once, every quality and table.

python tools/pack_images.py FOLDER_OF_IMAGES -o packs/photo --luma rgb --tile 160 --scales 0.5 0.8 \
    --copies 3 --graphics 350 --skies 150
python -m dmcnn_jax.main --config configs/photo.py --config.data.source=packs/photo

It trains for days, over as many runs as it takes, at a constant rate, from the bundled weights
of the last run. `--config.init_from=dmcnn-any` starts from random ones, but for luma, which
that network restores first; `--config.train.unfreeze` trains that network too. To end it, set
`--config.train.stage_steps="(N,)"` to 1.25 times the number of steps done: the last fifth is the
cooldown.
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_photographs, set_steps


def get_config():
    """Returns a configuration with Muon on all samplings, at a constant rate."""
    config = default_config()
    config.name = "photo"
    config.init_from = "dmcnn-photo"
    # Small batches at first, since most is learned by many steps; larger ones later.
    set_steps(config, (128,), (4,), (1_000_000,), warmup_steps=200, validate_every=500)
    set_photographs(config)
    config.data.tile = 160
    # Tiles are read from the pack batch by batch: a copy for each device would take gigabytes.
    config.data.device_bytes = 2**28
    # For weights that have learned for some thousand steps; random ones take five times as much.
    config.train.learning_rate = 4e-4
    config.train.checkpoint_every = 100
    return config
