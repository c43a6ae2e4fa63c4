"""Every setting there is, with its meaning, unit and default.

A file in `configs/` changes a few of them, and anything can be changed on the command line:
`--config.train.learning_rate=3e-4`, `--config.train.patch_sizes="(64, 128)"`.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ml_collections


def default_config() -> "ml_collections.ConfigDict":
    """The paper's recipe at quality 20, on the packaged photographs."""
    # Only those who make a configuration need it: evaluating and restoring do without.
    import ml_collections

    config = ml_collections.ConfigDict()

    # Of the run. Its files lie in `workdir`; empty: "runs/" and the name.
    config.name = "dmcnn"
    config.workdir = ""
    # Everything random follows from it: first weights, order, crops, flips, qualities.
    config.seed = 0
    # Weights to start from: a bundled name, a .safetensors file or a workdir. Empty: random ones.
    config.init_from = ""

    # JPEG quality, 1 to 100, of training pairs, validation and evaluation. With `quality_range`, a
    # pair (lowest, highest), training pairs are drawn uniformly from it, and `quality` is that of
    # validation and evaluation.
    config.quality = 20
    config.quality_range = ()
    # Share of training pairs, 0 to 1, whose quantisation table is not the standard one of their
    # quality but like those of cameras and of other encoders (`jpeg.varied_table`).
    config.table_variety = 0.0

    # The network: `name`, a key of dmcnn_jax.models.MODELS, and attributes of that module, which
    # says more of them.
    config.model = model = ml_collections.ConfigDict()
    model.name = "dmcnn"
    model.features = 64  # F: channels at full size; 2F and 4F below
    model.dct_features = ml_collections.config_dict.placeholder(int)  # None: 2F
    model.dtype = "float32"  # what the pixel branch computes in: float32 or bfloat16
    # What the paper claims, to be switched off or altered.
    model.dilations = (2, 4, 8)  # of layers 7 to 9 of the pixel branch
    model.dct_dilations = (2, 4, 8)  # of layers 4 to 6 of the DCT branch
    model.dct_branch = True
    model.multi_scale = True  # estimates at half and quarter size in the loss
    model.rectifier = "interval"  # or "leaky", "decoded", "none"
    model.margin = 0.25  # what the rectifier's intervals are widened by, grey levels
    model.residual = 0.5  # r's first value, and whether it is learned or stays
    model.learn_residual = True
    model.theta = 0.618  # weight of a scale against the next finer one in the loss
    model.dct_weight = 0.9  # λ, of the DCT branch's estimate in the loss
    model.relative_loss = False  # errors count relative to the JPEG's, patch by patch, as in PSNR
    # Whether it is told the quantisation table, for one network at every quality.
    model.condition_on_table = False

    config.data = data = ml_collections.ConfigDict()
    # Where training images come from: "packaged" (scikit-image's photographs), a folder of images,
    # a pack written by tools/pack_images.py, or "tfds:NAME", a TFDS data set with images
    # ("tfds:NAME@SPLIT" if it isn't "train").
    data.source = "packaged"
    # Where TFDS data sets lie; empty: TFDS's own place, ~/tensorflow_datasets.
    data.data_dir = ""
    # What makes pairs of them. "device": tiles, held in memory, become pairs inside the training
    # step. "tf.data": images are read as they are needed; needs TensorFlow. "auto": "tf.data" for
    # tfds:, "device" for the rest.
    data.pipeline = "auto"
    # Where validation images come from, likewise; empty: `validation_images` of the source are set
    # aside. Of "tfds:" `validation_images` are taken, of others all.
    data.validation = ""
    data.validation_images = 24
    # What tiles hold. Luma of BT.601: "studio" (16 to 235, MATLAB's rgb2ycbcr, the protocol's) or
    # "full" (0 to 255, what JPEG files hold). Or "rgb", for the network of chroma.
    data.luma = "studio"
    # Of the network of chroma: what restores the luma that guides it (a bundled name, a weights
    # file or a workdir), and how chroma is subsampled ("4:2:0", "4:2:2", "4:4:4"), drawn for each
    # step, of as many as are named; the first is that of validation.
    data.guide = "dmcnn-small-qf20"
    data.subsampling = ("4:2:0",)
    # Side of the square tiles that images are cut into, pixels; patches are cropped out of tiles.
    data.tile = 256
    # Images whose shorter side is longer are reduced to it first, pixels: it removes the artifacts
    # of images that were JPEGs themselves. 0: never.
    data.reduce_to = 512
    # Tiles are kept on the device up to so many bytes, else sent to it batch by batch.
    data.device_bytes = 8 * 2**30

    config.train = train = ml_collections.ConfigDict()
    # Stages: side of the patches (multiples of 8, at most the tile), their number in a batch (one
    # for all, or one a stage), and the most steps of each stage. A stage also ends when its
    # learning rate has converged (see `schedule`).
    train.patch_sizes = (56, 112, 168, 224)
    train.batch_sizes = (80,)
    train.stage_steps = (400_000, 200_000, 200_000, 200_000)
    # Whether all steps of a stage have one and the same batch, as optimizers expect that look for
    # the best step along a line ("lbfgs").
    train.fixed_batch = False
    # The optimizer: "adam", "sgd" (with momentum), "muon" (Nadam for all but convolutions), or
    # "lbfgs". Learning rate: at the start; of "lbfgs", which finds its own, 1.
    train.optimizer = "adam"
    train.learning_rate = 1e-3
    train.momentum = 0.9
    train.weight_decay = 0.0
    # Gradients are scaled down to this global norm; 0: never.
    train.clip_norm = 0.0
    # The moving average of the weights, which evaluates and ships: share that a step keeps of it.
    train.ema_decay = 0.999
    # Steps between validations (with a checkpoint each), between checkpoints besides (0: none), and
    # between lines of the log.
    train.validate_every = 1000
    train.checkpoint_every = 0
    train.log_every = 50

    config.schedule = schedule = ml_collections.ConfigDict()
    # "plateau", the paper's: the rate is multiplied by `factor` whenever the validation loss has
    # not fallen by the relative `rtol` for `patience` validations. A stage has converged when that
    # happens for the (`reductions` + 1)-th time in it; the next starts at the first rate times
    # `restart`. "cosine": from the first rate to `final` times it, along a cosine over all steps;
    # stages end by their steps.
    schedule.name = "plateau"
    schedule.factor = 1 / 3
    schedule.patience = 5
    schedule.rtol = 1e-3
    schedule.reductions = 2
    schedule.restart = 1.0
    schedule.final = 0.01
    # Steps at the start over which the rate rises linearly from 0.
    schedule.warmup_steps = 0

    config.evaluate = evaluate = ml_collections.ConfigDict()
    # Folder of images to measure on, or "packaged"; empty: the validation images.
    evaluate.images = ""
    # Range of their luma: "studio" is the protocol's.
    evaluate.luma = "studio"
    # Where results.json goes; empty: the workdir.
    evaluate.output = ""
    # Where to write a page of all images, with a slider between JPEG, restored and original: the
    # name of an HTML file. Empty: none.
    evaluate.gallery = ""
    # Whether the output is projected into the file's quantisation intervals before it is measured.
    evaluate.project = False
    # Whether the output is the mean over the image turned and mirrored in eight ways.
    evaluate.ensemble = False
    return config


def validate_config(config: Mapping[str, Any]) -> None:
    """Checks the fields' values.

    Raises:
        ValueError: for the first one that makes no sense, with its name and what was expected.
    """

    def expect(holds: bool, field: str, expected: str) -> None:
        if not holds:
            value = config
            for key in field.split("."):
                value = value[key]
            raise ValueError(f"config.{field} is {value!r}; expected {expected}")

    expect(1 <= config.quality <= 100, "quality", "1 to 100")
    expect(config.seed >= 0, "seed", "at least 0")
    qualities = tuple(config.quality_range)
    expect(
        not qualities or (len(qualities) == 2 and 1 <= qualities[0] <= qualities[1] <= 100),
        "quality_range",
        "() or (lowest, highest) within 1 to 100",
    )
    data, train, schedule = config.data, config.train, config.schedule
    expect(0 <= config.table_variety <= 1, "table_variety", "0 to 1")
    pipelines = ("auto", "device", "tf.data")
    expect(data.pipeline in pipelines, "data.pipeline", f"one of {', '.join(map(repr, pipelines))}")
    expect(data.luma in ("studio", "full", "rgb"), "data.luma", "'studio', 'full' or 'rgb'")
    if data.luma == "rgb" or config.model.name == "chroma":
        _validate_color(config, expect)
    expect(data.tile > 0 and data.tile % 8 == 0, "data.tile", "a multiple of 8")
    expect(data.reduce_to >= 0, "data.reduce_to", "0 or a number of pixels")
    expect(
        not data.reduce_to or data.tile <= data.reduce_to,
        "data.tile",
        f"at most data.reduce_to ({data.reduce_to}), which images are reduced to first",
    )
    expect(data.validation_images > 0, "data.validation_images", "at least 1")
    expect(
        len(train.patch_sizes) > 0 and all(p > 0 and p % 8 == 0 for p in train.patch_sizes),
        "train.patch_sizes",
        "multiples of 8, one for each stage",
    )
    expect(
        all(p <= data.tile for p in train.patch_sizes),
        "train.patch_sizes",
        f"patches no larger than data.tile ({data.tile})",
    )
    expect(
        len(train.stage_steps) == len(train.patch_sizes) and all(s > 0 for s in train.stage_steps),
        "train.stage_steps",
        f"{len(train.patch_sizes)} numbers of steps, one for each of train.patch_sizes",
    )
    expect(
        len(train.batch_sizes) in (1, len(train.patch_sizes))
        and all(b > 0 for b in train.batch_sizes),
        "train.batch_sizes",
        "one number of patches for all stages, or one for each",
    )
    optimizers = ("adam", "sgd", "muon", "lbfgs")
    expect(train.optimizer in optimizers, "train.optimizer", f"one of {', '.join(optimizers)}")
    expect(
        train.optimizer != "lbfgs" or train.fixed_batch,
        "train.fixed_batch",
        "True for the optimizer 'lbfgs'",
    )
    expect(train.learning_rate > 0, "train.learning_rate", "a positive number")
    expect(0 <= train.momentum < 1, "train.momentum", "at least 0, less than 1")
    expect(train.weight_decay >= 0, "train.weight_decay", "at least 0")
    expect(train.clip_norm >= 0, "train.clip_norm", "at least 0")
    expect(0 <= train.ema_decay < 1, "train.ema_decay", "at least 0, less than 1")
    expect(train.validate_every > 0, "train.validate_every", "at least 1")
    expect(train.checkpoint_every >= 0, "train.checkpoint_every", "0 or a number of steps")
    expect(train.log_every > 0, "train.log_every", "at least 1")
    expect(schedule.name in ("plateau", "cosine"), "schedule.name", "'plateau' or 'cosine'")
    expect(
        0 < schedule.factor < 1 and math.isfinite(schedule.factor),
        "schedule.factor",
        "between 0 and 1",
    )
    expect(schedule.patience > 0, "schedule.patience", "at least 1")
    expect(schedule.reductions >= 0, "schedule.reductions", "at least 0")
    expect(schedule.rtol >= 0, "schedule.rtol", "at least 0")
    expect(schedule.restart > 0, "schedule.restart", "a positive number")
    expect(0 <= schedule.final <= 1, "schedule.final", "0 to 1")
    expect(schedule.warmup_steps >= 0, "schedule.warmup_steps", "at least 0")
    expect(config.evaluate.luma in ("studio", "full"), "evaluate.luma", "'studio' or 'full'")


def _validate_color(config: Mapping[str, Any], expect: Callable[[bool, str, str], None]) -> None:
    """Checks what has to go together where chroma is trained."""
    expect(config.data.luma == "rgb", "data.luma", "'rgb' for the model 'chroma'")
    expect(config.model.name == "chroma", "model.name", "'chroma' for tiles of data.luma = 'rgb'")
    expect(
        config.data.pipeline != "tf.data" and not config.data.source.startswith("tfds:"),
        "data.pipeline" if config.data.pipeline == "tf.data" else "data.source",
        "pairs made on the device, of images or a pack: tf.data makes none of colours",
    )
    names = ("4:2:0", "4:2:2", "4:4:4")
    expect(
        len(config.data.subsampling) > 0 and all(s in names for s in config.data.subsampling),
        "data.subsampling",
        f"some of {', '.join(map(repr, names))}",
    )
    for field, sides in (
        ("train.patch_sizes", config.train.patch_sizes),
        ("data.tile", [config.data.tile]),
    ):
        expect(all(p % 16 == 0 for p in sides), field, "multiples of 16 for the model 'chroma'")


def batch_sizes(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Patches in a batch, for each stage."""
    sizes, stages = tuple(config.train.batch_sizes), len(config.train.patch_sizes)
    return sizes * stages if len(sizes) == 1 else sizes


# Fields that may differ where a run goes on: they decide nothing about the weights. What `source`
# and `validation` name is compared by content.
_FREE = (
    "name",
    "workdir",
    "evaluate",
    "data.source",
    "data.validation",
    "data.data_dir",
    "data.device_bytes",
    "train.log_every",
    "train.checkpoint_every",
)
# Fields of which only what is over must not differ, so that a run can be made longer.
_STAGES = ("patch_sizes", "batch_sizes", "stage_steps")


def check_resumable(
    begun: Mapping[str, Any],
    config: Mapping[str, Any],
    schedule: Mapping[str, Any],
    workdir: str,
) -> None:
    """Checks that a run can go on under another configuration than it was begun with.

    Args:
        begun: the configuration it was begun with, as a dictionary; fields that it doesn't know
            yet have their defaults.
        config: that it is to go on with.
        schedule: its `Schedule.state`.
        workdir: its name.

    Raises:
        ValueError: if a field differs that decides about the weights, with its values.
    """
    after = flatten(config)
    before = {k: v for k, v in flatten(default_config()).items() if k in after} | flatten(begun)
    for fields in (before, after):
        fields["data.pipeline"] = pipeline_of(fields["data.pipeline"], fields["data.source"])
    stage_fields = {f"train.{name}" for name in _STAGES}
    different = [
        f"config.{field} was {before.get(field)!r} and is {after.get(field)!r}"
        for field in sorted(before.keys() | after.keys())
        if before.get(field) != after.get(field)
        and field not in stage_fields
        and not any(field == free or field.startswith(free + ".") for free in _FREE)
    ]
    # Stages that are over have to be the same; of the current one, the patches.
    stage = schedule["stage"]
    for name, count in zip(_STAGES, (stage + 1, stage + 1, stage), strict=True):
        old, new = (_per_stage(c[f"train.{name}"], c) for c in (before, after))
        if old[:count] != new[:count]:
            different.append(f"config.train.{name} was {old} and is {new}")
    done = schedule["stage_step"]
    if not different and not schedule["converged"] and stage < len(new) and done > new[stage]:
        different.append(
            f"{done:,} steps of its stage {stage + 1} are done, and {new} would end it"
        )
    if different:
        raise ValueError(
            f"the run in {workdir!r} was begun with another configuration: {'; '.join(different)}; "
            "change that back, or choose another workdir"
        )


def _per_stage(values: Any, flat: Mapping[str, Any]) -> list[Any]:
    """Values for each stage, where one may stand for all."""
    return values * len(flat["train.patch_sizes"]) if len(values) == 1 else values


def pipeline_of(name: str, source: str) -> str:
    """What makes pairs, "device" or "tf.data": of `data.pipeline` and `data.source`."""
    if name == "auto":
        return "tf.data" if source.startswith("tfds:") else "device"
    return name


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Fields by their names with dots, sequences as lists."""
    flat = {}
    for key, value in config.items():
        if hasattr(value, "items"):  # a ConfigDict is no Mapping
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple | list) else value
    return flat
