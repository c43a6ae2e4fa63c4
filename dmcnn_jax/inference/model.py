"""A network with its weights, and its loading."""

import dataclasses
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax.inference import openvino_engine
from dmcnn_jax.inference.variables import check_variables
from dmcnn_jax.inference.weights import find_weights, load_weights
from dmcnn_jax.models import chroma, create_model, photo
from dmcnn_jax.system.bundled import BUNDLED

ENGINES = ("auto", "jax", "openvino", "openvino-float32", "openvino-bfloat16")
"""Engines that can run the convolutions of a model over whole images."""


# Arrays have no equality that is true or false, so models are compared and hashed by identity.
@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network and its weights; equal only to itself.

    Attributes:
        module: the Flax module.
        variables: {"params": …} and, for some models, {"batch_stats": …}.
        about: description stored in the weights file: "model", the configuration, and more.
        name: the name or path that it was loaded from.
        engine: runs its convolutions over whole images; None for JAX.
    """

    module: nn.Module
    variables: Mapping[str, Any]
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    name: str = ""
    engine: openvino_engine.Engine | None = None

    def apply(
        self, variables: Mapping[str, Any], coefficients: jax.Array, table: jax.Array
    ) -> jax.Array:
        """Restores luma; a pure function that supports jit, grad and vmap.

        `jvp` is not supported, since convolutions have a custom gradient on CPUs.

        Args:
            variables: `self.variables`, or others of the same tree.
            coefficients: k, integers [..., H/8, W/8, 64], natural order.
            table: Q, integers [..., 8, 8], natural order.

        Returns:
            float32 [..., H, W], pixels scaled to [0, 1], not clipped.

        Raises:
            ValueError: if the model restores chroma.
        """
        check_restores_luma(self)
        leading = coefficients.shape[:-3]
        k = coefficients.reshape(-1, *coefficients.shape[-3:])
        q = jnp.broadcast_to(table, (*leading, 8, 8)).reshape(-1, 8, 8)
        image = apply_module(self.module, variables, k, q)["image"]
        return image.reshape(*leading, *image.shape[1:3])


def load(name: str | os.PathLike, engine: str = "jax") -> Model:
    """Loads a model.

    Args:
        name: a bundled name ("dmcnn-qf10"), a weights file, or the workdir of a run.
        engine: runs its convolutions over whole images. "jax": JAX, in the dtype of the network.
            "openvino": OpenVINO on a CPU, in bfloat16 if the CPU is faster with it, otherwise in
            float32; "openvino-float32" and "openvino-bfloat16" choose. OpenVINO runs only
            `DMCNN`, `ChromaNet` and `PhotoNet`. "auto": OpenVINO if JAX runs on a CPU and OpenVINO
            is installed and can run the network; otherwise JAX.

    Returns:
        The model.

    Raises:
        FileNotFoundError: if the weights don't exist.
        ImportError: if OpenVINO is requested, but not installed.
        ValueError: if the file isn't a weights file of this package, its weights don't fit the
            network that it names, or the engine is unknown or can't run the network.
    """
    by_openvino = is_openvino(engine)
    path = find_weights(name)
    variables, about = load_weights(path)
    module = create_model(about["model"])
    # Tests check the bundled weights; checking takes a tenth of the time of a small picture.
    if path.parent != BUNDLED:
        check_variables(module, variables, str(path))
    model = Model(module, jax.tree.map(jnp.asarray, variables), about, str(name))
    if not by_openvino or (engine == "auto" and not openvino_engine.supports(module)):
        return model
    _, _, precision = engine.partition("-")
    return dataclasses.replace(model, engine=openvino_engine.Engine(module, variables, precision))


def is_openvino(engine: str) -> bool:
    """Returns whether an engine selects OpenVINO on this machine, for networks that it can run.

    Args:
        engine: one of `ENGINES`.

    Raises:
        ValueError: if the engine is unknown.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; expected one of: {', '.join(ENGINES)}")
    if engine == "auto":
        return jax.default_backend() == "cpu" and openvino_engine.is_installed()
    return engine != "jax"


@partial(jax.jit, static_argnums=0)
def estimate(
    module: nn.Module, variables: Mapping[str, Any], coefficients: Any, table: jax.Array
) -> dict[str, jax.Array]:
    """Runs a compiled network; arguments and estimates as in its `__call__`."""
    return apply_module(module, variables, coefficients, table)


def apply_module(
    module: nn.Module, variables: Mapping[str, Any], *arguments: Any, **options: Any
) -> Any:
    """Runs a network without updating its variables: `module.apply` without its union type.

    Args:
        module: the network.
        variables: its variables.
        arguments: arguments of its `__call__`, or of another method.
        options: keyword arguments, "method" among them.

    Returns:
        The method's result.
    """
    return cast(Any, module.apply(variables, *arguments, **options))


def check_restores_luma(model: Model) -> None:
    """Checks that a model restores only luma.

    Raises:
        ValueError: if it restores chroma, or luma and chroma together.
    """
    if isinstance(model.module, photo.PhotoNet):
        raise ValueError(
            f"the weights {model.name!r} restore luma and chroma together; expected weights that "
            "restore luma (those of photographs: python tools/evaluate_photo.py)"
        )
    if isinstance(model.module, chroma.ChromaNet):
        raise ValueError(
            f"the weights {model.name!r} restore chroma, guided by restored luma; expected weights "
            "that restore luma (those of chroma: dmcnn-evaluate --color --chroma)"
        )
