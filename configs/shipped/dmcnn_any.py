"""The bundled dmcnn-any, from images to weights: three hours; qualities 5 to 95, any table.

python tools/train_stages.py configs/shipped/dmcnn_any.py --source FOLDER -o runs/dmcnn-any
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.recipes import set_every_table, set_medium, set_steps
from dmcnn_jax.config.stages import TrainStage


def get_stages():
    """Returns three training runs: at quality 20, for every table, and on cleaner images."""
    # The same as the first stage of dmcnn_qf20.py, on luma of 16 to 235: 66 minutes on two cores.
    easier = base_config(learning_rate=3e-3)
    phases = (96, 160, 224), (8, 4, 2), (3000, 1000, 300)
    set_steps(easier, *phases, warmup_steps=100, validate_every=500)

    # 65 minutes on one core.
    every_table = base_config(learning_rate=2e-3)
    set_every_table(every_table)
    phases = (128, 192), (4, 2), (2600, 900)
    set_steps(every_table, *phases, warmup_steps=100, validate_every=500)

    # Images reduced further, which removes their own JPEG artifacts: 39 minutes on one core.
    clean = base_config(learning_rate=1e-3)
    set_every_table(clean)
    clean.data.max_short_side = 272
    phases = (128, 192, 256), (4, 2, 2), (2400, 600, 300)
    set_steps(clean, *phases, warmup_steps=100, validate_every=300)
    # Gradients usually have a norm of about 0.003. A rare table gave one of 0.7, which dominated
    # Muon's momentum for so long that half of the gain was lost.
    clean.train.clip_norm = 0.01

    return [
        TrainStage("easier", easier),
        TrainStage("every-table", every_table, start="easier"),
        TrainStage("clean", clean, start="every-table"),
    ]


def base_config(learning_rate):
    """Returns the configuration that the stages share: F = 32, Muon, validated at quality 20."""
    config = default_config()
    config.quality = 20
    set_medium(config)
    config.train.learning_rate = learning_rate
    return config
