"""Variables of a network: drawn at random, checked, extended and widened."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dmcnn_jax.models import init_variables


def initialize(module: nn.Module, key: jax.Array) -> dict[str, Any]:
    """`init_variables`, compiled; not to be called within a jit.

    Args:
        module: the network.
        key: a scalar key of `jax.random.key`.

    Returns:
        {"params": …} and, of some networks, {"batch_stats": …}; float32.
    """
    draw = jax.jit(partial(init_variables, module), compiler_options=fast_compile_options())
    return draw(key)


def variable_shapes(module: nn.Module) -> dict[str, Any]:
    """Of a module's variables `jax.ShapeDtypeStruct`s; none is made."""
    return jax.eval_shape(partial(init_variables, module), jax.random.key(0))


def fast_compile_options() -> dict[str, Any] | None:
    """`compiler_options` of `jax.jit` for what runs once, and is large; None for those of always.

    On CPUs, to compile a network's random weights takes ten seconds, and three if that is not
    asked to be fast; the weights are the same bits.
    """
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None


def extend_variables(
    module: nn.Module, variables: Mapping[str, Any], first: Mapping[str, Any]
) -> dict[str, Any]:
    """Adds layers that weights lack, where they change nothing at first.

    Args:
        module: the network; `neutral`, if it has that, says what such layers' names begin with.
        variables: of the network with or without them.
        first: the variables that it starts with.

    Returns:
        `variables`, and of `first` what they lack of such layers.
    """
    neutral = getattr(module, "neutral", ())
    added = {
        path: value
        for path, value in flatten_dict(first).items()
        if any(name.startswith(neutral) for name in path)
    }
    return unflatten_dict(added | flatten_dict(variables))


def widen_variables(
    module: nn.Module, variables: Mapping[str, Any], first: Mapping[str, Any]
) -> dict[str, Any]:
    """The weights of a narrower network as a wider one's, which at first computes the same.

    New channels see all that there is, by random weights, and nothing of the old network sees them
    yet: weights from new channels to old ones are zero. After Net2WiderNet (Chen, Goodfellow,
    Shlens, "Net2Net: accelerating learning via knowledge transfer", ICLR 2016), which copies old
    channels instead; these learn something else from the first step on.

    Args:
        module: the wider network.
        variables: of one that differs by fewer channels alone.
        first: the variables that the wider one starts with otherwise.

    Returns:
        Variables of the wider one; arrays that fit as they are, or don't fit so, unchanged, and
        all of them for a network that doesn't say that it `supports_widening`.
    """
    if not getattr(module, "supports_widening", False):
        return dict(variables)
    wide, neutral = flatten_dict(first), getattr(module, "neutral", ())

    def widen(path: tuple[str, ...], narrow: Any) -> Any:
        start = wide.get(path)
        # Layers that are told Q hold a scale and a shift side by side.
        if start is None or any(name.startswith(neutral) for name in path if neutral):
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


def check_variables(module: nn.Module, variables: Mapping[str, Any], source: str) -> None:
    """Raises a ValueError that names what is missing, superfluous or of another shape."""
    expected = _shapes(variable_shapes(module))
    found = _shapes(variables)
    wrong = [f"{key} missing" for key in sorted(expected.keys() - found.keys())]
    wrong += [f"{key} unknown" for key in sorted(found.keys() - expected.keys())]
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


def _shapes(variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(dict(variables))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves
    }
