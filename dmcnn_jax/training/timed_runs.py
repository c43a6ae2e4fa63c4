"""Trains a configuration for a given time, and keeps its weights and curves in another folder."""

from pathlib import Path

import ml_collections

from dmcnn_jax.inference.weights import load_weights, save_weights
from dmcnn_jax.training import plots
from dmcnn_jax.training.loop import train
from dmcnn_jax.training.workdir_lock import WorkdirInUseError


def run(
    config: ml_collections.ConfigDict, minutes: float, output: Path, *, dtype: str = "float16"
) -> Path:
    """Trains by the clock, and copies weights and curves to a folder after each validation.

    An interrupted run resumes from its last checkpoint; a finished run is copied again.

    Args:
        config: the configuration; its workdir is "runs/" and its name unless it names another. Its
            schedule becomes "clock", see `training.clock`.
        minutes: training time, including compilation, validation and saving.
        output: folder for NAME.safetensors, the last weights, and NAME.csv, the curves. Each is
            replaced as a whole.
        dtype: dtype of the kernels in the file.

    Returns:
        The weights file.

    Raises:
        See `train`.
    """
    workdir = Path(config.workdir or Path("runs") / config.name)
    config = timed_config(config, minutes)
    output.mkdir(parents=True, exist_ok=True)
    weights = output / f"{config.name}.safetensors"

    def publish() -> None:
        # The last weights instead of the best, since the rate has reached 0, and the validation set
        # is small.
        save_weights(weights, *load_weights(workdir / "last.safetensors"), dtype=dtype)
        plots.write_csv(workdir, output / f"{config.name}.csv")

    in_use = False
    try:
        train(config, workdir, on_validated=publish)
    except WorkdirInUseError:
        in_use = True
        raise
    finally:
        # Done after an interrupt too, since the run has saved its weights.
        if not in_use and (workdir / "last.safetensors").exists():
            publish()
    return weights


def timed_config(config: ml_collections.ConfigDict, minutes: float) -> ml_collections.ConfigDict:
    """Returns a copy of a configuration whose schedule follows the clock for some minutes."""
    config = config.copy_and_resolve_references()
    config.schedule.name = "clock"
    config.schedule.minutes = float(minutes)
    return config
