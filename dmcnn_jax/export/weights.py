"""Weights alone, under the names of the Flax tree: npz and safetensors."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from dmcnn_jax.export.formats import Format, choose_about, make_model, reading_runner
from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.variables import make_tree
from dmcnn_jax.inference.weights import load_weights, save_weights


def write_npz(model: Model, path: Path) -> None:
    """Writes arrays by names such as "params/g/conv1/kernel", and "about", JSON."""
    flat = flatten_dict(dict(model.variables))
    arrays: dict[str, Any] = {"/".join(names): np.asarray(value) for names, value in flat.items()}
    with path.open("wb") as file:
        np.savez(file, **{"about": json.dumps(dict(model.about))} | arrays)


def read_npz(path: Path, like: Mapping[str, Any] | None = None) -> Model:
    """Reads a file of `write_npz`; without "about", the network is that of `like`.

    Raises:
        ValueError: if the file is not an npz file of arrays, names no network, or doesn't fit it.
    """
    arrays = _load_npz(path)
    stored = arrays.pop("about", None)
    about = choose_about(path, None if stored is None else _parse(stored), like)
    return make_model(path, make_tree(arrays, str(path)), about)


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        _check_expansion(path)
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    # Damage can cause any error of the parsers of zip files and arrays.
    except Exception as error:
        if isinstance(error, PermissionError | FileNotFoundError):
            raise
        raise ValueError(f"{str(path)!r} is not an npz file of arrays ({error})") from error


def _parse(about: np.ndarray) -> object:
    """Returns a file's description of its weights; None if it is not JSON."""
    try:
        return json.loads(str(about))
    except (ValueError, RecursionError):
        return None


# Arrays in an npz file may be compressed, weights to half their size unless most are zero.
_MAX_EXPANSION, _ALLOWANCE = 20, 2**26


def _check_expansion(path: Path) -> None:
    """Checks that an npz file doesn't expand to more memory than weights need.

    Raises:
        ValueError: if it does, or isn't a zip file.
    """
    try:
        with zipfile.ZipFile(path) as file:
            size = sum(entry.file_size for entry in file.infolist())
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from None
    if size > _ALLOWANCE + _MAX_EXPANSION * path.stat().st_size:
        raise ValueError(
            f"its arrays would take {size / 2**20:.0f} MB, over {_MAX_EXPANSION} times its size;"
            " expected weights: save them without compression"
        )


def write_safetensors(model: Model, path: Path) -> None:
    """Writes a weights file, as training does."""
    save_weights(path, model.variables, model.about)


def read_safetensors(path: Path, like: Mapping[str, Any] | None = None) -> Model:
    """Reads a weights file, which always names its network; `like` is not used.

    Raises:
        ValueError: if it is not a weights file of this package.
    """
    del like
    variables, about = load_weights(path)
    return make_model(path, variables, about)


NPZ = Format(
    name="npz",
    suffixes=(".npz",),
    tolerance=0.0,
    write=write_npz,
    run=reading_runner(read_npz),
    read=read_npz,
)

SAFETENSORS = Format(
    name="safetensors",
    suffixes=(".safetensors",),
    tolerance=0.0,
    write=write_safetensors,
    run=reading_runner(read_safetensors),
    read=read_safetensors,
)
