"""Several runs, one after another, each in a given time: how the weights that come along are made.

A configuration's steps say how a run's stages compare; how many of them a machine does in the time
that there is, is measured. What was decided is kept with the run, so that the same command goes on
where it was stopped.
"""

import ast
import importlib.util
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from dmcnn_jax.config.validation import batch_sizes, flatten
from dmcnn_jax.data import feeds
from dmcnn_jax.inference.weights import load_weights, save_weights
from dmcnn_jax.system.atomic_write import write_file
from dmcnn_jax.training import plots
from dmcnn_jax.training.loop import train
from dmcnn_jax.training.trainer import Trainer

# Of the time of a run, what its steps may take; the rest is for compiling, validating, writing.
_STEPS_SHARE = 0.85
# How long a stage's steps are timed, seconds.
_MEASURED_SECONDS = 3.0


def load_config(path: str) -> ml_collections.ConfigDict:
    """Reads a configuration file.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it has no `get_config`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no configuration {path!r}; expected a file of configs/")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{path!r} has no get_config(); expected a file of configs/")
    return module.get_config()


def set_fields(config: ml_collections.ConfigDict, items: Sequence[str]) -> None:
    """Changes fields as the command line says.

    Args:
        config: changed in place.
        items: "FIELD=VALUE", values as in Python, or text.

    Raises:
        ValueError: for something else, a field that there isn't, or a value of another type.
    """
    for item in items:
        field, equals, text = item.partition("=")
        # Networks differ in what they have, and refuse what they don't.
        if not equals or not (field in flatten(config) or field.startswith("model.")):
            raise ValueError(f"{item!r}; expected FIELD=VALUE, of a field in dmcnn_jax/config.py")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        try:
            config.update_from_flattened_dict({field: value})
        except TypeError as error:
            raise ValueError(f"{item!r}: {error}") from error


def fit_steps(config: Mapping[str, Any], seconds: float) -> tuple[int, ...]:
    """How many steps of each stage fill a time, in the proportion of `config.train.stage_steps`.

    Args:
        config: of the run; its data are opened, and some steps of each stage are done and timed.
        seconds: that its steps may take.

    Returns:
        Steps of each stage, at least 1.
    """
    trainer = Trainer(config)
    feed, _ = feeds.open_data(config, trainer.mesh)
    wanted = config.train.stage_steps
    spent = sum(
        steps * _seconds_per_step(trainer, feed, stage) for stage, steps in enumerate(wanted)
    )
    return tuple(max(1, round(steps * seconds / spent)) for steps in wanted)


def _seconds_per_step(trainer: Trainer, feed: feeds.Feed, stage: int) -> float:
    """The median over some steps, once they are compiled."""
    state, times, total = trainer.init_state(), [], 0.0
    while len(times) < 4 or total < _MEASURED_SECONDS:
        before = time.perf_counter()
        inputs = feed.inputs(stage, len(times))
        patch = trainer.config.train.patch_sizes[stage]
        state, _ = trainer.step(state, inputs, np.float32(0), patch)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - before)
        total = sum(times[1:])
    return float(np.median(times[1:]))


def run(
    config: ml_collections.ConfigDict, minutes: float, output: Path, *, dtype: str = "float16"
) -> Path:
    """Trains in a given time, and puts what is to last into a folder.

    Args:
        config: of the run, whose workdir is "runs/" and its name unless it says otherwise.
        minutes: it may take, all in all.
        output: gets NAME.safetensors, the best weights, and NAME.csv, the curves.
        dtype: of the kernels in the file.

    Returns:
        The weights file.

    Raises:
        ValueError: if the run was begun for another number of minutes.
    """
    workdir = Path(config.workdir or Path("runs") / config.name)
    record = workdir / "config.json"
    laid_out = workdir / "campaign.json"
    config = config.copy_and_resolve_references()
    if laid_out.exists():
        before = json.loads(laid_out.read_text())["minutes"]
        if before != minutes:
            raise ValueError(
                f"the run in {str(workdir)!r} was laid out for {before:g} minutes, not "
                f"{minutes:g}; give it those, or name another folder for runs"
            )
    if record.exists():
        begun = json.loads(record.read_text())
        config.train.stage_steps = tuple(begun["train"]["stage_steps"])
        config.train.validate_every = begun["train"]["validate_every"]
        config.schedule.warmup_steps = begun["schedule"]["warmup_steps"]
    else:
        config.train.stage_steps = fit_steps(config, 60 * minutes * _STEPS_SHARE)
        config.train.validate_every = max(1, sum(config.train.stage_steps) // 10)
        config.schedule.warmup_steps = sum(config.train.stage_steps) // 20
        workdir.mkdir(parents=True, exist_ok=True)
        write_file(laid_out, (json.dumps({"minutes": minutes}) + "\n").encode())
    pixels = sum(
        steps * batch * patch**2
        for steps, batch, patch in zip(
            config.train.stage_steps, batch_sizes(config), config.train.patch_sizes, strict=True
        )
    )
    print(
        f"{config.name}: {config.train.stage_steps} steps, {pixels / 1e6:,.0f} million pixels, "
        f"about {minutes:g} minutes",
        flush=True,
    )
    train(config, workdir)
    output.mkdir(parents=True, exist_ok=True)
    weights = output / f"{config.name}.safetensors"
    save_weights(weights, *load_weights(workdir / "best.safetensors"), dtype=dtype)
    plots.write_csv(workdir, output / f"{config.name}.csv")
    return weights
