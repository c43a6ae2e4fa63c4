"""Loads the Python files in `configs/`, and sets fields from a command line."""

import ast
import difflib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_collections

from dmcnn_jax.config.recipes import Phase, check_phases
from dmcnn_jax.config.validation import flatten
from dmcnn_jax.system.bundled import CONFIGS


def find_config(name: str) -> str:
    """Finds the file of a configuration, given by its path or by the name of a packaged one.

    Args:
        name: a path, or the name of a packaged configuration ("qf20", "ablations/full",
            "configs/qf20.py"), optionally with a colon and an argument.

    Returns:
        The path of the file, and the colon and the argument.

    Raises:
        FileNotFoundError: if there is no such file; the message names the nearest one.
    """
    if Path(name).is_file():
        return name
    path, colon, argument = name.partition(":")
    if Path(path).is_file():
        return name
    short = path.removeprefix("configs/").removesuffix(".py")
    packaged = {
        file.relative_to(CONFIGS).with_suffix("").as_posix(): file
        for file in sorted(CONFIGS.rglob("*.py"))
        if file.parent.name != "shipped"  # recipes of several phases
    }
    if short in packaged:
        return f"{packaged[short]}{colon}{argument}"
    near = [
        nearest
        for wanted in (short, Path(short).name)
        for nearest in difflib.get_close_matches(wanted, packaged, n=1)
    ]
    raise FileNotFoundError(
        f"there is no configuration {path!r}; "
        + (f"did you mean configs/{near[0]}.py?" if near else "expected one like configs/qf20.py")
    )


def load_config(name: str) -> ml_collections.ConfigDict:
    """Loads a configuration.

    Args:
        name: a file with a function `get_config`, as in `find_config`: "configs/qf20.py",
            "configs/arcnn.py:cpu".

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it has no `get_config`, or none that takes the argument.
    """
    name = find_config(name)
    path, colon, argument = name, "", ""
    if not Path(name).is_file():
        path, colon, argument = name.rpartition(":")
    module = _load_module(path, "get_config")
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
        ValueError: if an item has another form, a field is unknown, or a value has another type.
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
