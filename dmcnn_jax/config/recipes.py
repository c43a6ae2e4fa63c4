"""What configurations share: training for a number of steps, for every table, on equal budgets."""

from collections.abc import Sequence

import ml_collections

from dmcnn_jax.config.defaults import default_config

# Side of patches, patches in a batch, steps: 2.1 million pixels, 262 million, 24 thousand million.
_BUDGETS = {"minutes": (64, 2, 256), "cpu": (64, 16, 4_000), "gpu": (96, 64, 40_000)}


def set_steps(
    config: ml_collections.ConfigDict,
    patch_sizes: Sequence[int],
    batch_sizes: Sequence[int],
    stage_steps: Sequence[int],
    *,
    warmup_steps: int,
    validate_every: int,
) -> None:
    """Trains for so many steps, instead of until it has converged: along a cosine, clipped.

    Args:
        config: changed in place.
        patch_sizes: of each stage, pixels.
        batch_sizes: of each stage, or one for all.
        stage_steps: of each stage.
        warmup_steps: over which the learning rate rises.
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
    """A network of middle size, by Muon: F = 32, and a DCT branch as wide as the paper's.

    Args:
        config: changed in place.
    """
    config.model.features = 32
    config.model.dct_features = 128
    config.train.optimizer = "muon"
    config.train.learning_rate = 2e-3


# Of each go after a configuration's first: the one that it goes on from; the side that images are
# reduced to (None: as they were); the seed, which says what images are set aside, too; the highest
# rate; patches in a batch and steps, at 128, 192 and 256 pixels; steps over which the rate rises,
# and between validations.
_GOES = {
    "more": ("", None, 0, 2e-3, (4, 2, 1), (2200, 600, 200), 100, 500),
    "clean": ("more", 272, 0, 2e-3, (4, 2, 2), (1400, 400, 200), 100, 200),
    "long": ("clean", 272, 0, 2e-3, (4, 2, 2), (5000, 1300, 700), 200, 500),
    "last": ("long", 272, 0, 2e-3, (4, 2, 2), (1500, 500, 400), 100, 500),
    "again": ("mean.safetensors", 272, 1, 1e-3, (4, 2, 2), (3400, 900, 500), 200, 400),
}


def set_go(config: ml_collections.ConfigDict, go: str) -> None:
    """The first go of a configuration, or one that goes on from the one before on larger patches.

    Args:
        config: of the first, changed in place: for "more", an hour on one CPU core, and then, on
            images that are reduced further, and are cleaner, for "clean", ten minutes on two, for
            "long", an hour and a half on one, for "last", half an hour on one, and for "again",
            an hour on one, from the mean of the two before.
        go: "", or one of those.

    Raises:
        ValueError: for another go.
    """
    if not go:
        return
    if go not in _GOES:
        raise ValueError(f"unknown go {go!r}; expected one of: {', '.join(_GOES)}, or nothing")
    before, max_short_side, seed, rate, batches, steps, warmup, between = _GOES[go]
    name = config.name
    config.name = f"{name}-{go}"
    config.init_from = f"runs/{name}-{before}" if before else f"runs/{name}"
    config.seed = seed
    config.train.learning_rate = rate
    if max_short_side is not None:
        config.data.max_short_side = max_short_side
    sizes = (128, 192, 256)
    set_steps(config, sizes, batches, steps, warmup_steps=warmup, validate_every=between)


def set_every_table(config: ml_collections.ConfigDict) -> None:
    """Trains one DMCNN for qualities 5 to 95 and tables of all sorts, on full-range luma.

    Args:
        config: changed in place.
    """
    config.quality_range = (5, 95)
    config.random_table_prob = 0.5
    config.model.condition_on_table = True
    config.data.luma = config.evaluate.luma = "full"


def set_budget(config: ml_collections.ConfigDict, budget: str) -> None:
    """Trains what a configuration describes on a budget: Adam along a cosine, quality 10.

    Args:
        config: changed in place: quality, `train` and `schedule`; the name gets the budget's.
        budget: "minutes" or "cpu" (hours), on two cores, or "gpu". With "-own" after it, as in
            "cpu-own", the optimizer, its rate, decay and clipping stay as they are; one that needs
            a fixed batch has an eighth of the steps, of eight times the patches.

    Raises:
        ValueError: for an unknown budget.
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
    if own and before.fixed_batch:
        batch, steps = 8 * batch, steps // 8
        config.schedule.min_lr_ratio = 1.0  # a line search finds the rate
    set_steps(
        config,
        (patch,),
        (batch,),
        (steps,),
        warmup_steps=0 if own and before.fixed_batch else steps // 20,
        validate_every=steps // 8,
    )
    if own:
        for field in _OWN:
            config.train[field] = before[field]


_OWN = ("optimizer", "learning_rate", "momentum", "weight_decay", "clip_norm", "fixed_batch")


def ablation_config(name: str, budget: str) -> ml_collections.ConfigDict:
    """DMCNN on a budget, the base that an ablation changes; F = 24 on "cpu".

    Args:
        name: of the ablation.
        budget: as of `set_budget`.
    """
    config = default_config()
    config.name = f"ablation-{name}"
    set_budget(config, budget)
    if budget == "cpu":
        config.model.features = 24
    return config
