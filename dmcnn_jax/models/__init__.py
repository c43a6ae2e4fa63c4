"""The networks, by name.

A model turns what a JPEG file holds into estimates of the original, and says its loss:

    __call__(coefficients, table, *, mask=None, train=False) → dict of float32 [B, H, W, 1],
                                                                of which "image" is the answer
    loss(estimates, original) → scalar

Whatever does that is trained, evaluated and exported by the same commands: add it to `MODELS`.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from dmcnn_jax.models.arcnn import ARCNN
from dmcnn_jax.models.cas_cnn import CASCNN
from dmcnn_jax.models.ddcn import DDCN
from dmcnn_jax.models.dmcnn import DMCNN
from dmcnn_jax.models.dncnn import DnCNN
from dmcnn_jax.models.memnet import MemNet
from dmcnn_jax.models.tnrd import TNRD

MODELS: dict[str, type[nn.Module]] = {
    "arcnn": ARCNN,
    "cas_cnn": CASCNN,
    "ddcn": DDCN,
    "dmcnn": DMCNN,
    "dncnn": DnCNN,
    "memnet": MemNet,
    "tnrd": TNRD,
}


def create_model(config: Mapping[str, Any]) -> nn.Module:
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
    module = MODELS[name]
    known = set(module.__dataclass_fields__) - {"name", "parent"}
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
