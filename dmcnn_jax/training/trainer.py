"""Training: stages of growing patches, one jitted step, validation, checkpoints."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

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
from dmcnn_jax.system import devices
from dmcnn_jax.training.optimizers import make_optimizer


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
            jax.jit, out_shardings=self._replicated, compiler_options=fast_compile_options()
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
        return self._begin(init_variables(self.module, key))

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
        original = scale_pixels(batch["original"])
        decoded = decode(self.module, batch["coefficients"], batch["table"])
        scalars = {
            "loss": loss,
            "psnr": _decibels(jnp.mean(jnp.square(jnp.clip(image, 0, 1) - original))),
            "jpeg_psnr": _decibels(jnp.mean(jnp.square(scale_pixels(decoded) - original))),
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
        loss = self.module.loss(estimates, scale_pixels(batch["original"]))
        return loss, (stats, estimates["image"])

    def variables(self, state: TrainState) -> dict[str, Any]:
        """The variables that evaluate and ship: averaged parameters, and statistics."""
        return {"params": state.average, **state.stats}


def scale_pixels(pixels: jax.Array) -> jax.Array:
    """uint8 [B, H, W] or [B, H, W, C] → float32 [B, H, W, 1 or C], scaled to [0, 1]."""
    return (pixels[..., None] if pixels.ndim == 3 else pixels).astype(jnp.float32) / 255


def _decibels(mean_square: jax.Array) -> jax.Array:
    return -10 * jnp.log10(mean_square)
