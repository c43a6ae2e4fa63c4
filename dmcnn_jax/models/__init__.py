"""The networks, by name.

Each is a `base.Network`, and is trained, evaluated and exported by the same commands: a new one is
a file here, a line in `MODELS`, and a file in `configs/` (docs/adding-a-model.md).
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax import jpeg
from dmcnn_jax.models.base import Network

# What `config.model.name` may be → file and class, which are imported when they are asked for.
MODELS: dict[str, str] = {
    "arcnn": "baselines.arcnn.ARCNN",
    "cas_cnn": "baselines.cas_cnn.CASCNN",
    "chroma": "chroma.ChromaNet",
    "ddcn": "baselines.ddcn.DDCN",
    "dmcnn": "dmcnn.DMCNN",
    "dncnn": "baselines.dncnn.DnCNN",
    "memnet": "baselines.memnet.MemNet",
    "tnrd": "baselines.tnrd.TNRD",
}


def create_model(config: Mapping[str, Any]) -> Network:
    """Makes the network that a configuration describes.

    Args:
        config: `name`, a key of `MODELS`, and any of that module's attributes; `dtype` as a string.

    Returns:
        The Flax module.

    Raises:
        ValueError: for an unknown model or attribute.
    """
    fields = dict(config)
    name = fields.pop("name", None)
    if name not in MODELS:
        raise ValueError(f"model.name is {name!r}; expected one of: {', '.join(sorted(MODELS))}")
    file, network = MODELS[name].rsplit(".", 1)
    module = getattr(importlib.import_module(f"dmcnn_jax.models.{file}"), network)
    known = {field.name for field in dataclasses.fields(module)} - {"name", "parent"}
    if unknown := sorted(set(fields) - known):
        raise ValueError(
            f"model {name!r} has no field {', '.join(map(repr, unknown))}; "
            f"it has: {', '.join(sorted(known))}"
        )
    if "dtype" in fields:
        if fields["dtype"] not in ("float32", "bfloat16"):
            raise ValueError(
                f"model.dtype is {fields['dtype']!r}; expected 'float32' or 'bfloat16'"
            )
        fields["dtype"] = jnp.dtype(fields["dtype"])
    return module(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def example(module: nn.Module) -> tuple[Any, jax.Array]:
    """The smallest coefficients and table that a network takes."""
    if hasattr(module, "example"):
        return module.example()
    return jnp.zeros((1, 2, 2, 64), jnp.int32), jnp.ones((1, 8, 8), jnp.int32)


def init_variables(module: nn.Module, key: jax.Array) -> dict[str, Any]:
    """The variables that a network starts with, from a scalar random key."""
    return module.init(key, *example(module))


def decode(module: nn.Module, coefficients: Any, table: jax.Array) -> jax.Array:
    """What libjpeg makes of a network's input: uint8 [B, H, W], or [B, H, W, channels]."""
    return getattr(module, "decode", jpeg.decode)(coefficients, table)
