"""The state of a training run, and the jitted step that advances it."""

from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from dmcnn_jax.config.types import Config
from dmcnn_jax.data import feeds
from dmcnn_jax.inference.variables import (
    check_variables,
    extend_variables,
    fast_compile_options,
    initialize,
    widen_variables,
)
from dmcnn_jax.inference.weights import find_weights, load_weights
from dmcnn_jax.models import create_model, decode, init_variables
from dmcnn_jax.models.base import Network
from dmcnn_jax.models.photo import PhotoNet
from dmcnn_jax.system import devices
from dmcnn_jax.training.optimizers import make_optimizer


class TrainState(flax.struct.PyTreeNode):
    """All arrays that the rest of a run depends on.

    Attributes:
        step: number of steps done, int32 scalar.
        params: trained parameters, float32: the network's collection "params", or, with
            `train.unfreeze`, a dictionary of it and of the collection "frozen".
        stats: the network's other variables, such as batch statistics.
        average: exponential moving average of `params`, used for evaluation and release.
        optimizer: the optimizer's state.
    """

    step: jax.Array
    params: Any
    stats: Any
    average: Any
    optimizer: Any


class Trainer:
    """Network, optimizer and step of a configuration, on a mesh of devices.

    Args:
        config: the configuration of the run; later changes to it have no effect.
        mesh: the devices to train on; all devices by default.
    """

    def __init__(self, config: Config, mesh: jax.sharding.Mesh | None = None):
        self.config = config
        self.module = create_model(config.model.to_dict())
        self.mesh = mesh or devices.make_mesh()
        self._settings = _step_settings(config)
        self._replicated = devices.replicated(self.mesh)

    def init_state(self) -> TrainState:
        """Returns the state before the first step, replicated on every device.

        Weights are random, or those named by `config.init_from`.

        Raises:
            FileNotFoundError: if the weights to start from are missing.
            ValueError: if they don't fit the network.
        """
        compiled = partial(
            jax.jit, out_shardings=self._replicated, compiler_options=fast_compile_options()
        )
        key = jax.random.key(self.config.seed)
        if not self.config.init_from:
            return compiled(partial(_random_state, self.module, self._settings))(key)
        weights = jax.tree.map(
            lambda x: devices.to_devices(np.asarray(x), self._replicated),
            self._load_initial_weights(key),
        )
        return compiled(partial(_new_state, self._settings))(weights)

    def _load_initial_weights(self, key: jax.Array) -> Mapping[str, Any]:
        """Loads the weights named by `config.init_from`, widened and extended to the network.

        Args:
            key: random key for weights that the file lacks.
        """
        name, module = self.config.init_from, cast(nn.Module, self.module)
        try:
            weights: Mapping[str, Any]
            weights, about = load_weights(find_weights(name))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"config.init_from names weights to start from, but there are {error}; train "
                "the earlier run first, or set --config.init_from= to start from random ones"
            ) from error
        if isinstance(module, PhotoNet) and about["model"].get("name") == "dmcnn":
            weights = module.start_from_luma(initialize(module, key), weights)
            check_variables(module, weights, name)
            return weights
        try:
            check_variables(module, weights, name)
        except ValueError:
            # Random weights take seconds to compile, so they are made only when needed.
            random = {"params": initialize(module, key)["params"]}
            weights = widen_variables(module, weights, random)
            weights = extend_variables(module, weights, random)
            check_variables(module, weights, name)
        return weights

    def abstract_state(self) -> TrainState:
        """Returns shapes, dtypes and shardings of the state's arrays, without computing any."""
        shapes = jax.eval_shape(
            partial(_random_state, self.module, self._settings), jax.random.key(0)
        )
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._replicated), shapes
        )

    def step(
        self,
        state: TrainState,
        inputs: feeds.Inputs,
        learning_rate: jax.Array | np.float32,
        patch_size: int,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Runs one training step.

        Args:
            state: the state before the step; its memory is reused.
            inputs: arrays from a feed, see `data.feeds`.
            learning_rate: float32 scalar.
            patch_size: side of the patches, pixels.

        Returns:
            The state after the step, and scalars of the batch: "loss", "psnr" and "jpeg_psnr" (dB,
            over all pixels), "grad_norm" and, with tf.data, "wrong_pixels", the number of pixels
            that TensorFlow decoded differently from `jpeg.decode` (0 unless something is wrong).
        """
        program = _compiled_steps.get(self.program_key(inputs, patch_size))
        if program is not None:
            stepped: tuple[TrainState, dict[str, jax.Array]]
            stepped = program.result()(state, inputs, learning_rate)
            return stepped
        return _train_step(self._settings, self.mesh, state, inputs, learning_rate, patch_size)

    def is_compiled(self, inputs: feeds.Inputs, patch_size: int) -> bool:
        """Returns whether `compile_step` was called for a step; arguments as in `step`."""
        return self.program_key(inputs, patch_size) in _compiled_steps

    def compile_step(self, state: TrainState, inputs: feeds.Inputs, patch_size: int) -> bool:
        """Compiles the program of `step` without running it; any thread may call this.

        Trainers with equal steps share the program.

        Args:
            state: the state, or the shapes and shardings of its arrays.
            inputs: arrays from a feed, of the shapes and shardings to compile for.
            patch_size: side of the patches, pixels.

        Returns:
            Whether this call compiled it.
        """
        key = self.program_key(inputs, patch_size)
        program: Future[jax.stages.Compiled] = Future()
        # Atomic: the first thread compiles, others wait.
        known = _compiled_steps.setdefault(key, program)
        if known is not program:
            known.result()
            return False
        try:
            traced = self.trace_step(state, inputs, np.float32(0), patch_size)
            program.set_result(traced.lower().compile())
        except BaseException as error:
            del _compiled_steps[key]
            program.set_exception(error)
            raise
        return True

    def program_key(self, inputs: feeds.Inputs, patch_size: int) -> tuple[Any, ...]:
        """Returns the key that identifies the program of a step; arguments as in `step`."""
        leaves, structure = jax.tree.flatten(inputs)
        shapes = tuple((x.shape, x.dtype) for x in leaves)
        return self._settings, self.mesh, patch_size, structure, shapes

    def trace_step(
        self,
        state: TrainState,
        inputs: feeds.Inputs,
        learning_rate: jax.Array | np.float32,
        patch_size: int,
    ) -> jax.stages.Traced:
        """Traces `step` for given arguments, or for their shapes, to inspect or compile it."""
        return _train_step.trace(
            self._settings, self.mesh, state, inputs, learning_rate, patch_size
        )

    def gradients(
        self, state: TrainState, batch: Mapping[str, jax.Array]
    ) -> tuple[tuple[jax.Array, tuple[Any, jax.Array]], Any]:
        """Returns the loss of a batch and its gradient.

        Args:
            state: the state of the run.
            batch: a batch from `feeds.make_batch`.

        Returns:
            (loss, (stats, estimate of the original)), and the gradient with respect to
            `state.params`.
        """
        return _gradients(self._settings, state, batch)

    def variables(self, state: TrainState) -> dict[str, Any]:
        """Returns averaged parameters and batch statistics, used for evaluation and release."""
        return _join(self._settings, state.average, state.stats)


def _random_state(module: Network, settings: Config, key: jax.Array) -> TrainState:
    return _new_state(settings, init_variables(module, key))


def _new_state(settings: Config, variables: Mapping[str, Any]) -> TrainState:
    params, stats = _split(settings, variables)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats=stats,
        average=params,
        optimizer=make_optimizer(settings.train).init(params),
    )


def _split(settings: Config, variables: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Splits a network's variables into trained and untrained ones."""
    others = dict(variables)
    params = others.pop("params")
    if settings.train.unfreeze:
        params = {"params": params, "frozen": others.pop("frozen")}
    return params, others


def _join(settings: Config, params: Any, others: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a network's variables: the inverse of `_split`."""
    return {**(params if settings.train.unfreeze else {"params": params}), **others}


# Fields of `config.train` that the jitted step reads.
_STEP_FIELDS = (
    "fixed_batch",
    "optimizer",
    "momentum",
    "weight_decay",
    "clip_norm",
    "ema_decay",
    "unfreeze",
)


def _step_settings(config: Config) -> ml_collections.FrozenConfigDict:
    """Returns the part of a configuration that the jitted step depends on, hashable.

    Trainers whose configurations agree in it share one compiled step.
    """
    return ml_collections.FrozenConfigDict(
        {
            "seed": config.seed,
            "random_table_prob": config.random_table_prob,
            "model": config.model.to_dict(),
            "data": {"guide": config.data.guide, "luma": config.data.luma},
            "train": {field: getattr(config.train, field) for field in _STEP_FIELDS},
        }
    )


# Steps that `Trainer.compile_step` compiled, for all trainers of the process.
_compiled_steps: dict[tuple[Any, ...], Future[jax.stages.Compiled]] = {}


# Not a method, since JAX's cache would keep its `self`, a Trainer, alive.
@partial(jax.jit, static_argnums=(0, 1, 5), donate_argnums=2)
def _train_step(
    settings: Config,
    mesh: jax.sharding.Mesh,
    state: TrainState,
    inputs: feeds.Inputs,
    learning_rate: jax.Array,
    patch_size: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    module = create_model(settings.model.to_dict())
    crop_step = 0 if settings.train.fixed_batch else state.step
    key = jax.random.fold_in(jax.random.key(settings.seed), crop_step)
    batch = feeds.make_batch(inputs, key, patch_size, settings, devices.batched(mesh))
    (loss, (stats, image)), grads = _gradients(settings, state, batch)
    updates, optimizer = make_optimizer(settings.train, mesh).update(
        grads,
        state.optimizer,
        state.params,
        value=loss,
        grad=grads,
        value_fn=lambda params: _loss(params, settings, state.stats, batch)[0],
    )
    params = jax.tree.map(lambda p, u: p - learning_rate * u, state.params, updates)
    # The averaging window is short at first, so that the average forgets the random start.
    decay = jnp.minimum(settings.train.ema_decay, (1 + state.step) / (10 + state.step))
    average = optax.incremental_update(params, state.average, 1 - decay)
    state = TrainState(state.step + 1, params, stats, average, optimizer)
    original = scale_pixels(batch["original"])
    decoded = decode(module, batch["coefficients"], batch["table"])
    scalars = {
        "loss": loss,
        "psnr": _decibels(jnp.mean(jnp.square(jnp.clip(image, 0, 1) - original))),
        "jpeg_psnr": _decibels(jnp.mean(jnp.square(scale_pixels(decoded) - original))),
        "grad_norm": optax.tree.norm(grads),
    }
    if "decoded" in batch:
        scalars["wrong_pixels"] = jnp.sum(batch["decoded"] != decoded)
    return state, scalars


def _gradients(
    settings: Config, state: TrainState, batch: Mapping[str, jax.Array]
) -> tuple[tuple[jax.Array, tuple[Any, jax.Array]], Any]:
    return jax.value_and_grad(_loss, has_aux=True)(state.params, settings, state.stats, batch)


def _loss(
    params: Any, settings: Config, stats: Any, batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, tuple[Any, jax.Array]]:
    """Returns the loss, and the network's other variables and its estimate of the original."""
    module = create_model(settings.model.to_dict())
    estimates, stats = module.apply(
        _join(settings, params, stats),
        batch["coefficients"],
        batch["table"],
        train=True,
        mutable=list(stats),
    )
    loss = module.loss(estimates, scale_pixels(batch["original"]))
    return loss, (stats, estimates["image"])


def scale_pixels(pixels: jax.Array) -> jax.Array:
    """Converts uint8 [B, H, W] or [B, H, W, C] to float32 [B, H, W, 1 or C] in [0, 1]."""
    return (pixels[..., None] if pixels.ndim == 3 else pixels).astype(jnp.float32) / 255


def _decibels(mean_square: jax.Array) -> jax.Array:
    """Converts a mean squared error of pixels in [0, 1] to PSNR, dB."""
    return -10 * jnp.log10(mean_square)
