"""Variables of a network: drawn at random, checked, extended and widened."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dmcnn_jax.models import init_variables
from dmcnn_jax.system.messages import shorten, shorten_name


def initialize(module: nn.Module, key: jax.Array) -> dict[str, Any]:
    """Draws a network's initial variables: `init_variables`, compiled.

    It must not be called inside `jax.jit`.

    Args:
        module: the network.
        key: a scalar key of `jax.random.key`.

    Returns:
        {"params": …} and, for some networks, {"batch_stats": …}; float32.
    """
    draw = jax.jit(partial(init_variables, module), compiler_options=fast_compile_options())
    return draw(key)


def variable_shapes(module: nn.Module) -> dict[str, Any]:
    """Returns the tree of a network's variables as `jax.ShapeDtypeStruct`s, computing none.

    Raises:
        ValueError: if no such network exists, since its fields are valid individually but not
            together.
    """
    try:
        shapes: dict[str, Any] = jax.eval_shape(partial(init_variables, module), jax.random.key(0))
    except Exception as error:  # any error of Flax or JAX
        raise ValueError(
            f"no {type(module).__name__} can be made of these fields: {shorten_name(str(error))}"
        ) from error
    return shapes


def fast_compile_options() -> dict[str, Any] | None:
    """Returns `compiler_options` of `jax.jit` for large programs that run once.

    On CPUs, compiling a network's random weights takes ten seconds, and three with these options;
    the weights are the same bits.

    Returns:
        The options; None for the default ones.
    """
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None


def extend_variables(
    module: nn.Module, variables: Mapping[str, Any], initial: Mapping[str, Any]
) -> dict[str, Any]:
    """Fills in missing identity-initialised layers, so that older weights load.

    Args:
        module: the network, whose `identity_init_prefixes` name such layers.
        variables: its variables, with or without these layers.
        initial: its initial variables.

    Returns:
        `variables`, completed by such layers of `initial`.
    """
    prefixes = _identity_init_prefixes(module)
    added = {
        path: value
        for path, value in flatten_dict(initial).items()
        if any(name.startswith(prefixes) for name in path)
    }
    return unflatten_dict(added | flatten_dict(variables))


def widen_variables(
    module: nn.Module, variables: Mapping[str, Any], initial: Mapping[str, Any]
) -> dict[str, Any]:
    """Embeds the weights of a narrower network in a wider one that computes the same.

    New channels read every input; their weights into old channels are zero, so the output is
    unchanged. After Net2WiderNet (Chen, Goodfellow, Shlens, "Net2Net: accelerating learning via
    knowledge transfer", ICLR 2016), which copies old channels instead; random ones differ from them
    from the first training step.

    Args:
        module: the wider network.
        variables: variables of a network that differs only in having fewer channels.
        initial: initial variables of the wider network.

    Returns:
        Variables of the wider network. Arrays that already fit, or can't be embedded, are returned
        unchanged; so are all arrays of a network without `supports_widening`.
    """
    if not getattr(module, "supports_widening", False):
        return dict(variables)
    wide, prefixes = flatten_dict(initial), _identity_init_prefixes(module)

    def widen(path: tuple[str, ...], narrow: Any) -> Any:
        start = wide.get(path)
        # Layers conditioned on the table hold a scale and a shift side by side, which embedding
        # would mix.
        if start is None or any(name.startswith(prefixes) for name in path):
            return narrow
        fits = len(start.shape) == len(narrow.shape) and all(
            few <= many for few, many in zip(narrow.shape, start.shape, strict=True)
        )
        if not fits or start.shape == narrow.shape:
            return narrow
        result = np.array(start)
        if result.ndim > 1:
            inputs, outputs = narrow.shape[-2:]
            result[..., inputs:, :outputs] = 0
        result[tuple(map(slice, narrow.shape))] = narrow
        return result

    return unflatten_dict({p: widen(p, value) for p, value in flatten_dict(variables).items()})


def make_tree(arrays: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns the tree of arrays that are given by their paths.

    Args:
        arrays: arrays by names such as "g/conv1/kernel".
        source: where they come from, for the message.

    Returns:
        The tree, float32.

    Raises:
        ValueError: if a name can't be a path, or an array is not of finite floating-point numbers.
    """
    paths = {name: tuple(name.split("/")) for name in arrays}
    taken = set(paths.values())
    for name, path in paths.items():
        if len(path) > _MAX_LEVELS or any(path[:level] in taken for level in range(1, len(path))):
            raise ValueError(
                f"{source!r} has an array named {shorten(name)}; expected paths in one tree, of at "
                f"most {_MAX_LEVELS} levels"
            )
    return unflatten_dict(
        {paths[name]: check_numbers(array, name, source) for name, array in arrays.items()}
    )


# Networks have four.
_MAX_LEVELS = 16


def check_numbers(array: Any, name: str, source: str) -> np.ndarray:
    """Returns an array in float32, if it is of finite floating-point numbers.

    Args:
        array: the array.
        name: of the array, for the message.
        source: where it comes from, for the message.

    Raises:
        ValueError: if it isn't.
    """
    array = np.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"the weights of {source!r} are damaged or not of a network: {shorten_name(name)} is "
            f"of the type {array.dtype}; expected floating-point numbers"
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise ValueError(
            f"the weights of {source!r} are damaged or of a training that diverged: "
            f"{shorten_name(name)} has values that are not finite"
        )
    return array


def check_variables(module: nn.Module, variables: Mapping[str, Any], source: str) -> None:
    """Checks that variables fit a network.

    Args:
        module: the network.
        variables: its variables, arrays of any kind.
        source: where they come from, for the message.

    Raises:
        ValueError: if arrays are missing, unknown or of another shape; the message names them. Also
            if there is no such network.
    """
    expected = _shapes(variable_shapes(module))
    found = _shapes(variables)
    wrong = [f"{key} missing" for key in sorted(expected.keys() - found.keys())]
    wrong += [f"{shorten_name(key)} unknown" for key in sorted(found.keys() - expected.keys())]
    wrong += [
        f"{key} is {found[key]}, not {expected[key]}"
        for key in sorted(expected.keys() & found.keys())
        if found[key] != expected[key]
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ValueError(
            f"the weights of {source!r} don't fit the model {type(module).__name__}: "
            f"{'; '.join(wrong[:4])}{more}"
        )


def _identity_init_prefixes(module: nn.Module) -> tuple[str, ...]:
    return getattr(module, "identity_init_prefixes", ())


def _shapes(variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(dict(variables))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves
    }
