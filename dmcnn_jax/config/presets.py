"""Settings that several configurations share: numbers of steps, networks, budgets."""

from collections.abc import Sequence

import ml_collections

from dmcnn_jax.config.defaults import default_config

# Patch size, patches in a batch, steps: 2.1 million, 262 million and 24 billion pixels. "time" has
# as many steps as fit into its minutes, and small batches, so that slow networks too have many:
# after five minutes of Adam, ARCNN gains 0.39 dB with batches of 2, and loses 0.92 dB with 8.
_BUDGETS = {
    "minutes": (64, 2, 256),
    "cpu": (64, 16, 4_000),
    "gpu": (96, 64, 40_000),
    "time": (96, 2, 1),
}


def set_steps(
    config: ml_collections.ConfigDict,
    patch_sizes: Sequence[int],
    batch_sizes: Sequence[int],
    stage_steps: Sequence[int],
    *,
    warmup_steps: int,
    validate_every: int,
) -> None:
    """Sets a fixed number of steps, with a cosine schedule and gradients clipped at a norm of 1.

    Args:
        config: changed in place.
        patch_sizes: side of the patches of each stage, pixels.
        batch_sizes: patches in a batch of each stage, or one number for all.
        stage_steps: steps of each stage.
        warmup_steps: steps over which the learning rate rises.
        validate_every: steps between validations.
    """
    config.train.patch_sizes = tuple(patch_sizes)
    config.train.batch_sizes = tuple(batch_sizes)
    config.train.stage_steps = tuple(stage_steps)
    config.train.clip_norm = 1.0
    config.train.validate_every = validate_every
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = warmup_steps


def set_medium(config: ml_collections.ConfigDict) -> None:
    """Sets a network of middle size, trained by Muon: F = 32, and the paper's DCT branch.

    Args:
        config: changed in place.
    """
    config.model.features = 32
    config.model.dct_features = 128
    config.train.optimizer = "muon"
    config.train.learning_rate = 2e-3


def set_every_table(config: ml_collections.ConfigDict) -> None:
    """Sets one DMCNN for qualities 5 to 95 and tables of all encoders, on full-range luma.

    Args:
        config: changed in place.
    """
    config.quality_range = (5, 95)
    config.random_table_prob = 0.5
    config.model.condition_on_table = True
    config.data.luma = config.evaluate.luma = "full"


def set_photographs(config: ml_collections.ConfigDict) -> None:
    """Sets the network for photographs: all planes, samplings and tables, Muon, a constant rate.

    Args:
        config: changed in place; its steps are set by `set_steps` before.
    """
    config.quality = 10
    config.quality_range = (5, 97)
    config.random_table_prob = 0.4
    config.model = {"name": "photo"}
    config.data.luma = "rgb"
    config.data.max_short_side = 0
    config.data.subsampling = ("4:2:0",) * 5 + ("4:2:2", "4:4:4", "4:4:4")
    config.train.optimizer = "muon"
    config.train.learning_rate = 2e-3
    # About twice the norm of most gradients. Without clipping, a picture on which the network fails
    # dominates the optimizer's momentum for hundreds of steps.
    config.train.clip_norm = 1.0
    config.schedule.name = "constant"


def set_budget(config: ml_collections.ConfigDict, budget: str) -> None:
    """Sets a training budget for comparing networks: Adam, cosine schedule, quality 10.

    Args:
        config: changed in place: quality, `train` and `schedule`; the budget is added to the name.
        budget: "minutes" or "cpu" (hours), on two cores, or "gpu"; or "time", for 40 minutes of
            processor time divided by the number of cores. With "-own" after it, as in "cpu-own",
            the optimizer, its learning rate, weight decay and clipping stay unchanged; with
            `fixed_batch`, batches are then eight times as large, and steps an eighth.

    Raises:
        ValueError: if the budget is unknown, or is "time-own" with an optimizer with a line search,
            whose rate can't follow a clock.
    """
    name, _, own = budget.partition("-")
    if name not in _BUDGETS or own not in ("", "own"):
        names = ", ".join(map(repr, _BUDGETS))
        raise ValueError(f"unknown budget {budget!r}; expected one of {names}, or one with -own")
    patch, batch, steps = _BUDGETS[name]
    config.name = f"{config.name}-{budget}"
    config.quality, config.quality_range = 10, ()
    defaults, before = default_config(), config.train
    config.train, config.schedule = defaults.train, defaults.schedule
    if own and before.fixed_batch and name == "time":
        raise ValueError(
            f"{budget!r}: the optimizer {before.optimizer!r} searches for its rate, which can't "
            "follow a clock; expected 'time'"
        )
    if own and before.fixed_batch:
        batch, steps = 8 * batch, steps // 8
        config.schedule.min_lr_ratio = 1.0  # the line search finds the rate
    set_steps(
        config,
        (patch,),
        (batch,),
        (steps,),
        warmup_steps=0 if own and before.fixed_batch else steps // 20,
        validate_every=max(1, steps // 8),
    )
    if name == "time":
        config.schedule.name, config.schedule.clock = "clock", "processor"
        config.schedule.cooldown, config.schedule.minutes = 0.25, 40.0
    if own:
        for field in _OWN:
            config.train[field] = before[field]


_OWN = ("optimizer", "learning_rate", "momentum", "weight_decay", "clip_norm", "fixed_batch")


def ablation_config(name: str, budget: str) -> ml_collections.ConfigDict:
    """Returns the base configuration of an ablation: DMCNN on a budget.

    F is 24 on "cpu" and "time" (and with "-own"), otherwise the paper's 64.

    Args:
        name: name of the ablation.
        budget: see `set_budget`.
    """
    config = default_config()
    config.name = f"ablation-{name}"
    set_budget(config, budget)
    if budget.partition("-")[0] in ("cpu", "time"):
        config.model.features = 24
    return config
