"""The training loop: stages of growing patches, validation, checkpoints, resuming."""

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from dmcnn_jax.config.validation import batch_sizes, check_resumable, validate_config
from dmcnn_jax.data import feeds
from dmcnn_jax.data import tiles as tiles_module
from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.weights import load_weights, save_weights
from dmcnn_jax.system import devices
from dmcnn_jax.system.atomic_write import write_file
from dmcnn_jax.system.malloc import trim_memory
from dmcnn_jax.training.checkpoints import CheckpointError, Checkpoints
from dmcnn_jax.training.metric_writer import Journal
from dmcnn_jax.training.schedule import Schedule
from dmcnn_jax.training.trainer import Trainer, TrainState
from dmcnn_jax.training.validation import Validation

# Steps that may be begun and not done.
_STEPS_AHEAD = 2


# Steps that a profile leaves out at the start, and steps that it holds.
_PROFILE_AFTER, _PROFILE_STEPS = 5, 10


def train(config: Mapping[str, Any], workdir: str | os.PathLike, *, profile: bool = False) -> Model:
    """Trains, or goes on with what was begun in the workdir.

    Args:
        config: of the run; see `dmcnn_jax.config`.
        workdir: where checkpoints, the log (`log.jsonl`), TensorBoard's files, the configuration
            and the weights (`best.safetensors`: of the best validation PSNR; `last.safetensors`)
            are kept. Of several processes, all have to see the same.
        profile: whether to write a trace of a few steps, to `profile` in the workdir.

    Returns:
        The best model.

    Raises:
        ValueError: for a configuration that makes no sense, or another than the workdir's run has.
        FileNotFoundError: if the images or the weights to start from are not there.
        FloatingPointError: if the loss is no longer finite.
        OSError: if something can't be written.
        ConnectionError: if another process is gone.
        KeyboardInterrupt: if a signal stopped it, after a checkpoint.
    """
    validate_config(config)
    workdir = Path(workdir)
    trainer = Trainer(config)
    for size in batch_sizes(config):
        devices.check_batch(size, trainer.mesh)
    with _Run(trainer, config, workdir) as run:
        try:
            run.go(profile)
        except CheckpointError:
            raise
        except OSError as error:
            raise OSError(
                f"{error}; the last good checkpoint is {run.last_good}, and the same command goes "
                "on from there"
            ) from error
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1:
                raise
            raise ConnectionError(
                f"another process is gone, or can't be reached, since step {run.schedule.step:,} "
                f"({str(error).splitlines()[0][:200]}); start all processes "
                f"again, and the run goes on from "
                f"{run.last_good}"
            ) from error
    devices.synchronize("trained")
    if not (workdir / "best.safetensors").exists():
        raise FileNotFoundError(f"no best.safetensors in {str(workdir)!r}: was it removed?")
    variables, about = load_weights(workdir / "best.safetensors")
    return Model(trainer.module, variables, about, config.name)


class _Run:
    """A run: what was restored or begun, and the loop that goes on with it."""

    def __init__(self, trainer: Trainer, config: Mapping[str, Any], workdir: Path):
        self._trainer, self._config, self._workdir = trainer, config, workdir
        self.schedule = Schedule(config)
        self._checkpoints = Checkpoints(workdir)
        latest = self._checkpoints.latest
        resumes = latest is not None
        state = None if resumes else trainer.init_state()
        self._feed, validating = feeds.open_data(config, trainer.mesh)
        self._images = {"training": self._feed.fingerprint, "validation": validating.fingerprint}
        # The latest step as well: a workdir of the same name on another machine may be another.
        devices.check_agreement(f"{config.to_json_best_effort()} {self._images} {workdir} {latest}")
        self._validation = Validation(validating, config, trainer.mesh)
        self._best, self._pending = -math.inf, []
        _say(
            f"training on {self._feed}; validating on {len(validating):,} tiles of "
            f"{len(validating.names):,} others, whose JPEGs have "
            f"{self._validation.jpeg_psnr:.2f} dB; {_describe(trainer)}"
        )
        self._skipped: dict[str, int] = {}
        self._tell_skipped(_say)
        if resumes:
            state = self._restore()
        self._state = state
        self._saved = self.schedule.step if resumes else None
        if devices.is_main():
            workdir.mkdir(parents=True, exist_ok=True)
            text = config.to_json_best_effort(indent=2) + "\n"
            write_file(workdir / "config.json", text.encode())
        self._journal = Journal(workdir, self.schedule.step) if devices.is_main() else None

    def __enter__(self) -> "_Run":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        # What stopped the run says more than what closing might raise.
        unimportant = () if kind is None else (Exception,)
        with contextlib.suppress(*unimportant):
            if self._journal is not None:
                self._journal.close()
        with contextlib.suppress(*unimportant):
            # A checkpoint that is being written is finished first; but processes that write one
            # together would wait for the one that is gone.
            if kind is None or not issubclass(kind, ConnectionError):
                self._checkpoints.close()

    @property
    def last_good(self) -> str:
        """The newest complete checkpoint, in words."""
        return _checkpoint_name(self._checkpoints, self._workdir)

    def _restore(self) -> TrainState:
        step = self._checkpoints.latest
        host = self._checkpoints.host(step)
        check_resumable(host["config"], self._config, host["schedule"], str(self._workdir))
        for which, found in self._images.items():
            if found != host["images"][which]:
                raise ValueError(
                    f"the {which} images are not those that the run in {str(self._workdir)!r} was "
                    f"begun with ({host['images'][which]}, now {found}); bring them back, or "
                    "choose another workdir"
                )
        self.schedule.state, self._pending = host["schedule"], host["pending"]
        self._best = -math.inf if host["best"] is None else host["best"]
        _say(f"going on from step {self.schedule.step:,} of {str(self._workdir)!r}")
        return self._checkpoints.restore(step, self._trainer.abstract_state())

    def go(self, profile: bool) -> None:
        """Trains to the end, or until a signal."""
        schedule, train = self.schedule, self._config.train
        timer, first = Timer(), schedule.step
        with _stop_signals() as stopped, _progress(schedule) as self._bar:
            while not schedule.done:
                if profile and schedule.step - first == _PROFILE_AFTER:
                    jax.profiler.start_trace(self._workdir / "profile")
                self._one_step(timer)
                if profile and schedule.step - first == _PROFILE_AFTER + _PROFILE_STEPS:
                    self._stop_profile()
                    profile = False
                validates = schedule.step % train.validate_every == 0 or schedule.stage_over
                reports = schedule.step % train.log_every == 0 or validates
                if reports:
                    self._report(timer)
                with timer.paused():
                    if validates:
                        self._validate()
                    elif train.checkpoint_every and schedule.step % train.checkpoint_every == 0:
                        self._save()
                # Several processes have to stop at the same step, and ask each other seldom.
                if (jax.process_count() == 1 or reports) and devices.any_process(bool(stopped)):
                    self._save()
                    self._checkpoints.wait()
                    raise KeyboardInterrupt(
                        f"stopped at step {schedule.step:,} with a checkpoint in "
                        f"{str(self._workdir)!r}; the same command goes on from it"
                    )
        if profile and schedule.step - first > _PROFILE_AFTER:
            self._stop_profile()
        elif profile:
            _say(f"no profile: it begins {_PROFILE_AFTER} steps after the start")

    def _one_step(self, timer: "Timer") -> None:
        schedule = self.schedule
        patch = self._config.train.patch_sizes[schedule.stage]
        inputs = self._feed.inputs(
            schedule.stage, 0 if self._config.train.fixed_batch else schedule.stage_step
        )
        rate = np.float32(schedule.learning_rate)
        self._state, scalars = self._trainer.step(self._state, inputs, rate, patch)
        self._pending.append(scalars)
        # Enough ahead to keep the device busy; further, and the bar shows steps that are not done,
        # which a signal has to wait for: a CPU lets 32 of them queue.
        if len(self._pending) > _STEPS_AHEAD:
            jax.block_until_ready(self._pending[-1 - _STEPS_AHEAD])
        timer.count(batch_sizes(self._config)[schedule.stage] * patch**2)
        schedule.advance()
        self._bar.update()

    def _stop_profile(self) -> None:
        jax.block_until_ready(self._state)
        jax.profiler.stop_trace()
        self._write(f"profile written to {str(self._workdir / 'profile')!r}; TensorBoard shows it")

    def _fetch(self) -> None:
        """Brings the last steps' scalars to the host, and looks at them.

        Raises:
            FloatingPointError: if the loss or the gradient is not finite.
            ValueError: if tf.data's JPEGs are not what the codec says.
        """
        self._pending = [
            {key: float(value) for key, value in scalars.items()}
            for scalars in jax.device_get(self._pending)
        ]
        for i, scalars in enumerate(self._pending):
            step = self.schedule.step - len(self._pending) + 1 + i
            for key in ("loss", "grad_norm"):
                if not math.isfinite(scalars[key]):
                    # One that is being written is good, too.
                    self._checkpoints.wait()
                    raise FloatingPointError(
                        f"the {key.replace('grad_norm', 'gradient')} is {scalars[key]} at step "
                        f"{step:,}; the last good checkpoint is {self.last_good}; "
                        "begin in another workdir with "
                        "a lower config.train.learning_rate, or with config.train.clip_norm, from "
                        f"--config.init_from={self._workdir}"
                    )
            if scalars.get("wrong_pixels"):
                raise ValueError(
                    f"TensorFlow's libjpeg decoded {scalars['wrong_pixels']:.0f} "
                    f"pixels of step {step:,} otherwise than "
                    "dmcnn_jax.jpeg; this TensorFlow has another libjpeg: set "
                    "config.data.pipeline to 'device', and report it"
                )

    def _report(self, timer: "Timer") -> None:
        """Shows and logs the means of the last steps."""
        self._fetch()
        if not self._pending:
            return
        schedule, rate = self.schedule, timer.rate()
        means = {
            key: math.fsum(s[key] for s in self._pending) / len(self._pending)
            for key in self._pending[0]
        }
        self._pending = []
        self._bar.set_postfix_str(
            f"stage {schedule.stage + 1}, loss {means['loss']:.2e}, PSNR {means['psnr']:.2f} "
            f"(JPEG {means['jpeg_psnr']:.2f}) dB, {rate / 1e6:.2f} Mpixel/s"
        )
        means.pop("wrong_pixels", None)
        about = {"stage": schedule.stage, "learning_rate": schedule.learning_rate}
        self._log(about | means | {"pixels_per_second": round(rate)})
        self._tell_skipped(self._write)

    def _validate(self) -> None:
        """Validates, lets the schedule know, and saves weights and a checkpoint."""
        schedule, variables = self.schedule, self._trainer.variables(self._state)
        # Validation takes other blocks of memory than a step.
        trim_memory()
        result, pictures = self._validation(self._trainer.module, variables)
        trim_memory()
        if not math.isfinite(result["loss"]):
            self._checkpoints.wait()
            raise FloatingPointError(
                f"the validation loss is {result['loss']} at step {schedule.step:,}; the last good "
                f"checkpoint is {self.last_good}; begin in another workdir with a lower "
                "config.train.learning_rate"
            )
        event = schedule.observe(result["loss"])
        self._log({"validation": result, "event": event})
        self._write(
            f"step {schedule.step:,}: validation loss {result['loss']:.3e}, PSNR "
            f"{result['psnr']:.3f} dB, JPEG {self._validation.jpeg_psnr:.3f} dB, gain "
            f"{result['gain']:+.3f} dB{_EVENTS[event]}"
        )
        improved = result["psnr"] > self._best
        self._best = max(self._best, result["psnr"])
        if devices.is_main():
            self._journal.pictures(schedule.step, pictures)
            about = self._about(result)
            for name in ["best", "last"] if improved else ["last"]:
                save_weights(self._workdir / f"{name}.safetensors", variables, about)
        self._save(result["psnr"])

    def _about(self, result: Mapping[str, float]) -> dict[str, Any]:
        config = self._config
        return {
            "model": config.model.to_dict(),
            "name": config.name,
            "quality": config.quality,
            "quality_range": list(config.quality_range),
            "luma": config.data.luma,
            "step": self.schedule.step,
            "validation": dict(result),
        }

    def _save(self, psnr: float | None = None) -> None:
        """Writes a checkpoint, unless this step has one."""
        if self._saved == self.schedule.step:
            return
        self._fetch()
        self._saved = self.schedule.step
        host = {
            "schedule": self.schedule.state,
            "best": self._best if math.isfinite(self._best) else None,
            "pending": self._pending,
            "config": self._config.to_dict(),
            "images": self._images,
        }
        self._checkpoints.save(self.schedule.step, self._state, host, psnr)

    def _log(self, record: Mapping[str, Any]) -> None:
        if self._journal is not None:
            self._journal.write(self.schedule.step, record)

    def _write(self, line: str) -> None:
        if devices.is_main():
            self._bar.write(line, file=sys.stderr)

    def _tell_skipped(self, write) -> None:
        skipped = dict(self._feed.skipped)
        if skipped != self._skipped:
            self._skipped = skipped
            write(f"images that can't be trained on: {tiles_module.format_counts(skipped)}")


class Timer:
    """Pixels a second, without what is no training."""

    def __init__(self):
        self._start, self._pixels = time.perf_counter(), 0

    def count(self, pixels: int) -> None:
        """Adds pixels trained on."""
        self._pixels += pixels

    def rate(self) -> float:
        """Pixels a second since the last call."""
        now = time.perf_counter()
        rate = self._pixels / max(1e-9, now - self._start)
        self._start, self._pixels = now, 0
        return rate

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time in it doesn't count."""
        before = time.perf_counter()
        yield
        self._start += time.perf_counter() - before


_EVENTS = {
    "": "",
    "reduced": " (no longer falling: learning rate reduced)",
    "converged": " (stage converged)",
}


def _progress(schedule: Schedule) -> tqdm:
    return tqdm(
        total=schedule.total_steps,
        initial=schedule.step,
        unit="step",
        dynamic_ncols=True,
        # A file need not hold every frame of it.
        mininterval=0.5 if sys.stderr.isatty() else 30,
        disable=not devices.is_main(),
    )


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that fills when SIGINT or SIGTERM arrives; a second one interrupts at once."""
    received: list[int] = []

    def handle(number, frame):
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _describe(trainer: Trainer) -> str:
    weights = sum(math.prod(x.shape) for x in jax.tree.leaves(trainer.abstract_state().params))
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{weights:,} weights, {jax.device_count()} × {jax.devices()[0].device_kind}{processes}"


def _checkpoint_name(checkpoints: Checkpoints, workdir: Path) -> str:
    step = checkpoints.latest
    return f"that of step {step:,} in {str(workdir)!r}" if step is not None else "none yet"


def _say(text: str) -> None:
    if devices.is_main():
        print(text, file=sys.stderr, flush=True)
