"""The bundled dmcnn-qf10, from images to weights: 4½ hours, LIVE1 29.35 dB (JPEG 27.77 dB).

python tools/train_stages.py configs/shipped/dmcnn_qf10.py --source FOLDER -o runs/dmcnn-qf10
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.recipes import set_medium, set_steps
from dmcnn_jax.config.stages import AverageStage, TrainStage

PATCHES = (128, 192, 256)


def get_stages():
    """Returns six training runs, the first one at quality 20, and the mean of the last two."""
    # Quality 20, the same as the first stage of dmcnn_qf20.py: 66 minutes on two CPU cores.
    easier = base_config(quality=20, learning_rate=3e-3)
    phases = (96, 160, 224), (8, 4, 2), (3000, 1000, 300)
    set_steps(easier, *phases, warmup_steps=100, validate_every=500)

    # 20 minutes on two cores.
    first = base_config()
    phases = (96, 160, 224), (8, 4, 2), (600, 500, 150)
    set_steps(first, *phases, warmup_steps=50, validate_every=300)

    # Larger patches: 64 minutes on one core.
    larger = base_config()
    phases = PATCHES, (4, 2, 1), (2200, 600, 200)
    set_steps(larger, *phases, warmup_steps=100, validate_every=500)

    # Images reduced further, which removes their own JPEG artifacts: 19 minutes on two cores.
    clean = base_config(max_short_side=272)
    phases = PATCHES, (4, 2, 2), (1000, 300, 150)
    set_steps(clean, *phases, warmup_steps=100, validate_every=250)

    # 93 minutes on one core.
    long = base_config(max_short_side=272)
    phases = PATCHES, (4, 2, 2), (5000, 1300, 700)
    set_steps(long, *phases, warmup_steps=200, validate_every=500)

    # No better than stage "long", but the mean of both is better: 23 minutes on one core.
    short = base_config(max_short_side=272)
    phases = PATCHES, (4, 2, 2), (1500, 500, 400)
    set_steps(short, *phases, warmup_steps=100, validate_every=500)

    return [
        TrainStage("easier", easier),
        TrainStage("first", first, start="easier"),
        TrainStage("larger", larger, start="first"),
        TrainStage("clean", clean, start="larger"),
        TrainStage("long", long, start="clean"),
        TrainStage("short", short, start="long"),
        AverageStage("mean", of=("long", "short")),
    ]


def base_config(quality=10, learning_rate=2e-3, max_short_side=512):
    """Returns the configuration that the stages share: F = 32, Muon."""
    config = default_config()
    config.quality = quality
    set_medium(config)
    config.train.learning_rate = learning_rate
    config.data.max_short_side = max_short_side
    return config
