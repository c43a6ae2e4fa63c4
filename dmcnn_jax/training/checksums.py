"""Checksums of a checkpoint: SHA-256 of every array, of the host's values and of the list itself.

File systems and copies may change bits without an error, and Orbax doesn't verify arrays.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np


def make_checksums(arrays: Any, host: Mapping[str, Any], loss: float | None) -> dict[str, Any]:
    """Returns the checksums of a checkpoint, JSON.

    Args:
        arrays: a pytree of arrays, complete on every process.
        host: values of the host, JSON.
        loss: validation loss, or None.

    Returns:
        "arrays": for each name, dtype, shape and digest, in one string; "host": a digest; "loss";
        and "list", a digest of the other three.
    """
    names = _names(arrays)
    values = jax.device_get(jax.tree.leaves(arrays))
    checksums = {
        "arrays": {n: _describe_array(v) for n, v in zip(names, values, strict=True)},
        "host": _digest_json(host),
        "loss": loss,
    }
    return checksums | {"list": _digest_json(checksums)}


def check_list(checksums: Any) -> str:
    """Returns the fault of a list of checksums itself, or ""."""
    if not isinstance(checksums, dict):
        return "its list of checksums is not a list"
    rest = {key: value for key, value in checksums.items() if key != "list"}
    if checksums.get("list") != _digest_json(rest):
        return "its list of checksums differs from its own checksum"
    return ""


def check_host(checksums: Mapping[str, Any], host: Any, loss: float | None) -> str:
    """Returns the fault of the host's values and the loss, or ""."""
    if _digest_json(host) != checksums["host"]:
        return "the host's values differ from their checksum"
    if loss != checksums["loss"]:
        return f"its validation loss is {loss}, not {checksums['loss']}"
    return ""


def check_arrays(checksums: Mapping[str, Any], arrays: Any) -> str:
    """Returns the names of arrays that differ from their checksums; "" if none does."""
    found = make_checksums(arrays, {}, None)["arrays"]
    wrong = [name for name, text in checksums["arrays"].items() if found.get(name) != text]
    if not wrong:
        return ""
    more = f" and {len(wrong) - 1} more arrays differ" if len(wrong) > 1 else " differs"
    return f"{wrong[0]}{more} from the checksum{'s' * (len(wrong) > 1)}"


def different_arrays(checksums: Mapping[str, Any], abstract: Any) -> list[str]:
    """Returns names of arrays that only one side has, or whose dtype or shape differs.

    Args:
        checksums: of a checkpoint.
        abstract: a pytree of arrays, or of jax.ShapeDtypeStruct.
    """
    expected = {
        name: _describe_kind(leaf)
        for name, leaf in zip(_names(abstract), jax.tree.leaves(abstract), strict=True)
    }
    found = {name: text.rsplit(" ", 1)[0] for name, text in checksums["arrays"].items()}
    return sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )


def _names(tree: Any) -> Iterable[str]:
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(tree))
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]


def _describe_array(array: np.ndarray) -> str:
    array = np.asarray(array)
    return f"{_describe_kind(array)} {hashlib.sha256(array.tobytes()).hexdigest()}"


def _describe_kind(array: Any) -> str:
    return f"{np.dtype(array.dtype).name} {list(array.shape)}"


def _digest_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
