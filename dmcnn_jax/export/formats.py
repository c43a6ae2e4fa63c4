"""The parts of an export format, and helpers that several formats share."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.inference.model import Model, estimate
from dmcnn_jax.inference.variables import check_numbers, check_variables
from dmcnn_jax.models import create_model
from dmcnn_jax.models.chroma import ChromaInput
from dmcnn_jax.models.photo_input import PhotoInput

Coefficients = np.ndarray | ChromaInput | PhotoInput
"""The first argument of a network."""

Runner = Callable[[Coefficients, np.ndarray], np.ndarray]
"""Restores a batch: coefficients and tables → float32 [B, H, W], or [B, H, W, planes] for
colour."""

Reader = Callable[[Path, Mapping[str, Any] | None], Model]
"""Reads a file as a model; the second argument describes weights that don't name their network."""


@dataclasses.dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        name: as in `--format`.
        suffixes: suffixes of paths that select this format if none is named; "" for no suffix.
        tolerance: maximum difference between the outputs of the model and of the export, in pixels
            scaled to [0, 1]. Other frameworks add numbers in another order.
        write: writes a model to a path.
        run: opens the export as a function to compare with the model.
        read: reads the export as a model; None for programs, which can't be read back.
        packages: modules that writing, reading and running import, checked beforehand.
        extra: extra of this package that installs them.
        float32: whether the written program computes in float32, whatever the model's dtype.
        details: text that a report adds to the name.
        subsamplings: subsamplings of the pictures that an exported network for photographs
            restores.
    """

    name: str
    suffixes: tuple[str, ...]
    tolerance: float
    write: Callable[[Model, Path], None]
    run: Callable[[Path], Runner]
    read: Reader | None = None
    packages: tuple[str, ...] = ()
    extra: str = "export"
    float32: bool = False
    details: str = ""
    subsamplings: tuple[str, ...] = tuple(jpeg.SUBSAMPLING_FACTORS)

    def check_installed(self) -> None:
        """Imports the packages that the format needs.

        Raises:
            ImportError: if one can't be imported; the message names it and the extra.
        """
        for package in self.packages:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise ImportError(
                    f"the format {self.name} needs {package}, which can't be imported ({error}); "
                    f'install it with: pip install "dmcnn-jax[{self.extra}]"'
                ) from error


def make_model(path: Path, variables: Mapping[str, Any], about: Mapping[str, Any]) -> Model:
    """Makes a model from variables read from a file.

    Args:
        path: of the file, for errors and as the model's name.
        variables: arrays as a Flax tree.
        about: description of the weights; "model" is the configuration of the network.

    Returns:
        The model.

    Raises:
        ValueError: if the variables don't fit the network, or are not finite.
    """
    module = create_model(about["model"])
    for keys, value in jax.tree_util.tree_leaves_with_path(dict(variables)):
        name = jax.tree_util.keystr(keys, simple=True, separator="/")
        check_numbers(value, name, str(path))
    check_variables(module, variables, str(path))
    return Model(module, jax.tree.map(jnp.asarray, dict(variables)), about, str(path))


def choose_about(path: Path, about: object, like: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns a file's description of its weights, or `like` if it names no network.

    Raises:
        ValueError: if neither does.
    """
    if isinstance(about, Mapping) and isinstance(about.get("model"), Mapping):
        return dict(about)
    if like is None:
        raise ValueError(
            f"{str(path)!r} does not say which network its weights are of; name a model of the "
            "same network: --like (`like` in Python)"
        )
    return dict(like)


def model_runner(model: Model) -> Runner:
    """Returns a function that restores a batch by a model."""

    def run(coefficients: Coefficients, table: np.ndarray) -> np.ndarray:
        image = np.asarray(estimate(model.module, model.variables, coefficients, table)["image"])
        return image[..., 0] if image.shape[-1] == 1 else image

    return run


def named_inputs(coefficients: Coefficients, table: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the inputs of an exported program by name, in the order of its arguments.

    Args:
        coefficients: of luma, or of all planes.
        table: the table, or those of all planes.

    Returns:
        int32 arrays: "coefficients" and "table"; for a network for photographs "luma", "chroma",
        "table" and "subsampling".
    """
    table = np.asarray(table, np.int32)
    if isinstance(coefficients, PhotoInput):
        return {
            "luma": np.array(coefficients.luma, np.int32),
            "chroma": np.array(coefficients.chroma, np.int32),
            "table": table,
            "subsampling": np.array(coefficients.subsampling, np.int32),
        }
    return {"coefficients": np.asarray(coefficients, np.int32), "table": table}


def reading_runner(read: Reader) -> Callable[[Path], Runner]:
    """Returns a `run` function of a format, which reads the file as a model and runs the model."""
    return lambda path: model_runner(read(path, None))
