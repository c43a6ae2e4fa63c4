"""Weights files: a model's variables in safetensors, with the configuration that made it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dmcnn_jax.system.atomic_write import write_file

BUNDLED = Path(__file__).parents[1] / "weights"


def save_weights(
    path: str | os.PathLike,
    variables: Mapping[str, Any],
    about: Mapping[str, Any],
    dtype: str = "float32",
) -> None:
    """Writes a weights file, to a temporary name first.

    Args:
        path: of the file, .safetensors.
        variables: Flax variables: {"params": …} and, of some models, {"batch_stats": …}.
        about: JSON to keep with it: "model", the configuration that makes the network, and
            whatever else one should know.
        dtype: type to store weights of two and more dimensions in, "float32" or "float16"; the
            others stay as they are.
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
        Flax variables in float32, and what `save_weights` was told about them.

    Raises:
        ValueError: if it is none of ours.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            flat = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is no safetensors file ({error})") from error
    if "dmcnn_jax" not in metadata:
        raise ValueError(
            f"{str(path)!r} does not say which model its weights are of; expected a file "
            "that dmcnn_jax wrote"
        )
    tree = unflatten_dict(
        {
            tuple(k.split("/")): v.astype(np.float32) if v.dtype == np.float16 else v
            for k, v in flat.items()
        }
    )
    stats = tree.pop("batch_stats", None)
    variables = {"params": tree} | ({"batch_stats": stats} if stats else {})
    return variables, json.loads(metadata["dmcnn_jax"])


def find_weights(name: str | os.PathLike) -> Path:
    """The weights file that a name means.

    Args:
        name: a bundled name ("dmcnn-qf10"), a weights file, or a workdir, which stands for its
            "best.safetensors".

    Returns:
        Path of the file.

    Raises:
        FileNotFoundError: if there is none; the message lists the bundled names.
    """
    path = Path(name)
    if path.is_dir():
        if (path / "best.safetensors").exists():
            return path / "best.safetensors"
        raise FileNotFoundError(
            f"no best.safetensors in {str(name)!r}; expected a workdir whose run has "
            "validated at least once"
        )
    if path.is_file():
        return path
    bundled = BUNDLED / f"{name}.safetensors"
    if bundled.is_file():
        return bundled
    known = ", ".join(sorted(p.stem for p in BUNDLED.glob("*.safetensors"))) or "none"
    raise FileNotFoundError(
        f"no weights {str(name)!r}; expected a .safetensors file, a workdir, or a bundled "
        f"name ({known})"
    )


def _without_params(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters at the top, other collections beside them under their names."""
    variables = jax.tree.map(np.asarray, dict(variables))
    return dict(variables.pop("params")) | variables
