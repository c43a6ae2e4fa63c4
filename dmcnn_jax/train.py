"""Training: stages of growing patches, one jitted step, validation, checkpoints."""

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from dmcnn_jax.config.validation import batch_sizes, check_resumable, validate_config
from dmcnn_jax.data import feeds
from dmcnn_jax.data import tiles as tiles_module
from dmcnn_jax.images import metrics
from dmcnn_jax.inference.model import Model, estimate
from dmcnn_jax.inference.variables import (
    check_variables,
    extend_variables,
    initialize,
    run_once_options,
    widen_variables,
)
from dmcnn_jax.inference.weights import find_weights, load_weights, save_weights
from dmcnn_jax.journal import Journal
from dmcnn_jax.models import create_model, decode, first_variables
from dmcnn_jax.schedule import Schedule
from dmcnn_jax.system import devices
from dmcnn_jax.system.atomic_write import write_file
from dmcnn_jax.system.malloc import trim_memory
from dmcnn_jax.training.checkpoints import CheckpointError, Checkpoints

# Tiles that a device validates on at a time, and those whose pictures TensorBoard shows.
_VALIDATION_BATCH, _PICTURES = 4, 4
# Steps that may be begun and not done.
_STEPS_AHEAD = 2
# Steps that a profile leaves out at the start, and steps that it holds.
_PROFILE_AFTER, _PROFILE_STEPS = 5, 10


class TrainState(flax.struct.PyTreeNode):
    """All arrays that decide the future of a run.

    Attributes:
        step: steps done, int32 scalar.
        params: float32 parameters.
        stats: the module's other variables, such as batch statistics.
        average: the moving average of `params`, which evaluates and ships.
        optimizer: the optimizer's state.
    """

    step: jax.Array
    params: Any
    stats: Any
    average: Any
    optimizer: Any


class Trainer:
    """What `train` needs besides the data: the module, the optimizer, the step, the mesh.

    Args:
        config: of the run.
        mesh: of devices; by default all there are.
    """

    def __init__(self, config: Mapping[str, Any], mesh: jax.sharding.Mesh | None = None):
        self.config = config
        self.module = create_model(config.model)
        self.optimizer = make_optimizer(config.train)
        self.mesh = mesh or devices.make_mesh()
        self._replicated = devices.replicated(self.mesh)
        self._batched = devices.batched(self.mesh)

    def init_state(self) -> TrainState:
        """The state before the first step: random, or from `config.init_from`; on every device.

        Raises:
            FileNotFoundError: if the weights to start from are not there.
            ValueError: if they don't fit the model.
        """
        begin = partial(
            jax.jit, out_shardings=self._replicated, compiler_options=run_once_options()
        )
        key = jax.random.key(self.config.seed)
        if not self.config.init_from:
            return begin(self._init)(key)
        weights = self._place(self._weights_to_start_from(key))
        return begin(self._begin)(weights)

    def _weights_to_start_from(self, key: jax.Array) -> Mapping[str, Any]:
        """The variables that `config.init_from` names, with what they lack from a random key."""
        name, module = self.config.init_from, self.module
        try:
            weights = load_weights(find_weights(name))[0]
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"config.init_from names weights to start from, but there are {error}; train "
                "them first, or set --config.init_from= to start from random ones"
            ) from error
        try:
            check_variables(module, weights, name)
        except ValueError:
            # Seconds to compile, so only where they are needed.
            first = {"params": initialize(module, key)["params"]}
            weights = widen_variables(module, weights, first)
            weights = extend_variables(module, weights, first)
            check_variables(module, weights, name)
        return weights

    def abstract_state(self) -> TrainState:
        """Shapes, types and places of the state's arrays, none of which is made."""
        shapes = jax.eval_shape(self._init, jax.random.key(0))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._replicated), shapes
        )

    def _init(self, key: jax.Array) -> TrainState:
        return self._begin(first_variables(self.module, key))

    def _begin(self, variables: Mapping[str, Any]) -> TrainState:
        stats = dict(variables)
        params = stats.pop("params")
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            stats=stats,
            average=params,
            optimizer=self.optimizer.init(params),
        )

    def _place(self, tree: Any) -> Any:
        return jax.tree.map(lambda x: devices.to_devices(np.asarray(x), self._replicated), tree)

    @partial(jax.jit, static_argnums=(0, 4), donate_argnums=1)
    def step(
        self,
        state: TrainState,
        inputs: Mapping[str, jax.Array],
        learning_rate: jax.Array,
        patch_size: int,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One step.

        Args:
            state: before it; its memory is reused.
            inputs: what a feed gives, see `data.feeds`.
            learning_rate: float32 scalar.
            patch_size: side of the patches, pixels.

        Returns:
            The state after it, and scalars: "loss", "psnr" and "jpeg_psnr" (dB, of the batch as a
            whole), "grad_norm", and of tf.data "wrong_pixels", those that libjpeg decoded otherwise
            than the codec: 0.
        """
        config = self.config
        crop_step = 0 if config.train.fixed_batch else state.step
        key = jax.random.fold_in(jax.random.key(config.seed), crop_step)
        batch = feeds.make_batch(inputs, key, patch_size, config, self._batched)
        (loss, (stats, image)), grads = self.gradients(state, batch)
        updates, optimizer = self.optimizer.update(
            grads,
            state.optimizer,
            state.params,
            value=loss,
            grad=grads,
            value_fn=lambda params: self._loss(params, state.stats, batch)[0],
        )
        params = jax.tree.map(lambda p, u: p - learning_rate * u, state.params, updates)
        # A short memory at first, else the average remembers the random start.
        decay = jnp.minimum(config.train.ema_decay, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(params, state.average, 1 - decay)
        state = TrainState(state.step + 1, params, stats, average, optimizer)
        original = _scaled(batch["original"])
        decoded = decode(self.module, batch["coefficients"], batch["table"])
        scalars = {
            "loss": loss,
            "psnr": _decibels(jnp.mean(jnp.square(jnp.clip(image, 0, 1) - original))),
            "jpeg_psnr": _decibels(jnp.mean(jnp.square(_scaled(decoded) - original))),
            "grad_norm": optax.tree.norm(grads),
        }
        if "decoded" in batch:
            scalars["wrong_pixels"] = jnp.sum(batch["decoded"] != decoded)
        return state, scalars

    def gradients(self, state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[Any, Any]:
        """The loss of a batch, and its gradient.

        Args:
            state: of the run.
            batch: as of `feeds.make_batch`.

        Returns:
            (loss, (the module's other variables, the estimate of the original)), and the gradient
            by `state.params`.
        """
        return jax.value_and_grad(self._loss, has_aux=True)(state.params, state.stats, batch)

    def _loss(
        self, params: Any, stats: Any, batch: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        """The loss, and the module's other variables and estimate of the original."""
        estimates, stats = self.module.apply(
            {"params": params, **stats},
            batch["coefficients"],
            batch["table"],
            train=True,
            mutable=list(stats),
        )
        loss = self.module.loss(estimates, _scaled(batch["original"]))
        return loss, (stats, estimates["image"])

    def variables(self, state: TrainState) -> dict[str, Any]:
        """The variables that evaluate and ship: averaged parameters, and statistics."""
        return {"params": state.average, **state.stats}


def make_optimizer(config: Mapping[str, Any]) -> optax.GradientTransformationExtraArgs:
    """The optimizer of `config.train`, without its learning rate, which the host sets."""
    steps = []
    if config.clip_norm:
        steps.append(optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay:
        steps.append(optax.add_decayed_weights(config.weight_decay))
    steps.append(_OPTIMIZERS[config.optimizer](config))
    return optax.with_extra_args_support(optax.chain(*steps))


def _muon(config: Mapping[str, Any]) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024) for the kernels of convolutions, Nadam for everything else.

    A kernel, [size, size, in, out], is a matrix of all that an output channel sees by output
    channels; its momentum is made orthogonal. Steps have a root mean square of 0.2, as Adam's do
    about (Liu et al., 2025), so that one learning rate does for both.
    """
    del config

    def matrices(params):
        return jax.tree.map(
            lambda p: (
                optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
                if p.ndim == 4 and p.shape[-1] > 1
                else None
            ),
            params,
        )

    muon = optax.contrib.muon(
        1.0, consistent_rms=0.2, muon_weight_dimension_numbers=matrices, adam_weight_decay=0.0
    )
    # Like the others, a direction to go against.
    return optax.chain(muon, optax.scale(-1.0))


_OPTIMIZERS = {
    "adam": lambda config: optax.scale_by_adam(),
    "sgd": lambda config: optax.trace(decay=config.momentum),
    "muon": _muon,
    "lbfgs": lambda config: optax.chain(optax.lbfgs(memory_size=10), optax.scale(-1.0)),
}


class Validation:
    """Measures weights on whole validation tiles, split over all devices.

    Args:
        tiles: validation tiles.
        config: of the run; its `quality` is what they are compressed at.
        mesh: of the devices.

    Attributes:
        jpeg_psnr: of the JPEGs, dB, mean over tiles.
    """

    def __init__(
        self, tiles: tiles_module.Tiles, config: Mapping[str, Any], mesh: jax.sharding.Mesh
    ):
        self._count = len(tiles)
        module = create_model(config.model)
        self._size = _VALIDATION_BATCH * mesh.size
        self._batches, originals, decoded = [], [], []
        mine, batched = devices.local_rows(self._size), devices.batched(mesh)
        for start in range(0, self._count, self._size):
            # The last batch is filled up with tiles that don't count.
            rows = np.minimum(np.arange(start, start + self._size), self._count - 1)
            batch = feeds.validation_batch(tiles.take(rows), config)
            parts = batch["original"], batch["coefficients"], batch["table"]
            originals.append(parts[0])
            decoded.append(np.asarray(decode(module, *parts[1:])))
            self._batches.append(
                jax.tree.map(
                    lambda part: devices.to_devices(np.ascontiguousarray(part[mine]), batched),
                    parts,
                )
            )
        original, self._decoded = (
            np.concatenate(part)[: self._count] for part in (originals, decoded)
        )
        self._original = original[:_PICTURES]
        self.jpeg_psnr = float(
            np.mean([_psnr(*pair) for pair in zip(original, self._decoded, strict=True)])
        )
        self._decoded = self._decoded[:_PICTURES]
        self._measure = jax.jit(_measure, static_argnums=0, out_shardings=devices.replicated(mesh))

    def __call__(
        self, module: nn.Module, variables: Mapping[str, Any]
    ) -> tuple[dict[str, float], np.ndarray]:
        """Measures.

        Args:
            module: the network.
            variables: its variables, on every device.

        Returns:
            "loss", "psnr" and its "gain" over the JPEG's (dB, mean over tiles, of pixels rounded to
            8 bits), the same in all processes; and pictures, uint8 [some, side, 3 · side]:
            original, JPEG, restored.
        """
        measured = [
            jax.device_get(self._measure(module, variables, *batch)) for batch in self._batches
        ]
        losses, squares, outputs = (
            np.concatenate(part)[: self._count] for part in zip(*measured, strict=True)
        )
        pixels = math.prod(outputs.shape[1:])
        with np.errstate(divide="ignore"):
            psnrs = 10 * np.log10(255**2 * pixels / squares.sum(axis=1, dtype=np.int64))
        psnr = float(np.mean(psnrs))
        result = {
            "loss": math.fsum(losses.tolist()) / self._count,
            "psnr": psnr,
            "gain": psnr - self.jpeg_psnr,
        }
        pictures = (self._original, self._decoded, outputs[:_PICTURES])
        # Of chroma, Cb is shown.
        pictures = [p[..., 0] if p.ndim == 4 else p for p in pictures]
        return result, np.concatenate(pictures, axis=2)


def _psnr(original: np.ndarray, output: np.ndarray) -> float:
    """PSNR of uint8 [H, W] or [H, W, channels]: of all channels as one plane."""
    return metrics.psnr(original.reshape(len(original), -1), output.reshape(len(output), -1))


def _measure(
    module: nn.Module,
    variables: Mapping[str, Any],
    original: jax.Array,
    coefficients: jax.Array,
    table: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The loss of each tile, the squared errors of each of its rows, int32, and the output."""
    estimates = estimate(module, variables, coefficients, table)

    def loss_of_one(estimates, original):
        return module.loss(jax.tree.map(lambda x: x[None], estimates), original[None])

    losses = jax.vmap(loss_of_one)(estimates, _scaled(original))
    output = jnp.clip(jnp.round(estimates["image"] * 255), 0, 255).astype(jnp.uint8)
    output = output.reshape(original.shape)
    # A row at a time, integers suffice, and no device can see the sum otherwise than another.
    errors = jnp.square(output.astype(jnp.int32) - original.astype(jnp.int32))
    squares = jnp.sum(errors.reshape(*errors.shape[:2], -1), axis=2)
    return losses, squares, output


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


def _scaled(pixels: jax.Array) -> jax.Array:
    """uint8 [B, H, W] or [B, H, W, C] → float32 [B, H, W, 1 or C], scaled to [0, 1]."""
    return (pixels[..., None] if pixels.ndim == 3 else pixels).astype(jnp.float32) / 255


def _decibels(mean_square: jax.Array) -> jax.Array:
    return -10 * jnp.log10(mean_square)
