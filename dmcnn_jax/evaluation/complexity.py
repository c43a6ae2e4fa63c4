"""A network's complexity: weights, arithmetic, speed, receptive field."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn

from dmcnn_jax import jpeg
from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.plane import restore_plane
from dmcnn_jax.inference.variables import initialize
from dmcnn_jax.models.photo import PhotoNet
from dmcnn_jax.models.photo_input import PhotoInput


def measure_complexity(model: Model) -> dict[str, Any]:
    """Measures parameter count, FLOPs per pixel, throughput and receptive field.

    Returns:
        {"weights": parameter count, "flops": FLOP per pixel, "speed": pixels per second on this
        machine, "field": side of the receptive field in pixels, 0 if the output depends on none}.
    """
    return {
        "weights": count_weights(model.variables["params"]),
        "flops": flops_per_pixel(model.module, model.variables),
        "speed": measure_speed(model),
        "field": receptive_field(model.module, positive_variables(model.module)),
    }


def count_weights(params: Mapping[str, Any]) -> int:
    """Returns the number of trained parameters, such as kernels, biases and slopes.

    Args:
        params: the "params" collection of the variables, so without batch statistics.
    """
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def flops_per_pixel(module: nn.Module, variables: Mapping[str, Any], side: int = 512) -> float:
    """Counts the floating-point operations of convolutions and matrix products, DCTs included.

    The traced program is counted, so the result does not depend on a compiler. Kernel taps on
    padding count like all others. Element-wise operations are not counted; they are few, except for
    TNRD's influence functions.

    Args:
        module: the network, for luma or for photographs; of these, 4:2:0 is counted.
        variables: its variables, or their shapes.
        side: of the image that the network is traced for, pixels; a multiple of 16.

    Returns:
        FLOP per pixel; a multiplication and an addition are two.
    """

    def restore(*arguments: Any) -> jax.Array:
        estimates: Any = module.apply(*arguments)
        return estimates["image"]

    traced = jax.make_jaxpr(restore)(variables, *_input_shapes(module, side))
    # Side outputs that only the loss uses are not computed when a picture is restored.
    jaxpr = _eliminate_dead_code(traced.jaxpr)
    return sum(flops for _, flops in arithmetic(jaxpr)) / side**2


def _input_shapes(module: nn.Module, side: int) -> tuple[Any, Any]:
    """Returns the shapes of the coefficients and the table of a square image."""

    def integers(*shape: int) -> Any:
        return jax.ShapeDtypeStruct((1, *shape), jnp.int32)

    luma = integers(side // 8, side // 8, 64)
    if not isinstance(module, PhotoNet):
        return luma, integers(8, 8)
    chroma = integers(2, side // 16, side // 16, 64)
    return PhotoInput(luma, chroma), integers(3, 8, 8)


def _eliminate_dead_code(jaxpr: Jaxpr) -> Jaxpr:
    from jax.interpreters import partial_eval

    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def arithmetic(jaxpr: Jaxpr) -> Iterator[tuple[JaxprEqn, float]]:
    """Finds the floating-point convolutions and matrix products of a program, nested ones included.

    Only one branch of a conditional is counted: the one for this platform, or else the last. Zeros
    that a dilated input inserts cost nothing.

    Args:
        jaxpr: of the program.

    Yields:
        Each equation, and its FLOP.
    """
    platform_branches: dict[int, int] = {}
    for equation in jaxpr.eqns:
        if equation.primitive.name == "platform_index":
            platform_branches[id(equation.outvars[0])] = _branch_for_this_platform(equation)
        for nested in _nested_programs(equation, platform_branches):
            yield from arithmetic(nested)
        flops = _flops(equation)
        if flops is not None:
            yield equation, flops


def _branch_for_this_platform(equation: JaxprEqn) -> int:
    here = jax.default_backend()
    platforms = equation.params["platforms"]
    return [names is None or here in names for names in platforms].index(True)


def _nested_programs(equation: JaxprEqn, platform_branches: Mapping[int, int]) -> Iterator[Jaxpr]:
    for name, value in equation.params.items():
        values = value if isinstance(value, tuple | list) else (value,)
        if name == "branches":
            values = (values[platform_branches.get(id(equation.invars[0]), -1)],)
        for item in values:
            nested: Any = getattr(item, "jaxpr", item)  # of a closed jaxpr
            if hasattr(nested, "eqns"):
                yield nested


def _flops(equation: JaxprEqn) -> float | None:
    """Returns the FLOP of a floating-point convolution or matrix product; None for all else."""
    output = equation.outvars[0].aval if equation.outvars else None
    if not jnp.issubdtype(getattr(output, "dtype", jnp.int32), jnp.floating):
        return None
    shapes = [getattr(variable.aval, "shape", ()) for variable in equation.invars]
    size = np.prod(getattr(output, "shape", ()), dtype=int)
    if equation.primitive.name == "conv_general_dilated":
        kernel = shapes[1]
        out_channels = equation.params["dimension_numbers"].rhs_spec[0]
        zeros = np.prod(equation.params["lhs_dilation"])
        return float(2 * size * np.prod(kernel) / kernel[out_channels] / zeros)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return float(2 * size * np.prod([shapes[0][axis] for axis in contracted]))
    return None


def measure_speed(model: Model, side: int = 512) -> float:
    """Returns pixels per second of `restore_plane` on a square image: the better of two runs."""
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
    """Returns random variables with positive parameters: no gradient cancels or vanishes."""
    variables = initialize(module, jax.random.key(0))
    return variables | {"params": jax.tree.map(jnp.abs, variables["params"])}


def receptive_field(module: nn.Module, variables: Mapping[str, Any]) -> int:
    """Measures the receptive field of the pixel branch by gradient.

    The gradient of `restore_pixels` is taken at eight output pixels, along the diagonal of a block,
    with respect to a random input image. The DCT branch, which depends on whole blocks, is not
    included.

    Args:
        module: the network.
        variables: its variables, such as `positive_variables`; zero weights would hide pixels.

    Returns:
        Side of the square of input pixels that an output pixel depends on; 0 if on none.
    """
    halo = module.halo_blocks or 32
    blocks = 2 * (halo[1] if isinstance(halo, tuple) else halo) + 3
    key = jax.random.key(0)
    k = jnp.round(2 * jax.random.normal(key, (1, blocks, blocks, 64))).astype(jnp.int32)
    q = jnp.full((1, 8, 8), 8, jnp.int32)
    image = jax.random.uniform(key, (1, 8 * blocks, 8 * blocks, 1))

    @jax.jit
    def depends(variables: Mapping[str, Any], image: jax.Array, position: int) -> jax.Array:
        def pixel(image: jax.Array) -> jax.Array:
            estimates: Any = module.apply(variables, k, q, image, method="restore_pixels")
            return estimates["image"][0, position, position, 0]

        return jax.grad(pixel)(image)[0, ..., 0] != 0

    widest = 0
    for position in range(8 * (blocks // 2), 8 * (blocks // 2) + 8):
        for axis in (0, 1):
            places = np.flatnonzero(np.asarray(depends(variables, image, position)).any(axis=axis))
            if len(places):  # a clipped output pixel depends on no input
                widest = max(widest, int(places[-1] - places[0]) + 1)
    return widest
