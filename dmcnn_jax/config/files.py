"""Loads the Python files in `configs/`, and changes fields as a command line asks."""

import ast
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_collections

from dmcnn_jax.config.recipes import Phase, check_phases
from dmcnn_jax.config.validation import flatten


def load_config(name: str) -> ml_collections.ConfigDict:
    """Loads a configuration.

    Args:
        name: path of a file with a function `get_config`, and perhaps a colon and its argument:
            "configs/qf20.py", "configs/arcnn.py:cpu".

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it has no `get_config`, or none that takes the argument.
    """
    path, colon, argument = name, "", ""
    if not Path(name).is_file():
        path, colon, argument = name.rpartition(":")
    module = _load_module(path or name, "get_config")
    if not colon:
        return module.get_config()
    if not module.get_config.__code__.co_argcount:
        raise ValueError(f"{path!r} takes no argument, but {argument!r} follows; expected {path}")
    return module.get_config(argument)


def load_recipe(path: str) -> list[Phase]:
    """Loads a recipe of several phases.

    Args:
        path: a file with a function `get_phases`: "configs/shipped/dmcnn_qf20.py".

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it has no `get_phases`, or its phases don't fit together.
    """
    phases: list[Phase] = list(_load_module(path, "get_phases").get_phases())
    check_phases(phases)
    return phases


def _load_module(path: str, function: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if not Path(path).is_file() or spec is None or spec.loader is None:
        raise FileNotFoundError(
            f"there is no configuration {path!r}; expected a Python file such as those of configs/"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise ValueError(f"{path!r} has no {function}(); expected a file such as those of configs/")
    return module


def set_fields(config: ml_collections.ConfigDict, items: Sequence[str]) -> None:
    """Changes fields of a configuration.

    Args:
        config: changed in place.
        items: "FIELD=VALUE", with a Python literal or plain text as the value.

    Raises:
        ValueError: for an item of another form, an unknown field, or a value of another type.
    """
    for item in items:
        field, equals, text = item.partition("=")
        # Fields of networks differ; an unknown one is refused when the network is made.
        if not equals or not (field in flatten(config) or field.startswith("model.")):
            raise ValueError(
                f"{item!r}; expected FIELD=VALUE, with a field of dmcnn_jax/config/defaults.py"
            )
        value: Any
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        try:
            config.update_from_flattened_dict({field: value})
        except TypeError as error:
            raise ValueError(f"{item!r}: {error}") from error
