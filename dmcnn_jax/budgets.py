"""Budgets: the same number of training pixels for every network, for tables that compare them."""

import ml_collections

from dmcnn_jax.config import default_config

# Side of patches, patches in a batch, steps: 262 million pixels, and 24 thousand million.
_BUDGETS = {"cpu": (64, 16, 4_000), "gpu": (96, 64, 40_000)}


def set_budget(config: ml_collections.ConfigDict, budget: str) -> None:
    """Trains what a configuration describes on a budget: Adam along a cosine, quality 10.

    Args:
        config: changed in place: quality, `train` and `schedule`; the name gets the budget's.
        budget: "cpu", hours on two cores, or "gpu".

    Raises:
        ValueError: for an unknown budget.
    """
    if budget not in _BUDGETS:
        raise ValueError(f"unknown budget {budget!r}; expected 'cpu' or 'gpu'")
    patch, batch, steps = _BUDGETS[budget]
    config.name = f"{config.name}-{budget}"
    config.quality, config.quality_range = 10, ()
    defaults = default_config()
    config.train, config.schedule = defaults.train, defaults.schedule
    config.train.patch_sizes, config.train.batch_sizes = (patch,), (batch,)
    config.train.stage_steps = (steps,)
    config.train.clip_norm = 1.0
    config.train.validate_every = steps // 8
    config.schedule.name, config.schedule.warmup_steps = "cosine", steps // 20


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
