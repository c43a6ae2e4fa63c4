"""The training loop: stages of growing patches, validation, checkpoints, resuming."""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from dmcnn_jax.config.types import Config
from dmcnn_jax.config.validation import batch_sizes, validate_config
from dmcnn_jax.data import feeds
from dmcnn_jax.data import tiles as tiles_module
from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.weights import load_weights
from dmcnn_jax.system import devices
from dmcnn_jax.system.malloc import trim_memory
from dmcnn_jax.training.checkpoints import CheckpointError
from dmcnn_jax.training.clock import ClockSchedule
from dmcnn_jax.training.compilation import compiled_programs
from dmcnn_jax.training.progress import (
    Profiler,
    Timer,
    catch_stop_signals,
    print_on_main,
)
from dmcnn_jax.training.progress_display import Progress, TimeLeft
from dmcnn_jax.training.run_directory import RunDirectory
from dmcnn_jax.training.schedule import Schedule
from dmcnn_jax.training.step_metrics import StepMetrics
from dmcnn_jax.training.trainer import Trainer
from dmcnn_jax.training.validation import Validation


def train(
    config: Config,
    workdir: str | os.PathLike,
    *,
    profile: bool = False,
    on_validated: Callable[[], None] = lambda: None,
) -> Model:
    """Trains, or resumes the run that the workdir holds.

    Args:
        config: the configuration; see `dmcnn_jax.config`.
        workdir: folder for checkpoints, the log (`log.jsonl`), TensorBoard files, the configuration
            (`config.json`) and the weights: `best.safetensors`, of the lowest validation loss, and
            `last.safetensors`. Several processes have to share it.
        profile: whether to write a JAX profile of a few steps to `profile` in the workdir.
        on_validated: called after each validation, once its weights and log are written.

    Returns:
        The model of lowest validation loss.

    Raises:
        ValueError: for an invalid configuration, or one that differs from the workdir's run.
        FileNotFoundError: if the images, or the weights to start from, are missing.
        FloatingPointError: if the loss is no longer finite.
        WorkdirInUseError: an OSError, if another process trains in the workdir.
        OSError: if a file can't be written, or all checkpoints are damaged.
        ConnectionError: if another process has died.
        KeyboardInterrupt: if a signal stopped it, after a checkpoint.
    """
    validate_config(config)
    if config.schedule.name == "clock" and jax.process_count() > 1:
        raise ValueError(
            f"config.schedule.name is 'clock' in {jax.process_count()} processes, whose clocks "
            "differ; expected one process, or the schedule 'constant'"
        )
    if config.schedule.name == "clock" and config.schedule.clock == "processor":
        backend = jax.default_backend()
        if backend != "cpu":
            raise ValueError(
                f"config.schedule.clock is 'processor', but JAX trains on a {backend.upper()}, "
                "whose work takes no processor time; expected 'wall'"
            )
    workdir = Path(workdir)
    trainer = Trainer(config)
    for size in batch_sizes(config):
        devices.check_batch(size, trainer.mesh)
    with TrainingLoop(trainer, config, workdir, on_validated) as loop:
        try:
            loop.run(profile=profile)
        except CheckpointError:
            raise
        except OSError as error:
            raise OSError(
                f"{error}; the last good checkpoint is {loop.files.last_checkpoint}, and the same "
                "command resumes from there"
            ) from error
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1:
                raise
            raise ConnectionError(
                f"another process is gone, or can't be reached, since step {loop.schedule.step:,} "
                f"({str(error).splitlines()[0][:200]}); start all processes again, and they resume "
                f"from {loop.files.last_checkpoint}"
            ) from error
    devices.synchronize("trained")
    best = workdir / "best.safetensors"
    if not best.exists():
        raise FileNotFoundError(f"no best.safetensors in {str(workdir)!r}: was it removed?")
    variables, about = load_weights(best)
    return Model(trainer.module, variables, about, config.name)


class TrainingLoop:
    """The loop over steps, which trains, logs, validates and saves.

    Locks the workdir, opens the data, and resumes from the newest good checkpoint if there is one.
    A context manager; leaving it waits until everything is written.

    Args:
        trainer: makes the state and advances it.
        config: the configuration of the run.
        workdir: see `train`.
        on_validated: see `train`.

    Attributes:
        schedule: stage, step and learning rate.
        files: the files of the run.
    """

    def __init__(
        self,
        trainer: Trainer,
        config: Config,
        workdir: Path,
        on_validated: Callable[[], None] = lambda: None,
    ):
        self._trainer, self._config, self._on_validated = trainer, config, on_validated
        # Pixels in a batch of each stage.
        self._batch_pixels = [
            size * patch**2
            for size, patch in zip(batch_sizes(config), config.train.patch_sizes, strict=True)
        ]
        self.schedule = (ClockSchedule if config.schedule.name == "clock" else Schedule)(config)
        self._metrics = StepMetrics()
        self.files = RunDirectory(workdir, config)
        try:
            self._open()
        except BaseException as error:
            self.files.close(error)
            raise

    def _open(self) -> None:
        """Reads the newest checkpoint or the initial weights, and opens the data and the files."""
        trainer, config, workdir = self._trainer, self._config, self.files.path
        # Done before the data are opened, so that missing weights are reported without delay.
        host = self._read_state()
        self._feed, tiles = feeds.open_data(config, trainer.mesh)
        self._images = {"training": self._feed.fingerprint, "validation": tiles.fingerprint}
        # Includes the step, since a workdir of this name may be a different one on another machine.
        devices.check_agreement(
            f"{config.to_json_best_effort()} {self._images} {workdir} {self.schedule.step}"
        )
        self._validation = Validation(tiles, config, trainer.mesh)
        self._print_overview(tiles)
        self._skipped: dict[str, int] = {}
        self._log_skipped(print_on_main)
        if host is not None:
            self.files.check_images(host, self._images)
            print_on_main(f"resuming from step {self.schedule.step:,} of {str(workdir)!r}")
        self.files.begin(self.schedule.step)

    def _print_overview(self, tiles: tiles_module.Tiles) -> None:
        state = self._trainer.abstract_state()
        weights = sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))
        processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
        print_on_main(
            f"training on {self._feed}; validating on {len(tiles):,} tiles of "
            f"{len(tiles.names):,} other images, whose JPEGs have "
            f"{self._validation.jpeg_psnr:.2f} dB; {weights:,} weights, "
            f"{jax.device_count()} × {jax.devices()[0].device_kind}{processes}"
        )

    def _read_state(self) -> Mapping[str, Any] | None:
        """Restores the newest checkpoint, or makes the state before the first step.

        Returns:
            The host's values of the checkpoint; None without one.
        """
        newest = self.files.read_newest(self._trainer.abstract_state())
        if newest is None:
            self._state = self._trainer.init_state()
            return None
        host, self._state = newest
        self.schedule.state = host["schedule"]
        self._metrics.restore(host["step_metrics"])
        return host

    def __enter__(self) -> "TrainingLoop":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.files.close(error)

    def run(self, *, profile: bool = False) -> None:
        """Trains to the end of the schedule, or until a signal; raises as `train` does."""
        schedule = self.schedule
        timer = Timer()
        profiler = Profiler(self.files.path / "profile" if profile else None, self._write)
        self._left = TimeLeft(
            schedule,
            self._config.train.stage_steps,
            self._batch_pixels,
            self._config.train.validate_every,
        )
        with (
            catch_stop_signals() as signals,
            Progress(schedule, self._left) as self._progress,
            compiled_programs(
                self._trainer, self._validation, self._feed, self._config, self._write
            ) as self._programs,
        ):
            while not schedule.done:
                profiler.before_step()
                self._run_step(timer)
                profiler.after_step(self._state)
                reported = self._report_and_save(timer)
                # Processes have to stop at the same step, and synchronise only at intervals.
                asks = jax.process_count() == 1 or reported
                if asks and devices.any_process(bool(signals)):
                    self._stop()
            profiler.finish(self._state)

    def _run_step(self, timer: Timer) -> None:
        schedule, train = self.schedule, self._config.train
        stage = schedule.stage
        position = 0 if train.fixed_batch else schedule.stage_step
        inputs = self._feed.inputs(stage, position)
        with timer.paused(), self._left.excluded():
            self._programs.before_step(self._state, inputs, stage)
        rate = np.float32(schedule.learning_rate)
        self._state, scalars = self._trainer.step(
            self._state, inputs, rate, train.patch_sizes[stage]
        )
        self._metrics.add(scalars)
        timer.count(self._batch_pixels[stage])
        self._left.count(stage)
        schedule.advance()
        self._progress.advance()

    def _report_and_save(self, timer: Timer) -> bool:
        """Logs, validates and saves if due at this step; returns whether it logged."""
        schedule, train = self.schedule, self._config.train
        validates = schedule.validation_due
        reports = schedule.step % train.log_every == 0 or validates
        if reports:
            self._report(timer)
        with timer.paused():
            if validates:
                self._validate()
            elif train.checkpoint_every and schedule.step % train.checkpoint_every == 0:
                self._save()
        return reports

    def _stop(self) -> None:
        """Saves a checkpoint and the weights, and raises a KeyboardInterrupt."""
        self._save()
        self.files.write_last(self.schedule.step, self._trainer.variables(self._state))
        self.files.wait()
        raise KeyboardInterrupt(
            f"stopped at step {self.schedule.step:,} with a checkpoint and last.safetensors in "
            f"{str(self.files.path)!r}; the same command resumes from it"
        )

    def _fetch_metrics(self) -> list[dict[str, float]]:
        """Returns the scalars of the last steps, checked.

        Raises:
            FloatingPointError: if a loss or a gradient is not finite.
            ValueError: if TensorFlow decoded a JPEG differently from `jpeg.decode`.
        """
        fetched = self._metrics.fetch()
        for step, scalars in enumerate(fetched, self.schedule.step - len(fetched) + 1):
            for key, name in (("loss", "loss"), ("grad_norm", "gradient")):
                self._check_finite(name, scalars[key], step)
            if scalars.get("wrong_pixels"):
                raise ValueError(
                    f"TensorFlow's libjpeg decoded {scalars['wrong_pixels']:.0f} pixels of step "
                    f"{step:,} differently from dmcnn_jax.jpeg: this TensorFlow has another "
                    "libjpeg; set config.data.pipeline to 'device', and report it"
                )
        return fetched

    def _check_finite(self, name: str, value: float, step: int) -> None:
        if math.isfinite(value):
            return
        # A checkpoint that is still being written is good as well.
        self.files.wait()
        start = f", from --config.init_from={self.files.path}" if self.files.has_best else ""
        raise FloatingPointError(
            f"the {name} is {value} at step {step:,}; the last good checkpoint is "
            f"{self.files.last_checkpoint}; begin in another workdir with a lower "
            f"config.train.learning_rate, or with config.train.clip_norm{start}"
        )

    def _report(self, timer: Timer) -> None:
        """Shows and logs the means of the last steps."""
        self._fetch_metrics()
        means = self._metrics.means(self._batch_pixels[self.schedule.stage])
        if not means:
            return
        schedule, rate = self.schedule, timer.rate()
        self._progress.report(
            f"stage {schedule.stage + 1}, loss {means['loss']:.2e}, PSNR {means['psnr']:.2f} "
            f"(JPEG {means['jpeg_psnr']:.2f}) dB, {rate / 1e6:.2f} Mpixel/s"
        )
        means.pop("wrong_pixels", None)
        about = {"stage": schedule.stage, "learning_rate": schedule.learning_rate}
        self.files.log(schedule.step, about | means | {"pixels_per_second": round(rate)})
        self._log_skipped(self._write)

    def _validate(self) -> None:
        """Validates, updates the schedule, and saves weights and a checkpoint."""
        schedule, variables = self.schedule, self._trainer.variables(self._state)
        with self._left.excluded():
            self._programs.before_validation()
        # Validation allocates blocks of different sizes than a step.
        trim_memory()
        result, pictures = self._validation(self._trainer.module, variables)
        trim_memory()
        self._check_finite("validation loss", result["loss"], schedule.step)
        event = schedule.observe(result["loss"])
        self.files.log(schedule.step, {"validation": result, "event": event})
        self._write(
            f"step {schedule.step:,}: validation loss {result['loss']:.3e}, PSNR "
            f"{result['psnr']:.3f} dB, JPEG {self._validation.jpeg_psnr:.3f} dB, gain "
            f"{result['gain']:+.3f} dB{_planes_gains(result)}{_EVENTS[event]}"
        )
        self.files.write_validated(schedule.step, variables, result, pictures)
        self._save(result["loss"])
        self._on_validated()

    def _save(self, loss: float | None = None) -> None:
        """Writes a checkpoint, unless this step has one."""
        step = self.schedule.step
        if not self.files.has_checkpoint(step):
            host = {"step_metrics": self._fetch_metrics(), "schedule": self.schedule.state}
            self.files.save_checkpoint(step, self._state, host, self._images, loss)

    def _log_skipped(self, write: Callable[[str], None]) -> None:
        """Prints the number of unusable images, if it has changed."""
        skipped = dict(self._feed.skipped)
        if skipped != self._skipped:
            self._skipped = skipped
            write(f"images that can't be trained on: {tiles_module.format_counts(skipped)}")

    def _write(self, line: str) -> None:
        """Prints a line above the progress bar, in the main process only."""
        self._progress.write(line)


def _planes_gains(result: Mapping[str, float]) -> str:
    """Describes the gains of luma and of chroma, of a network that restores both."""
    if "gain_luma" not in result:
        return ""
    return f" (luma {result['gain_luma']:+.3f}, chroma {result['gain_chroma']:+.3f})"


_EVENTS = {
    "": "",
    "reduced": " (no longer falling: learning rate reduced)",
    "converged": " (stage converged)",
}
