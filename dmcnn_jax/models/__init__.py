"""The registry of networks: from the name in a configuration to a Flax module.

Every network is trained, evaluated and exported by the same commands. To add one, write a file
here, a line in `MODELS` and a file in `configs/` (docs/adding-a-model.md).
"""

import importlib
from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax import jpeg
from dmcnn_jax.models.base import Network
from dmcnn_jax.models.fields import check_fields
from dmcnn_jax.system.messages import shorten

MODELS: dict[str, str] = {
    "arcnn": "baselines.arcnn.ARCNN",
    "cas_cnn": "baselines.cas_cnn.CASCNN",
    "chroma": "chroma.ChromaNet",
    "ddcn": "baselines.ddcn.DDCN",
    "dmcnn": "dmcnn.DMCNN",
    "dncnn": "baselines.dncnn.DnCNN",
    "memnet": "baselines.memnet.MemNet",
    "photo": "photo.PhotoNet",
    "tnrd": "baselines.tnrd.TNRD",
}
"""Values of `config.model.name` → file and class in this package, imported on demand."""


def create_model(config: Mapping[str, Any]) -> Network:
    """Creates the network that a configuration describes.

    Args:
        config: `name`, a key of `MODELS`, and any fields of that module; `dtype` as a string.

    Returns:
        The Flax module; "chroma" gives a `ChromaNet`, every other name a `Network`.

    Raises:
        ValueError: if the model or a field is unknown, or a value of another type or out of bounds.
    """
    fields = dict(config)
    name = fields.pop("name", None)
    if not isinstance(name, str) or name not in MODELS:
        raise ValueError(
            f"model.name is {shorten(name)}; expected one of: {', '.join(sorted(MODELS))}"
        )
    file, class_name = MODELS[name].rsplit(".", 1)
    network = getattr(importlib.import_module(f"dmcnn_jax.models.{file}"), class_name)
    check_fields(network, fields)
    if "dtype" in fields:
        fields["dtype"] = jnp.dtype(fields["dtype"])
    # Lists come from JSON; Flax modules have to be hashable.
    return network(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def init_variables(module: nn.Module, key: jax.Array) -> dict[str, Any]:
    """Returns a network's initial variables.

    Args:
        module: the network.
        key: a scalar key of `jax.random.key`.

    Returns:
        {"params": …} and, for some networks, {"batch_stats": …}; float32.
    """
    return cast(dict[str, Any], module.init(key, *example_input(module)))


def example_input(module: nn.Module) -> tuple[Any, jax.Array]:
    """Returns the smallest coefficients and table that a network accepts, zeros and ones."""
    if hasattr(module, "example_input"):
        return module.example_input()
    return jnp.zeros((1, 2, 2, 64), jnp.int32), jnp.ones((1, 8, 8), jnp.int32)


def decode(module: nn.Module, coefficients: Any, table: jax.Array) -> jax.Array:
    """Decodes a network's input as libjpeg does.

    Args:
        module: the network.
        coefficients: its coefficients, as `__call__` takes them.
        table: its quantisation tables, as `__call__` takes them.

    Returns:
        uint8 [B, H, W], or [B, H, W, 2] for a `ChromaNet`.
    """
    return getattr(module, "decode", jpeg.decode)(coefficients, table)
