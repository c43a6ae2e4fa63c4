"""The bundled dmcnn-qf20, from images to weights: five hours, LIVE1 31.71 dB (JPEG 30.07 dB).

python tools/train_recipe.py configs/shipped/dmcnn_qf20.py --source FOLDER -o runs/dmcnn-qf20
"""

from dmcnn_jax.config import default_config
from dmcnn_jax.config.presets import set_medium, set_steps
from dmcnn_jax.config.recipes import AveragePhase, TrainPhase

PATCHES = (128, 192, 256)


def get_phases():
    """Returns six training runs, and the mean of two of them before the last, in order."""
    # 66 minutes on two CPU cores.
    first = base_config(learning_rate=3e-3)
    stages = (96, 160, 224), (8, 4, 2), (3000, 1000, 300)
    set_steps(first, *stages, warmup_steps=100, validate_every=500)

    # Larger patches: 64 minutes on one core.
    larger = base_config(learning_rate=2e-3)
    stages = PATCHES, (4, 2, 1), (2200, 600, 200)
    set_steps(larger, *stages, warmup_steps=100, validate_every=500)

    # Images reduced further, which removes their own JPEG artifacts: 12 minutes on two cores.
    clean = base_config(learning_rate=2e-3, max_short_side=272)
    stages = PATCHES, (4, 2, 2), (1400, 400, 200)
    set_steps(clean, *stages, warmup_steps=100, validate_every=200)

    # 93 minutes on one core.
    long = base_config(learning_rate=2e-3, max_short_side=272)
    stages = PATCHES, (4, 2, 2), (5000, 1300, 700)
    set_steps(long, *stages, warmup_steps=200, validate_every=500)

    # No better than phase "long", but the mean of both is better: 23 minutes on one core.
    short = base_config(learning_rate=2e-3, max_short_side=272)
    stages = PATCHES, (4, 2, 2), (1500, 500, 400)
    set_steps(short, *stages, warmup_steps=100, validate_every=500)

    # Half the rate; another seed sets other images aside for validation: 55 minutes on one core.
    last = base_config(learning_rate=1e-3, max_short_side=272)
    last.seed = 1
    stages = PATCHES, (4, 2, 2), (3400, 900, 500)
    set_steps(last, *stages, warmup_steps=200, validate_every=400)

    return [
        TrainPhase("first", first),
        TrainPhase("larger", larger, start="first"),
        TrainPhase("clean", clean, start="larger"),
        TrainPhase("long", long, start="clean"),
        TrainPhase("short", short, start="long"),
        AveragePhase("mean", of=("long", "short")),
        TrainPhase("last", last, start="mean"),
    ]


def base_config(learning_rate, max_short_side=512):
    """Returns the configuration that the phases share: F = 32, Muon, quality 20."""
    config = default_config()
    config.quality = 20
    set_medium(config)
    config.train.learning_rate = learning_rate
    config.data.max_short_side = max_short_side
    return config
