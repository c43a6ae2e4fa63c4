"""Checks configurations, and whether a run can be resumed with a changed one."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from dmcnn_jax.config.defaults import default_config


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
    expect(0 <= config.random_table_prob <= 1, "random_table_prob", "0 to 1")
    pipelines = ("auto", "device", "tf.data")
    expect(data.pipeline in pipelines, "data.pipeline", f"one of {', '.join(map(repr, pipelines))}")
    expect(data.luma in ("studio", "full", "rgb"), "data.luma", "'studio', 'full' or 'rgb'")
    if data.luma == "rgb" or config.model.name == "chroma":
        _validate_color(config, expect)
    expect(data.tile > 0 and data.tile % 8 == 0, "data.tile", "a multiple of 8")
    expect(data.max_short_side >= 0, "data.max_short_side", "0 or a number of pixels")
    expect(
        not data.max_short_side or data.tile <= data.max_short_side,
        "data.tile",
        f"at most data.max_short_side ({data.max_short_side}), which images are reduced to first",
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
    expect(0 <= schedule.min_lr_ratio <= 1, "schedule.min_lr_ratio", "0 to 1")
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
