"""What a network costs and sees: weights, arithmetic, speed, receptive field."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.inference.luma import restore_plane
from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.variables import initialize


def profile(model: Model) -> dict[str, Any]:
    """All of it.

    Returns:
        {"weights": count, "flops": a pixel, "speed": pixels a second on this machine, "field":
        pixels}.
    """
    return {
        "weights": count_weights(model.variables["params"]),
        "flops": flops_per_pixel(model.module, model.variables),
        "speed": measure_speed(model),
        "field": receptive_field(model.module, positive_variables(model.module)),
    }


def count_weights(params: Mapping[str, Any]) -> int:
    """Trained numbers: kernels, biases, slopes, whatever else. Not batch statistics."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def flops_per_pixel(module: nn.Module, variables: Mapping[str, Any], side: int = 512) -> float:
    """Multiplications and additions, in floating point, of convolutions and matrix products.

    Counted from the traced program, so that it does not depend on a compiler; the DCTs are in it.
    Taps that fall on padding count as all others do. What is done to each element alone is left
    out: little, but for TNRD's influence functions.

    Args:
        module: the network.
        variables: its variables, or their shapes.
        side: of the image that it is traced for, pixels; a multiple of 8.

    Returns:
        FLOP a pixel; an addition and a multiplication are two.
    """
    k = jax.ShapeDtypeStruct((1, side // 8, side // 8, 64), jnp.int32)
    q = jax.ShapeDtypeStruct((1, 8, 8), jnp.int32)
    traced = jax.make_jaxpr(lambda *args: module.apply(*args)["image"])(variables, k, q)
    # Side outputs that only a loss wants are no part of running it.
    jaxpr, _ = _dead_code_eliminated(traced.jaxpr)
    return sum(flops for _, flops in arithmetic(jaxpr)) / side**2


def _dead_code_eliminated(jaxpr):
    from jax.interpreters import partial_eval

    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))


def arithmetic(jaxpr: Any) -> Iterator[tuple[Any, float]]:
    """The convolutions and matrix products, in floating point, of a program and those nested in it.

    Of branches, one of which is taken, the one for this platform counts, or else the last. What a
    dilated input leaves out is no work.

    Args:
        jaxpr: of the program.

    Yields:
        Each equation, and its FLOP.
    """
    chosen = {}
    for equation in jaxpr.eqns:
        if equation.primitive.name == "platform_index":
            here = [
                platforms is None or jax.default_backend() in platforms
                for platforms in equation.params["platforms"]
            ]
            chosen[id(equation.outvars[0])] = here.index(True)
        for name, value in equation.params.items():
            values = value if isinstance(value, tuple | list) else (value,)
            if name == "branches":
                values = (values[chosen.get(id(equation.invars[0]), -1)],)
            for nested in values:
                nested = getattr(nested, "jaxpr", nested)
                if hasattr(nested, "eqns"):
                    yield from arithmetic(nested)
        output = equation.outvars[0].aval if equation.outvars else None
        if not jnp.issubdtype(getattr(output, "dtype", jnp.int32), jnp.floating):
            continue
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            out_channels = equation.params["dimension_numbers"].rhs_spec[0]
            zeros = np.prod(equation.params["lhs_dilation"])
            yield equation, float(2 * output.size * np.prod(kernel) / kernel[out_channels] / zeros)
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            yield equation, float(2 * output.size * np.prod([shape[axis] for axis in contracted]))


def measure_speed(model: Model, side: int = 512) -> float:
    """Pixels a second of `restore_plane` on an image of `side` × `side`: the better of two runs."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    table = np.asarray(jpeg.quality_table(10))
    coefficients = np.asarray(jpeg.encode(noise, table))
    restore_plane(model, coefficients, table)  # compiles
    times = []
    for _ in range(2):
        start = time.perf_counter()
        restore_plane(model, coefficients, table)
        times.append(time.perf_counter() - start)
    return side**2 / min(times)


def positive_variables(module: nn.Module) -> dict[str, Any]:
    """Variables of which nothing cancels and no unit is dead, as in trained ones it may be."""
    variables = initialize(module, jax.random.key(0))
    return variables | {"params": jax.tree.map(jnp.abs, variables["params"])}


def receptive_field(module: nn.Module, variables: Mapping[str, Any]) -> int:
    """The side of the square of pixels that decide one pixel of the output, by gradient.

    The gradient is that of `restore_pixels`, of output pixels at all eight positions along a
    block's diagonal, with respect to the image that it starts from, random. A DCT branch, which
    sees whole blocks, is not in it.

    Args:
        module: the network.
        variables: its variables. None of the weights that count may be zero.

    Returns:
        Pixels; 0 if the output depends on none.
    """
    halo = module.halo_blocks or 32
    blocks = 2 * (halo[1] if isinstance(halo, tuple) else halo) + 3
    key = jax.random.key(0)
    k = jnp.round(2 * jax.random.normal(key, (1, blocks, blocks, 64))).astype(jnp.int32)
    q = jnp.full((1, 8, 8), 8, jnp.int32)
    image = jax.random.uniform(key, (1, 8 * blocks, 8 * blocks, 1))

    @jax.jit
    def seen(variables, image, position):
        def pixel(image):
            estimates = module.apply(variables, k, q, image, method="restore_pixels")
            return estimates["image"][0, position, position, 0]

        return jax.grad(pixel)(image)[0, ..., 0] != 0

    widest = 0
    for position in range(8 * (blocks // 2), 8 * (blocks // 2) + 8):
        for axis in (0, 1):
            places = np.flatnonzero(np.asarray(seen(variables, image, position)).any(axis=axis))
            if len(places):  # a pixel that is clipped depends on none
                widest = max(widest, int(places[-1] - places[0]) + 1)
    return widest
