"""Conditioning on the quantisation table: one network for every quality.

A small perceptron encodes the table and gives some layers a scale and a shift for each channel,
x → x · (1 + scale) + shift, as in FiLM (Perez et al., "FiLM: visual reasoning with a general
conditioning layer", AAAI 2018). Scales and shifts start at zero, so that a network starts as the
one without conditioning.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmcnn_jax.models.layers import PReLU, widen

PREFIX = "table_"
"""Prefix of the names of the perceptron's layers."""


def encode_table(table: Any, numpy: ModuleType = jnp) -> Any:
    """Encodes a quantisation table as normalised log₂ steps.

    Args:
        table: Q, integers [B, 8, 8].
        numpy: the module to compute with, `jax.numpy` or `numpy`.

    Returns:
        log₂(Q / 16) / 2, float32 [B, 64], an array of that module.
    """
    return _normalised_log(table.reshape(-1, 64), numpy)


def encode_tables(table: jax.Array, subsampling: tuple[int, int]) -> jax.Array:
    """Encodes the tables of several planes, and the subsampling of chroma.

    Args:
        table: Q of each plane, integers [B, planes, 8, 8].
        subsampling: rows and columns of the picture to a chroma sample.

    Returns:
        For each plane the normalised log₂ steps and log₂ of the subsampling: float32
        [B, planes, 66].
    """
    log_steps = _normalised_log(table.reshape(*table.shape[:2], 64), jnp)
    factors = jnp.log2(jnp.asarray(subsampling, jnp.float32))
    factors = jnp.broadcast_to(factors, (*log_steps.shape[:2], 2))
    return jnp.concatenate([log_steps, factors], axis=-1)


def _normalised_log(steps: Any, numpy: ModuleType) -> Any:
    # Steps run from 1 to 255; 16 is about their middle on a logarithmic scale.
    return numpy.log2(steps.astype(numpy.float32) / 16) / 2


def modulate_by_table(
    encoding: jax.Array, channels: Mapping[int, int]
) -> Callable[[int, jax.Array], jax.Array]:
    """Creates the perceptron, in the Flax module whose compact method calls this.

    Args:
        encoding: of the table, float32 [B, N]; or of several, [B, planes, N].
        channels: layer number → its channels, for the layers to modulate.

    Returns:
        A function that takes a layer's number and its output before the rectifier, [B, H, W, C],
        and returns x · (1 + scale) + shift; layers that aren't in `channels` are left unchanged.
    """
    hidden = nn.Dense(64, name="table_dense")(encoding)
    if hidden.ndim == 3:
        # Cb and Cr mostly have the same table; otherwise their encodings are averaged.
        hidden = hidden.mean(axis=1)
    code = PReLU(name="table_prelu")(hidden)
    zeros = nn.initializers.zeros_init()
    modulations = {
        layer: nn.Dense(2 * count, kernel_init=zeros, name=f"table_dense{layer}")(code)
        for layer, count in channels.items()
    }

    def modulate(layer: int, x: jax.Array) -> jax.Array:
        if layer not in modulations:
            return x
        scale, shift = jnp.split(modulations[layer][:, None, None], 2, axis=-1)
        return (widen(x) * (1 + scale) + shift).astype(x.dtype)

    return modulate


def modulated_layers(params: Mapping[str, Any]) -> list[int]:
    """Returns the numbers of the layers that are modulated, from the parameters of a module."""
    prefix = "table_dense"
    return sorted(int(name[len(prefix) :]) for name in params if name[len(prefix) :].isdigit())
