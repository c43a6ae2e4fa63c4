"""Checks the fields of a network, which may come from an untrusted file.

Values must have the field's type, and numbers have bounds, so that no description of a network
takes endless time or all memory before the weights are compared with it.
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

import jax.numpy as jnp

from dmcnn_jax.system.messages import shorten

# Bounds of integers and of other numbers, inclusive.
_WHOLE, _REAL = (1, 1024), (0.0, 1000.0)

# Narrower bounds of fields for the number of layers or their reach.
_BOUNDS = {
    "blocks": (1, 16),
    "depth": (1, 128),
    "dct_dilations": (1, 32),
    "dilations": (1, 32),
    "recursions": (1, 16),
}

_MAX_ITEMS = 32
_DTYPES = ("float32", "bfloat16")


def check_fields(network: type, fields: Mapping[str, Any]) -> None:
    """Checks the fields with which a network will be created.

    Args:
        network: class of the network, a dataclass.
        fields: values by name; `dtype` as a string.

    Raises:
        ValueError: if a name is unknown, or a value of another type or out of bounds.
    """
    annotations = {
        field.name: field.type
        for field in dataclasses.fields(network)
        if field.name not in ("name", "parent")
    }
    if unknown := [name for name in fields if name not in annotations]:
        more = f" and {len(unknown) - 4} more" if len(unknown) > 4 else ""
        raise ValueError(
            f"model {network.__name__!r} has no field "
            f"{', '.join(map(shorten, unknown[:4]))}{more}; it has: "
            f"{', '.join(sorted(annotations))}"
        )
    for name, value in fields.items():
        if not _fits(name, annotations[name], value):
            raise ValueError(
                f"model.{name} is {shorten(value)}; expected {_describe(name, annotations[name])}"
            )


def _fits(name: str, annotation: Any, value: Any) -> bool:
    """Returns whether a value is of a field's type and within its bounds."""
    if isinstance(annotation, types.UnionType):
        return value is None or _fits(name, get_args(annotation)[0], value)
    if items := _items(annotation):
        kind, counts = items
        return (
            isinstance(value, list | tuple)
            and len(value) in counts
            and all(_fits(name, kind, item) for item in value)
        )
    if annotation is jnp.dtype:
        return isinstance(value, str) and value in _DTYPES
    if annotation in (int, float):
        kinds = int if annotation is int else int | float
        least, most = _bounds(name, annotation)
        return isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most
    return isinstance(value, annotation)


def _describe(name: str, annotation: Any) -> str:
    """Returns a description of a field's possible values."""
    if isinstance(annotation, types.UnionType):
        return f"{_describe(name, get_args(annotation)[0])}, or None"
    if items := _items(annotation):
        kind, counts = items
        count = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        return f"{count} {_describe(name, kind)}"
    if annotation is jnp.dtype:
        return " or ".join(map(repr, _DTYPES))
    if annotation in (int, float):
        least, most = _bounds(name, annotation)
        return f"{'whole numbers' if annotation is int else 'numbers'} from {least} to {most}"
    return {bool: "True or False", str: "a name"}[annotation]


def _items(annotation: Any) -> tuple[Any, range] | None:
    """Returns type and possible numbers of the items of a sequence; None for another type."""
    if get_origin(annotation) is Sequence:
        return get_args(annotation)[0], range(1, _MAX_ITEMS + 1)
    if get_origin(annotation) is tuple:
        count = len(get_args(annotation))
        return get_args(annotation)[0], range(count, count + 1)
    return None


def _bounds(name: str, annotation: Any) -> tuple[float, float]:
    return _BOUNDS.get(name, _WHOLE) if annotation is int else _REAL
