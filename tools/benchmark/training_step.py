"""A training step that can be called again and again."""

import functools
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from benchmark.inputs import first_devices, make_pictures, training_config
from benchmark.memory import compiled_memory
from benchmark.operations import compiled_flops, find_operations
from benchmark.settings import Settings
from benchmark.timing import Call


class TrainingStep:
    """A training step: pairs, forward and backward pass, optimizer.

    Args:
        settings: patches and the tiles that they are cut from.
        features: F, the network's width.
        batch: patches in a batch.
        dtype: data type that the network computes in.
        mesh: of devices; by default as many as split the batch evenly.
        weights: a file of weights to start from; "" for random ones, which take seconds to compile.

    Attributes:
        call: takes a step, and waits for it.
    """

    def __init__(
        self,
        settings: Settings,
        features: int,
        batch: int,
        dtype: str,
        *,
        mesh: jax.sharding.Mesh | None = None,
        weights: str = "",
    ):
        from dmcnn_jax.data.luma_pairs import TileFeed
        from dmcnn_jax.data.tiles import Tiles
        from dmcnn_jax.training.trainer import Trainer

        config = training_config(settings, features, batch, dtype)
        config.init_from = weights
        trainer = Trainer(config, mesh or first_devices(math.gcd(batch, jax.device_count())))
        pictures = make_pictures(max(8, batch), config.data.tile)
        rows = np.arange(len(pictures))
        tiles = Tiles(pictures, rows, rows.astype(np.int32), tuple(map(str, rows)))
        feed = TileFeed(tiles, config, trainer.mesh)
        state, inputs = trainer.init_state(), feed.inputs(0, 0)
        rate = np.float32(1e-4)
        shapes = jax.eval_shape(lambda: state)
        self._trace = functools.partial(trainer.trace_step, shapes, inputs, rate, settings.patch)
        steps = iter(range(1, sys.maxsize))

        def step() -> Any:
            nonlocal state
            state, scalars = trainer.step(state, feed.inputs(0, next(steps)), rate, settings.patch)
            return scalars

        self.call: Call = (step, jax.block_until_ready)

    @property
    def jaxpr(self) -> Any:
        """Jaxpr of the step."""
        return self._trace().jaxpr.jaxpr

    def measure_cost(self, machine: Mapping[str, float]) -> dict[str, Any]:
        """Compiles the step twice and counts its arithmetic.

        Args:
            machine: the machine's rates, as in `Operation.bound`.

        Returns:
            {"compile_cold", "compile_cached": seconds, "flops", "flops_compiled", "memory": bytes,
            "bound": seconds}.
        """
        seconds = []
        for _ in range(2):
            jax.clear_caches()
            lowered = self._trace().lower()
            start = time.perf_counter()
            compiled = lowered.compile()
            seconds.append(time.perf_counter() - start)
        found = find_operations(self.jaxpr)
        return {
            "compile_cold": seconds[0],
            "compile_cached": seconds[1],
            "flops": sum(operation.flops for operation in found),
            "flops_compiled": compiled_flops(compiled),
            "memory": compiled_memory(compiled),
            "bound": sum(operation.bound(machine) for operation in found),
        }
