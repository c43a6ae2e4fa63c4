"""Trains a configuration within a given time, by measuring how fast the machine is.

`config.train.stage_steps` gives the proportions of stages; their numbers of steps are chosen so
that the learning rate reaches the end of its schedule when the time is over. The choice is kept in
the workdir, so that an interrupted run can be resumed.
"""

import json
import time
from pathlib import Path

import jax
import ml_collections
import numpy as np

from dmcnn_jax.config.types import Config
from dmcnn_jax.config.validation import batch_sizes
from dmcnn_jax.data import feeds
from dmcnn_jax.inference.weights import load_weights, save_weights
from dmcnn_jax.system.atomic_write import write_file
from dmcnn_jax.training import plots
from dmcnn_jax.training.loop import train
from dmcnn_jax.training.trainer import Trainer

# Share of the time that is planned for steps; compiling, validating and writing take the rest.
_STEPS_SHARE = 0.85
# Time for which the steps of each stage are measured, seconds.
_MEASURED_SECONDS = 3.0


def run(
    config: ml_collections.ConfigDict, minutes: float, output: Path, *, dtype: str = "float16"
) -> Path:
    """Trains within a given time, and copies weights and curves to a folder.

    Args:
        config: the configuration; its workdir is "runs/" and its name unless it names another.
        minutes: time for everything, minutes.
        output: folder for NAME.safetensors, the best weights, and NAME.csv, the curves.
        dtype: dtype of the kernels in the file.

    Returns:
        The weights file.

    Raises:
        ValueError: if the workdir holds a run that was planned for another time; and see `train`.
    """
    workdir = Path(config.workdir or Path("runs") / config.name)
    config = config.copy_and_resolve_references()
    _check_minutes(workdir, minutes)
    begun = workdir / "config.json"
    if begun.exists():
        _restore_plan(config, begun)
    else:
        _plan(config, minutes)
        workdir.mkdir(parents=True, exist_ok=True)
        record = json.dumps({"minutes": minutes}) + "\n"
        write_file(workdir / "campaign.json", record.encode())
    steps, patches = config.train.stage_steps, config.train.patch_sizes
    pixels = sum(
        count * batch * patch**2
        for count, batch, patch in zip(steps, batch_sizes(config), patches, strict=True)
    )
    print(
        f"{config.name}: {steps} steps, {pixels / 1e6:,.0f} million pixels, about {minutes:g} "
        "minutes",
        flush=True,
    )
    train(config, workdir)
    output.mkdir(parents=True, exist_ok=True)
    weights = output / f"{config.name}.safetensors"
    save_weights(weights, *load_weights(workdir / "best.safetensors"), dtype=dtype)
    plots.write_csv(workdir, output / f"{config.name}.csv")
    return weights


def _check_minutes(workdir: Path, minutes: float) -> None:
    """Checks that a run in the workdir was planned for the same time."""
    record = workdir / "campaign.json"
    if not record.exists():
        return
    before = json.loads(record.read_text())["minutes"]
    if before != minutes:
        raise ValueError(
            f"the run in {str(workdir)!r} was planned for {before:g} minutes, not {minutes:g}; "
            "give it the same time, or name another folder for runs"
        )


def _restore_plan(config: ml_collections.ConfigDict, path: Path) -> None:
    """Sets the numbers of steps that a run was begun with."""
    begun = json.loads(path.read_text())
    config.train.stage_steps = tuple(begun["train"]["stage_steps"])
    config.train.validate_every = begun["train"]["validate_every"]
    config.schedule.warmup_steps = begun["schedule"]["warmup_steps"]


def _plan(config: ml_collections.ConfigDict, minutes: float) -> None:
    """Sets the numbers of steps so that a run takes a given time."""
    steps = fit_steps(config, 60 * minutes * _STEPS_SHARE)
    config.train.stage_steps = steps
    config.train.validate_every = max(1, sum(steps) // 10)
    config.schedule.warmup_steps = sum(steps) // 20


def fit_steps(config: Config, seconds: float) -> tuple[int, ...]:
    """Returns the steps of each stage that fill a time, proportional to `train.stage_steps`.

    Args:
        config: the configuration; its data are opened, and some steps of each stage are timed.
        seconds: time for all steps.

    Returns:
        Steps of each stage, at least 1.
    """
    trainer = Trainer(config)
    feed, _ = feeds.open_data(config, trainer.mesh)
    wanted = config.train.stage_steps
    total = sum(
        steps * _seconds_per_step(trainer, feed, stage) for stage, steps in enumerate(wanted)
    )
    return tuple(max(1, round(steps * seconds / total)) for steps in wanted)


def _seconds_per_step(trainer: Trainer, feed: feeds.Feed, stage: int) -> float:
    """Measures the median time of a stage's step, without the first, which compiles."""
    state, patch = trainer.init_state(), trainer.config.train.patch_sizes[stage]
    times: list[float] = []
    while len(times) < 4 or sum(times[1:]) < _MEASURED_SECONDS:
        before = time.perf_counter()
        inputs = feed.inputs(stage, len(times))
        state, _ = trainer.step(state, inputs, np.float32(0), patch)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - before)
    return float(np.median(times[1:]))
