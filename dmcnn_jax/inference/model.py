"""A network with its weights, and how it is loaded."""

import dataclasses
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax.inference import openvino_engine
from dmcnn_jax.inference.variables import check_variables
from dmcnn_jax.inference.weights import BUNDLED, find_weights, load_weights
from dmcnn_jax.models import chroma, create_model


@dataclasses.dataclass(frozen=True)
class Model:
    """A network and its weights.

    Attributes:
        module: the Flax module.
        variables: {"params": …} and, of some models, {"batch_stats": …}.
        about: what its weights file says: "model", the configuration, and more.
        name: what it was loaded as.
        engine: what computes its layers over whole images; None for JAX.
    """

    module: nn.Module
    variables: Mapping[str, Any]
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    name: str = ""
    engine: openvino_engine.Engine | None = dataclasses.field(default=None, compare=False)

    def apply(
        self, variables: Mapping[str, Any], coefficients: jax.Array, table: jax.Array
    ) -> jax.Array:
        """Restores luma. Pure: jit, grad and vmap it (not jvp: on CPUs a gradient is our own).

        Args:
            variables: `self.variables`, or others of the same tree.
            coefficients: k, integers [..., H/8, W/8, 64], natural order.
            table: Q, integers [..., 8, 8], natural order.

        Returns:
            float32 [..., H, W], pixels scaled to [0, 1], not clipped.
        """
        check_restores_luma(self)
        leading = coefficients.shape[:-3]
        k = coefficients.reshape(-1, *coefficients.shape[-3:])
        q = jnp.broadcast_to(table, (*leading, 8, 8)).reshape(-1, 8, 8)
        image = self.module.apply(variables, k, q)["image"]
        return image.reshape(*leading, *image.shape[1:3])


ENGINES = ("auto", "jax", "openvino", "openvino-float32", "openvino-bfloat16")
"""What computes the layers of a model over whole images."""


def load(name: str | os.PathLike, engine: str = "jax") -> Model:
    """Loads a model.

    Args:
        name: a bundled name ("dmcnn-qf10"), a weights file, or the workdir of a run.
        engine: what computes its layers over whole images. "jax": JAX, in float32 if the network
            says nothing else. "openvino": OpenVINO, on a CPU, in bfloat16 where that has the
            instructions, and else in float32, or in the one that is named; of the networks that it
            knows (`openvino.supports`). "auto": OpenVINO where JAX runs on a CPU, if it is
            installed and knows the network.

    Returns:
        The model.

    Raises:
        FileNotFoundError: if there are no such weights.
        ImportError: if OpenVINO is asked for, and not installed.
        ValueError: if the file is none of ours, or its weights don't fit the network that it names;
            for an unknown engine, or one that doesn't know the network.
    """
    by_openvino = is_openvino(engine)
    path = find_weights(name)
    variables, about = load_weights(path)
    if not isinstance(about, dict) or not isinstance(about.get("model"), dict):
        raise ValueError(f"{str(path)!r} does not say which network its weights are of")
    module = create_model(about["model"])
    # Tests have seen to the bundled ones, and checking takes a tenth of a small picture's time.
    if path.parent != BUNDLED:
        check_variables(module, variables, str(path))
    model = Model(module, jax.tree.map(jnp.asarray, variables), about, str(name))
    if not by_openvino or (engine == "auto" and not openvino_engine.supports(module)):
        return model
    _, _, precision = engine.partition("-")
    return dataclasses.replace(model, engine=openvino_engine.Engine(module, variables, precision))


def is_openvino(engine: str) -> bool:
    """Whether an engine is OpenVINO here, for the networks that it knows; "auto" may be.

    Raises:
        ValueError: if it is none of `ENGINES`.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; expected one of: {', '.join(ENGINES)}")
    if engine == "auto":
        return jax.default_backend() == "cpu" and openvino_engine.is_installed()
    return engine != "jax"


@partial(jax.jit, static_argnums=0)
def estimate(
    module: nn.Module, variables: Mapping[str, Any], coefficients: jax.Array, table: jax.Array
) -> dict[str, jax.Array]:
    """All that a module estimates of a batch, jitted; arguments and results of its `__call__`."""
    return module.apply(variables, coefficients, table)


def check_restores_luma(model: Model) -> None:
    """Raises a ValueError for a model that restores chroma."""
    if isinstance(model.module, chroma.ChromaNet):
        raise ValueError(
            f"the weights {model.name!r} restore chroma, guided by restored luma; expected weights "
            "that restore luma (those of chroma: dmcnn-evaluate --color --chroma)"
        )
