"""Training: stages of growing patches, one jitted step, validation, checkpoints."""

import contextlib
import json
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

from dmcnn_jax import jpeg, metrics, sharding
from dmcnn_jax.checkpoint import Checkpoints, find_weights, load_weights, save_weights
from dmcnn_jax.config import batch_sizes, validate_config
from dmcnn_jax.data import on_device, sources
from dmcnn_jax.inference import Model, check_variables, estimate, initialize, to_uint8
from dmcnn_jax.models import create_model
from dmcnn_jax.schedule import Schedule

_VALIDATION_BATCH = 8


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
    """

    def __init__(self, config: Mapping[str, Any]):
        self.config = config
        self.module = create_model(config.model)
        self.optimizer = make_optimizer(config.train)
        self.mesh = sharding.make_mesh()
        self._replicated = sharding.replicated(self.mesh)
        self._batched = sharding.batched(self.mesh)

    def init_state(self) -> TrainState:
        """The state before the first step: random, or from `config.init_from`; on every device."""
        config = self.config

        def init(key: jax.Array) -> TrainState:
            stats = dict(initialize(self.module, key))
            params = stats.pop("params")
            return TrainState(
                step=jnp.zeros((), jnp.int32),
                params=params,
                stats=stats,
                average=params,
                optimizer=self.optimizer.init(params),
            )

        state = jax.jit(init, out_shardings=self._replicated)(jax.random.key(config.seed))
        if config.init_from:
            variables, _ = load_weights(find_weights(config.init_from))
            check_variables(self.module, variables, config.init_from)
            # Two arrays: the step gives its inputs' memory away, and one can't be given away twice.
            place = partial(jax.device_put, device=self._replicated)
            stats = dict(variables)
            params = stats.pop("params")
            state = state.replace(
                params=place(params),
                average=place(jax.tree.map(np.copy, params)),
                stats=place(stats),
            )
        return state

    @partial(jax.jit, static_argnums=(0, 5), donate_argnums=1)
    def step(
        self,
        state: TrainState,
        tiles: jax.Array,
        indices: jax.Array,
        learning_rate: jax.Array,
        patch_size: int,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One step.

        Args:
            state: before it; its memory is reused.
            tiles: uint8 [N, side, side].
            indices: int32 [B], the tiles that the batch's patches are cropped from.
            learning_rate: float32 scalar.
            patch_size: side of the patches, pixels.

        Returns:
            The state after it, and scalars: "loss", "psnr" and "jpeg_psnr" (dB, of the batch as a
                whole), "grad_norm".
        """
        config = self.config
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        chosen = jax.lax.with_sharding_constraint(jnp.take(tiles, indices, axis=0), self._batched)
        batch = on_device.make_batch(
            chosen, key, patch_size, config.quality, tuple(config.quality_range)
        )
        original = batch["original"][..., None].astype(jnp.float32) / 255

        def loss_fn(params):
            estimates, stats = self.module.apply(
                {"params": params, **state.stats},
                batch["coefficients"],
                batch["table"],
                train=True,
                mutable=list(state.stats),
            )
            return self.module.loss(estimates, original), (stats, estimates["image"])

        (loss, (stats, image)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        updates, optimizer = self.optimizer.update(grads, state.optimizer, state.params)
        params = jax.tree.map(lambda p, u: p - learning_rate * u, state.params, updates)
        # A short memory at first, else the average remembers the random start.
        decay = jnp.minimum(config.train.ema_decay, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(params, state.average, 1 - decay)
        state = TrainState(state.step + 1, params, stats, average, optimizer)
        decoded = jpeg.decode(batch["coefficients"], batch["table"])[..., None] / 255
        return state, {
            "loss": loss,
            "psnr": _decibels(jnp.mean(jnp.square(jnp.clip(image, 0, 1) - original))),
            "jpeg_psnr": _decibels(jnp.mean(jnp.square(decoded - original))),
            "grad_norm": optax.global_norm(grads),
        }

    def variables(self, state: TrainState) -> dict[str, Any]:
        """The variables that evaluate and ship: averaged parameters, and statistics."""
        return {"params": state.average, **state.stats}


def make_optimizer(config: Mapping[str, Any]) -> optax.GradientTransformation:
    """The optimizer of `config.train`, without its learning rate, which the host sets."""
    steps = []
    if config.clip_norm:
        steps.append(optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay:
        steps.append(optax.add_decayed_weights(config.weight_decay))
    steps.append(
        optax.scale_by_adam() if config.optimizer == "adam" else optax.trace(decay=config.momentum)
    )
    return optax.chain(*steps)


class DeviceSource:
    """Tiles for the step: all of them on the device, or those of a batch at a time.

    Args:
        tiles: what to train on.
        config: of the run.
        mesh: to put them on.
    """

    def __init__(self, tiles: sources.Tiles, config: Mapping[str, Any], mesh: jax.sharding.Mesh):
        self._tiles, self._seed = tiles, config.seed
        self._replicated, self._batched = sharding.replicated(mesh), sharding.batched(mesh)
        self._resident = None
        if tiles.nbytes <= config.data.device_bytes:
            self._resident = sharding.to_devices(tiles.take(), self._replicated)

    def batch(self, stage_step: int, stage: int, batch_size: int) -> tuple[jax.Array, jax.Array]:
        """Tiles and the indices of a batch among them, for one step of a stage."""
        # Each stage has orders of its own, else each would begin with the same pictures.
        seed = self._seed + 1000 * stage
        indices = on_device.tile_indices(len(self._tiles), batch_size, stage_step, seed)
        mine = indices[sharding.local_rows(batch_size)]
        if self._resident is not None:
            return self._resident, sharding.to_devices(mine, self._batched)
        # On one's own device, a row's index is its place in the batch.
        rows = np.arange(batch_size, dtype=np.int32)[sharding.local_rows(batch_size)]
        pixels = sharding.to_devices(self._tiles.take(mine), self._batched)
        return pixels, sharding.to_devices(rows, self._batched)


class Validation:
    """Measures weights on whole validation tiles.

    Args:
        tiles: validation tiles.
        quality: JPEG quality to compress them at.
    """

    def __init__(self, tiles: sources.Tiles, quality: int):
        self._original = tiles.take()
        table = np.asarray(jpeg.quality_table(quality))
        self._table = np.broadcast_to(table, (len(self._original), 8, 8))
        self._coefficients = np.concatenate(
            [np.asarray(jpeg.encode(part, table)) for part in self._parts(self._original)]
        )
        decoded = [np.asarray(jpeg.decode(part, table)) for part in self._parts(self._coefficients)]
        self.jpeg_psnr = float(
            np.mean(
                [
                    metrics.psnr(*pair)
                    for pair in zip(self._original, np.concatenate(decoded), strict=True)
                ]
            )
        )

    def __call__(self, module: nn.Module, variables: Mapping[str, Any]) -> dict[str, float]:
        """Loss, and PSNR and its gain over the JPEG's (dB, mean over tiles, of pixels rounded to 8
        bits)."""
        losses, psnrs = [], []
        for original, k, q in zip(
            *map(self._parts, (self._original, self._coefficients, self._table)), strict=True
        ):
            estimates = estimate(module, variables, k, q)
            loss = module.loss(estimates, jnp.asarray(original[..., None], jnp.float32) / 255)
            losses.append(float(loss) * len(original))
            output = to_uint8(estimates["image"][..., 0])
            psnrs += [metrics.psnr(*pair) for pair in zip(original, output, strict=True)]
        psnr = float(np.mean(psnrs))
        return {
            "loss": math.fsum(losses) / len(self._original),
            "psnr": psnr,
            "gain": psnr - self.jpeg_psnr,
        }

    @staticmethod
    def _parts(array: np.ndarray) -> list[np.ndarray]:
        return [array[i : i + _VALIDATION_BATCH] for i in range(0, len(array), _VALIDATION_BATCH)]


def train(config: Mapping[str, Any], workdir: str | os.PathLike) -> Model:
    """Trains, or goes on with what was begun in the workdir.

    Args:
        config: of the run; see `dmcnn_jax.config`.
        workdir: where checkpoints, the log (`log.jsonl`), the configuration and the weights
            (`best.safetensors`: of the best validation PSNR; `last.safetensors`) are kept.

    Returns:
        The best model.

    Raises:
        ValueError: for a configuration that makes no sense.
        FileNotFoundError: if the images or the weights to start from are not there.
        FloatingPointError: if the loss is no longer finite.
        KeyboardInterrupt: if a signal stopped it, after a checkpoint.
    """
    validate_config(config)
    workdir = Path(workdir)
    trainer = Trainer(config)
    for size in batch_sizes(config):
        sharding.check_batch(size, trainer.mesh)
    schedule = Schedule(config)
    state = trainer.init_state()
    training, validating = sources.open_data(config)
    source = DeviceSource(training, config, trainer.mesh)
    validation = Validation(validating, config.quality)
    _say(
        f"training on {len(training)} tiles of {len(training.names)} images, validating on {len(validating)} tiles of "
        f"{len(validating.names)} others, whose JPEGs have {validation.jpeg_psnr:.2f} dB; "
        f"{sum(x.size for x in jax.tree.leaves(state.params)):,} weights, {jax.device_count()} × {jax.devices()[0].device_kind}"
    )
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(workdir)
    best = -math.inf
    if checkpoints.latest is not None:
        state, host = checkpoints.restore(checkpoints.latest, state)
        schedule.state, best = host["schedule"], host["best"]
        _say(f"going on from step {schedule.step:,} of {workdir}")
    _write_text(workdir / "config.json", config.to_json_best_effort(indent=2))

    about = {
        "model": config.model.to_dict(),
        "name": config.name,
        "quality": config.quality,
        "luma": config.data.luma,
    }
    about["quality_range"] = list(config.quality_range)

    def validate_and_save(state: TrainState) -> None:
        nonlocal best
        variables = trainer.variables(state)
        result = validation(trainer.module, variables)
        event = schedule.observe(result["loss"])
        _log(workdir, {"step": schedule.step, "validation": result, "event": event})
        bar.write(
            f"step {schedule.step:,}: validation loss {result['loss']:.3e}, PSNR {result['psnr']:.3f} dB, JPEG "
            f"{validation.jpeg_psnr:.3f} dB, gain {result['gain']:+.3f} dB"
            + (f" ({_EVENTS[event]})" if event else ""),
            file=sys.stderr,
        )
        about["step"], about["validation"] = schedule.step, result
        if result["psnr"] > best:
            best = result["psnr"]
            save_weights(workdir / "best.safetensors", variables, about)
        save_weights(workdir / "last.safetensors", variables, about)
        save(state, result["psnr"])

    def save(state: TrainState, psnr: float) -> None:
        if checkpoints.latest != schedule.step:
            checkpoints.save(schedule.step, state, {"schedule": schedule.state, "best": best}, psnr)

    with _stop_signals() as stopped, _progress(schedule) as bar:
        timer, pending = Timer(), []
        while not schedule.done:
            stage = schedule.stage
            patch, batch = config.train.patch_sizes[stage], batch_sizes(config)[stage]
            tiles, indices = source.batch(schedule.stage_step, stage, batch)
            rate = jnp.float32(schedule.learning_rate)
            state, scalars = trainer.step(state, tiles, indices, rate, patch)
            pending.append(scalars)
            timer.count(batch * patch**2)
            ended = schedule.advance()
            bar.update()
            if schedule.step % config.train.log_every == 0 or ended:
                _report(workdir, bar, schedule, stage, pending, timer)
                pending = []
            if schedule.step % config.train.validate_every == 0 or ended:
                with timer.paused():
                    validate_and_save(state)
            if stopped:
                save(state, -math.inf)
                checkpoints.close()
                raise KeyboardInterrupt(
                    f"stopped at step {schedule.step:,} with a checkpoint; the same command goes on from it"
                )
    checkpoints.close()
    if not (workdir / "best.safetensors").exists():
        raise FileNotFoundError(f"no validation in {str(workdir)!r}: nothing was trained")
    variables, about = load_weights(workdir / "best.safetensors")
    return Model(trainer.module, variables, about, config.name)


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


_EVENTS = {"reduced": "no longer falling: learning rate reduced", "converged": "stage converged"}


def _report(workdir, bar, schedule, stage, pending, timer) -> None:
    """Fetches the scalars of the last steps, shows and logs their means."""
    fetched = jax.device_get(pending)
    means = {key: float(np.mean([s[key] for s in fetched])) for key in fetched[0]}
    if not math.isfinite(means["loss"]):
        raise FloatingPointError(
            f"the loss is {means['loss']} between steps {schedule.step - len(fetched):,} and {schedule.step:,}; the last good "
            f"checkpoint in {str(workdir)!r} goes on from before; lower config.train.learning_rate or set config.train.clip_norm"
        )
    rate = timer.rate()
    bar.set_postfix_str(
        f"stage {stage + 1}, loss {means['loss']:.2e}, PSNR {means['psnr']:.2f} (JPEG {means['jpeg_psnr']:.2f}) dB, "
        f"{rate / 1e6:.2f} Mpixel/s"
    )
    record = {"step": schedule.step, "stage": stage, "learning_rate": schedule.learning_rate}
    _log(workdir, record | means | {"pixels_per_second": round(rate)})


def _progress(schedule: Schedule) -> tqdm:
    return tqdm(
        total=schedule.total_steps,
        initial=schedule.step,
        unit="step",
        dynamic_ncols=True,
        # A file need not hold every frame of it.
        mininterval=0.5 if sys.stderr.isatty() else 30,
        disable=jax.process_index() != 0,
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


def _log(workdir: Path, record: Mapping[str, Any]) -> None:
    if jax.process_index() == 0:
        with (workdir / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text)
    os.replace(temporary, path)


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


def _decibels(mean_square: jax.Array) -> jax.Array:
    return -10 * jnp.log10(mean_square)
