"""The bundled dmcnn-any, from images to weights: three hours; qualities 5 to 95, any table.

python tools/train_recipe.py configs/shipped/dmcnn_any.py --source FOLDER -o runs/dmcnn-any
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_every_table, set_medium, set_steps
from dmcnn_jax.config.recipes import TrainPhase


def get_phases():
    """Returns three training runs: at quality 20, for every table, and on cleaner images."""
    # The same as the first phase of dmcnn_qf20.py, on luma of 16 to 235: 66 minutes on two cores.
    easier = base_config(learning_rate=3e-3)
    stages = (96, 160, 224), (8, 4, 2), (3000, 1000, 300)
    set_steps(easier, *stages, warmup_steps=100, validate_every=500)

    # 65 minutes on one core.
    every_table = base_config(learning_rate=2e-3)
    set_every_table(every_table)
    stages = (128, 192), (4, 2), (2600, 900)
    set_steps(every_table, *stages, warmup_steps=100, validate_every=500)

    # Images reduced further, which removes their own JPEG artifacts: 39 minutes on one core.
    clean = base_config(learning_rate=1e-3)
    set_every_table(clean)
    clean.data.max_short_side = 272
    stages = (128, 192, 256), (4, 2, 2), (2400, 600, 300)
    set_steps(clean, *stages, warmup_steps=100, validate_every=300)
    # Gradients usually have a norm of about 0.003. A rare table gave one of 0.7, which dominated
    # Muon's momentum for so long that half of the gain was lost.
    clean.train.clip_norm = 0.01

    return [
        TrainPhase("easier", easier),
        TrainPhase("every-table", every_table, start="easier"),
        TrainPhase("clean", clean, start="every-table"),
    ]


def base_config(learning_rate):
    """Returns the configuration that the phases share: F = 32, Muon, validated at quality 20."""
    config = default_config()
    config.quality = 20
    set_medium(config)
    config.train.learning_rate = learning_rate
    return config
