"""The bundled dmcnn-qf10, from images to weights: 4½ hours, LIVE1 29.35 dB (JPEG 27.77 dB).

python tools/train_recipe.py configs/shipped/dmcnn_qf10.py --source FOLDER -o runs/dmcnn-qf10
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_medium, set_steps
from dmcnn_jax.config.recipes import AveragePhase, TrainPhase

PATCHES = (128, 192, 256)


def get_phases():
    """Returns six training runs, the first one at quality 20, and the mean of the last two."""
    # Quality 20, the same as the first phase of dmcnn_qf20.py: 66 minutes on two CPU cores.
    easier = base_config(quality=20, learning_rate=3e-3)
    stages = (96, 160, 224), (8, 4, 2), (3000, 1000, 300)
    set_steps(easier, *stages, warmup_steps=100, validate_every=500)

    # 20 minutes on two cores.
    first = base_config()
    stages = (96, 160, 224), (8, 4, 2), (600, 500, 150)
    set_steps(first, *stages, warmup_steps=50, validate_every=300)

    # Larger patches: 64 minutes on one core.
    larger = base_config()
    stages = PATCHES, (4, 2, 1), (2200, 600, 200)
    set_steps(larger, *stages, warmup_steps=100, validate_every=500)

    # Images reduced further, which removes their own JPEG artifacts: 19 minutes on two cores.
    clean = base_config(max_short_side=272)
    stages = PATCHES, (4, 2, 2), (1000, 300, 150)
    set_steps(clean, *stages, warmup_steps=100, validate_every=250)

    # 93 minutes on one core.
    long = base_config(max_short_side=272)
    stages = PATCHES, (4, 2, 2), (5000, 1300, 700)
    set_steps(long, *stages, warmup_steps=200, validate_every=500)

    # No better than phase "long", but the mean of both is better: 23 minutes on one core.
    short = base_config(max_short_side=272)
    stages = PATCHES, (4, 2, 2), (1500, 500, 400)
    set_steps(short, *stages, warmup_steps=100, validate_every=500)

    return [
        TrainPhase("easier", easier),
        TrainPhase("first", first, start="easier"),
        TrainPhase("larger", larger, start="first"),
        TrainPhase("clean", clean, start="larger"),
        TrainPhase("long", long, start="clean"),
        TrainPhase("short", short, start="long"),
        AveragePhase("mean", of=("long", "short")),
    ]


def base_config(quality=10, learning_rate=2e-3, max_short_side=512):
    """Returns the configuration that the phases share: F = 32, Muon."""
    config = default_config()
    config.quality = quality
    set_medium(config)
    config.train.learning_rate = learning_rate
    config.data.max_short_side = max_short_side
    return config
