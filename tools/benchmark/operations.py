"""Convolutions and matrix products of a program, measured one by one."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from benchmark.settings import SEED
from benchmark.timing import Call, device_call
from dmcnn_jax.evaluation.complexity import arithmetic


@dataclasses.dataclass(frozen=True)
class Operation:
    """A convolution or matrix product of a program.

    Attributes:
        name: of the layer, preceded by "backward" in a gradient.
        equation: of the jaxpr.
        flops: floating-point operations; a multiplication and an addition are two.
    """

    name: str
    equation: Any
    flops: float

    @property
    def shape(self) -> str:
        """Shapes of both inputs and of the output."""
        variables = (*self.equation.invars[:2], self.equation.outvars[0])
        shapes = ["×".join(map(str, variable.aval.shape)) or "1" for variable in variables]
        return f"{shapes[0]}, {shapes[1]} → {shapes[2]}"

    @property
    def bytes(self) -> int:
        """Least number of bytes to read and write."""
        variables = (*self.equation.invars[:2], *self.equation.outvars)
        return sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in variables)

    def bound(self, machine: Mapping[str, float]) -> float:
        """Returns the roofline: the least seconds for its arithmetic, or for its bytes.

        Args:
            machine: {"flops": a second, "bytes": a second}; empty if they are unknown, for 0.
        """
        if not machine:
            return 0.0
        return max(self.flops / machine["flops"], self.bytes / machine["bytes"])

    def call(self) -> Call:
        """Returns a call of this operation alone, on random numbers."""
        equation = self.equation
        keys = jax.random.split(jax.random.key(SEED), len(equation.invars))
        arrays = [
            jax.random.normal(key, v.aval.shape).astype(v.aval.dtype)
            for key, v in zip(keys, equation.invars, strict=True)
        ]
        program = jax.jit(lambda *xs: equation.primitive.bind(*xs, **equation.params))
        return device_call(program, *arrays)


def find_operations(jaxpr: Any) -> list[Operation]:
    """Returns the convolutions and matrix products of a program, in its order."""
    return [
        Operation(_layer_name(equation), equation, flops) for equation, flops in arithmetic(jaxpr)
    ]


def trace(function: Any, *arguments: Any) -> Any:
    """Returns the jaxpr of a jitted function, without equations that its results don't need."""
    return function.trace(*arguments).jaxpr.jaxpr


def compiled_flops(compiled: Any) -> float | None:
    """Returns the compiler's own count of FLOP, None without one; calls into libraries lack."""
    analysis = compiled.cost_analysis() or {}
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    return analysis.get("flops")


def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves [1, H, W, C] by [3, 3, C, N] to [1, H, W, N], summing in 32 bits."""
    total = jnp.int32 if jnp.issubdtype(x.dtype, jnp.integer) else jnp.float32
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=total,
    )


def convolution_by_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes the same convolution as three matrix products, one for each row of the kernel."""
    _, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    wide = jnp.concatenate([padded[:, :, j : j + width] for j in range(3)], axis=-1)
    first, second, third = (
        jnp.matmul(
            wide[:, i : i + height].reshape(-1, 3 * channels),
            kernel[i].reshape(3 * channels, -1),
            preferred_element_type=jnp.float32,
        )
        for i in range(3)
    )
    return (first + second + third).reshape(1, height, width, -1)


def _layer_name(equation: Any) -> str:
    stack = str(equation.source_info.name_stack)
    layers = [part for part in re.split(r"[/()]", stack) if re.match(r"(f|g)$|.*\d|head", part)]
    backward = "backward " if "transpose" in stack else ""
    return backward + ("/".join(layers[-2:]) or stack.split("/")[-1] or equation.primitive.name)
