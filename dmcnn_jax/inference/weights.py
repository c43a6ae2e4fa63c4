"""Weights files: a model's variables in safetensors, with the configuration that made it."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from dmcnn_jax.inference.variables import make_tree
from dmcnn_jax.system.atomic_write import write_file
from dmcnn_jax.system.bundled import BUNDLED
from dmcnn_jax.system.printable import printable


def save_weights(
    path: str | os.PathLike,
    variables: Mapping[str, Any],
    about: Mapping[str, Any],
    dtype: str = "float32",
) -> None:
    """Writes a weights file, under a temporary name first.

    Args:
        path: of the file, .safetensors.
        variables: Flax variables: {"params": …} and, for some models, {"batch_stats": …}.
        about: JSON to store with them: "model", the configuration of the network, and any further
            description.
        dtype: type to store arrays of two and more dimensions in, "float32" or "float16"; others
            keep theirs.
    """
    from safetensors.numpy import save

    flat = {"/".join(k): np.asarray(v) for k, v in flatten_dict(_without_params(variables)).items()}
    # np.ascontiguousarray would make scalars arrays of one element.
    flat = {k: np.asarray(v.astype(dtype) if v.ndim > 1 else v, order="C") for k, v in flat.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, save(flat, metadata={"dmcnn_jax": json.dumps(about)}))


def load_weights(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a weights file.

    Args:
        path: of the file.

    Returns:
        Flax variables in float32, and the description that was stored with them.

    Raises:
        ValueError: if `save_weights` didn't write the file, or a weight is not finite.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            flat = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    # TypeError, AttributeError: types that NumPy doesn't have.
    except (SafetensorError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is not a safetensors file ({error})") from error
    about = parse_about(metadata.get("dmcnn_jax", ""), str(path))
    tree = make_tree(flat, str(path))
    others = {name: tree.pop(name) for name in _COLLECTIONS if name in tree}
    return {"params": tree} | others, about


# Collections of variables besides parameters.
_COLLECTIONS = ("batch_stats", "frozen")


def parse_about(text: str, source: str) -> dict[str, Any]:
    """Returns a file's description of its weights.

    Args:
        text: JSON.
        source: the file, for the message.

    Raises:
        ValueError: if it doesn't name their network.
    """
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict) or not isinstance(about.get("model"), dict):
        raise ValueError(
            f"{source!r} does not say which model its weights are of; expected a file that "
            "dmcnn_jax wrote"
        )
    return about


def find_weights(name: str | os.PathLike) -> Path:
    """Finds the weights file for a name or a path.

    A bundled name always means the bundled weights, whatever the working directory contains; write
    "./NAME" for a file or a workdir of such a name.

    Args:
        name: a bundled name ("dmcnn-qf10"), a weights file, or a workdir, which stands for its
            "best.safetensors" or, if its run was stopped before the first validation, for its
            "last.safetensors"; a line on standard error then says so.

    Returns:
        Path of the file.

    Raises:
        FileNotFoundError: if the file doesn't exist; the message lists the bundled names.
    """
    bundled = {path.stem: path for path in sorted(BUNDLED.glob("*.safetensors"))}
    if os.fspath(name) in bundled:
        return bundled[os.fspath(name)]
    path = Path(name)
    if path.is_dir():
        best, last = path / "best.safetensors", path / "last.safetensors"
        if best.exists():
            return best
        if last.exists():
            print(
                printable(
                    f"the weights are {str(last)!r}, which were not validated: there is no "
                    "best.safetensors yet"
                ),
                file=sys.stderr,
            )
            return last
        raise FileNotFoundError(
            f"no best.safetensors or last.safetensors in {str(name)!r}; expected a workdir whose "
            "run has validated or was stopped"
        )
    if path.is_file():
        return path
    known = ", ".join(bundled) or "none"
    raise FileNotFoundError(
        f"no weights {str(name)!r}; expected a .safetensors file, a workdir, or a bundled "
        f"name ({known})"
    )


def _without_params(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns parameters at the top level, beside other collections under their names."""
    collections = jax.tree.map(np.asarray, dict(variables))
    return dict(collections.pop("params")) | collections
