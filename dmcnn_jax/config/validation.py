"""Checks configurations, and whether a run can be resumed with a changed configuration."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from dmcnn_jax.config.defaults import default_config
from dmcnn_jax.config.types import Config

OPTIMIZERS = ("adam", "sgd", "muon", "lbfgs")
"""Values of `config.train.optimizer`: the keys of `training.optimizers.OPTIMIZERS`, which this
module may not import."""

LUMA_OPTIONS = {"gallery": "", "project": False, "ensemble": False}
"""Fields of `config.evaluate` that only networks of luma have, and their defaults."""

# Networks of colour, trained on RGB tiles.
_COLOR_MODELS = ("chroma", "photo")

# Raises a ValueError unless a condition holds: expect(condition, field, what was expected).
_Expect = Callable[[bool, str, str], None]


def validate_config(config: Config) -> None:
    """Checks the values of all fields.

    Raises:
        ValueError: for the first invalid field, with its name, its value and what was expected.
    """
    expect = partial(_expect, config)
    _validate_quality(config, expect)
    _validate_data(config, expect)
    _validate_stages(config, expect)
    _validate_optimizer(config, expect)
    _validate_schedule(config, expect)
    expect(config.evaluate.luma in ("studio", "full"), "evaluate.luma", "'studio' or 'full'")


def _expect(config: Config, holds: bool, field: str, expected: str) -> None:
    if not holds:
        value: Any = config
        for key in field.split("."):
            value = getattr(value, key)
        raise ValueError(f"config.{field} is {value!r}; expected {expected}")


def _validate_quality(config: Config, expect: _Expect) -> None:
    expect(1 <= config.quality <= 100, "quality", "1 to 100")
    expect(config.seed >= 0, "seed", "at least 0")
    qualities = tuple(config.quality_range)
    expect(
        not qualities or (len(qualities) == 2 and 1 <= qualities[0] <= qualities[1] <= 100),
        "quality_range",
        "() or (lowest, highest) within 1 to 100",
    )
    expect(0 <= config.random_table_prob <= 1, "random_table_prob", "0 to 1")


def _validate_data(config: Config, expect: _Expect) -> None:
    data = config.data
    pipelines = ("auto", "device", "tf.data")
    expect(data.pipeline in pipelines, "data.pipeline", f"one of {', '.join(map(repr, pipelines))}")
    expect(data.luma in ("studio", "full", "rgb"), "data.luma", "'studio', 'full' or 'rgb'")
    if data.luma == "rgb" or config.model.name in _COLOR_MODELS:
        _validate_color(config, expect)
    expect(data.tile > 0 and data.tile % 8 == 0, "data.tile", "a multiple of 8")
    expect(data.max_short_side >= 0, "data.max_short_side", "0 or a number of pixels")
    expect(
        not data.max_short_side or data.tile <= data.max_short_side,
        "data.tile",
        f"at most data.max_short_side ({data.max_short_side}), which images are reduced to first",
    )
    expect(data.validation_images > 0, "data.validation_images", "at least 1")


def _validate_color(config: Config, expect: _Expect) -> None:
    """Checks the combination of fields that networks of colour need."""
    data, model = config.data, config.model.name
    for name, unused in LUMA_OPTIONS.items():
        value = getattr(config.evaluate, name)
        expect(value == unused, f"evaluate.{name}", f"{unused!r} for the model {model!r}")
    expect(data.luma == "rgb", "data.luma", f"'rgb' for the model {model!r}")
    expect(
        model in _COLOR_MODELS,
        "model.name",
        f"{' or '.join(map(repr, _COLOR_MODELS))} for tiles of data.luma = 'rgb'",
    )
    expect(
        data.pipeline != "tf.data" and not data.source.startswith("tfds:"),
        "data.pipeline" if data.pipeline == "tf.data" else "data.source",
        "pairs made on the device, from images or a pack: tf.data makes none of colours",
    )
    names = ("4:2:0", "4:2:2", "4:4:4")
    expect(
        len(data.subsampling) > 0 and all(s in names for s in data.subsampling),
        "data.subsampling",
        f"some of {', '.join(map(repr, names))}",
    )
    for field, sides in (
        ("train.patch_sizes", config.train.patch_sizes),
        ("data.tile", [data.tile]),
    ):
        expect(all(p % 16 == 0 for p in sides), field, f"multiples of 16 for the model {model!r}")


def _validate_stages(config: Config, expect: _Expect) -> None:
    train, tile = config.train, config.data.tile
    expect(
        len(train.patch_sizes) > 0 and all(p > 0 and p % 8 == 0 for p in train.patch_sizes),
        "train.patch_sizes",
        "multiples of 8, one for each stage",
    )
    expect(
        all(p <= tile for p in train.patch_sizes),
        "train.patch_sizes",
        f"patches no larger than data.tile ({tile})",
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


def _validate_optimizer(config: Config, expect: _Expect) -> None:
    train = config.train
    expect(train.optimizer in OPTIMIZERS, "train.optimizer", f"one of {', '.join(OPTIMIZERS)}")
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
    name = config.model.name
    expect(name == "photo" or not train.unfreeze, "train.unfreeze", f"False for the model {name!r}")


def _validate_schedule(config: Config, expect: _Expect) -> None:
    train, schedule = config.train, config.schedule
    expect(train.validate_every > 0, "train.validate_every", "at least 1")
    expect(train.checkpoint_every >= 0, "train.checkpoint_every", "0 or a number of steps")
    expect(train.log_every > 0, "train.log_every", "at least 1")
    names = ("plateau", "cosine", "constant", "clock")
    expect(schedule.name in names, "schedule.name", f"one of {', '.join(map(repr, names))}")
    expect(0 <= schedule.cooldown < 1, "schedule.cooldown", "at least 0, less than 1")
    expect(
        0 < schedule.factor < 1 and math.isfinite(schedule.factor),
        "schedule.factor",
        "between 0 and 1",
    )
    expect(schedule.patience > 0, "schedule.patience", "at least 1")
    expect(schedule.reductions >= 0, "schedule.reductions", "at least 0")
    expect(0 < schedule.rtol <= 1, "schedule.rtol", "above 0, at most 1")
    expect(schedule.restart > 0, "schedule.restart", "a positive number")
    expect(0 <= schedule.min_lr_ratio <= 1, "schedule.min_lr_ratio", "0 to 1")
    expect(schedule.warmup_steps >= 0, "schedule.warmup_steps", "at least 0")
    clocks = ("wall", "processor")
    expect(schedule.clock in clocks, "schedule.clock", f"one of {', '.join(map(repr, clocks))}")
    expect(schedule.minutes > 0, "schedule.minutes", "a positive number")
    expect(schedule.validate_minutes > 0, "schedule.validate_minutes", "a positive number")
    expect(
        schedule.name != "clock" or not train.fixed_batch,
        "train.fixed_batch",
        "False for the schedule 'clock'",
    )


def quality_bounds(config: Config) -> tuple[int, int]:
    """Returns the lowest and the highest JPEG quality of training pairs."""
    lowest, highest = tuple(config.quality_range) or (config.quality, config.quality)
    return lowest, highest


def batch_sizes(config: Config) -> tuple[int, ...]:
    """Returns the number of patches in a batch, for each stage."""
    sizes, stages = tuple(config.train.batch_sizes), len(config.train.patch_sizes)
    return sizes * stages if len(sizes) == 1 else sizes


# Fields that may change when a run is resumed, since the weights don't depend on them. The images
# of `source` and `validation` are compared by content.
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
    "schedule.minutes",
    "schedule.validate_minutes",
)

# Fields whose values for finished stages may not change; those of later stages may.
_STAGES = ("patch_sizes", "batch_sizes", "stage_steps")


def check_resumable(
    begun: Mapping[str, Any],
    config: Config,
    schedule: Mapping[str, Any],
    workdir: str,
) -> None:
    """Checks that a run can be resumed with a configuration.

    Args:
        begun: the run's original configuration, as a dictionary; fields added since have their
            defaults.
        config: the configuration to resume with.
        schedule: `Schedule.state` of the run.
        workdir: folder of the run, for the message.

    Raises:
        ValueError: if a field on which the weights depend differs; the message has both values.
    """
    after = flatten(config)
    before = {k: v for k, v in flatten(default_config()).items() if k in after} | flatten(begun)
    for fields in (before, after):
        fields["data.pipeline"] = pipeline_of(fields["data.pipeline"], fields["data.source"])
    different = _different_fields(before, after) + _different_stages(before, after, schedule)
    if different:
        raise ValueError(
            f"the run in {workdir!r} was begun with another configuration: {'; '.join(different)}; "
            "change that back, or choose another workdir"
        )


def _different_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Describes each field that differs and must not, except those of stages."""
    stage_fields = {f"train.{name}" for name in _STAGES}
    return [
        f"config.{field} was {before.get(field)!r} and is {after.get(field)!r}"
        for field in sorted(before.keys() | after.keys())
        if before.get(field) != after.get(field)
        and field not in stage_fields
        and not any(field == free or field.startswith(free + ".") for free in _FREE)
    ]


def _different_stages(
    before: Mapping[str, Any], after: Mapping[str, Any], schedule: Mapping[str, Any]
) -> list[str]:
    """Describes the differences in stages that are finished or have begun."""
    stage, done = schedule["stage"], schedule["stage_step"]
    different = []
    # The current stage keeps its patches and batches; its number of steps may change.
    for name, count in zip(_STAGES, (stage + 1, stage + 1, stage), strict=True):
        old, new = (_per_stage(c[f"train.{name}"], c) for c in (before, after))
        if old[:count] != new[:count]:
            different.append(f"config.train.{name} was {old} and is {new}")
    # By the clock, they are shares of the time.
    if after["schedule.name"] == "clock":
        return different
    steps = after["train.stage_steps"]
    if not different and not schedule["converged"] and stage < len(steps) and done > steps[stage]:
        different.append(
            f"{done:,} steps of its stage {stage + 1} are done, and {steps} would end it"
        )
    return different


def _per_stage(values: Any, flat: Mapping[str, Any]) -> list[Any]:
    """Returns values for each stage; a single value may stand for all."""
    return values * len(flat["train.patch_sizes"]) if len(values) == 1 else values


def pipeline_of(name: str, source: str) -> str:
    """Returns "device" or "tf.data", which makes the training pairs.

    Args:
        name: `config.data.pipeline`.
        source: `config.data.source`.
    """
    if name == "auto":
        return "tf.data" if source.startswith("tfds:") else "device"
    return name


def flatten(config: Config | Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a configuration's fields by their dotted names; sequences become lists."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if hasattr(value, "items"):  # a ConfigDict is not a Mapping
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple | list) else value
    return flat
