"""A model over whole images: the one way to run one."""

import dataclasses
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.checkpoint import find_weights, load_weights
from dmcnn_jax.models import create_model


@dataclasses.dataclass(frozen=True)
class Model:
    """A network and its weights.

    Attributes:
        module: the Flax module.
        params: its variables, {"params": …} and, of some models, {"batch_stats": …}.
        about: what its weights file says: "model", the configuration, and more.
        name: what it was loaded as.
    """

    module: nn.Module
    params: Mapping[str, Any]
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    name: str = ""

    def apply(
        self, params: Mapping[str, Any], coefficients: jax.Array, table: jax.Array
    ) -> jax.Array:
        """Restores luma. Pure: jit, grad and vmap it.

        Args:
            params: `self.params`, or others of the same tree.
            coefficients: k, integers [..., H/8, W/8, 64], natural order.
            table: Q, integers [..., 8, 8], natural order.

        Returns:
            float32 [..., H, W], pixels scaled to [0, 1], not clipped.
        """
        leading = coefficients.shape[:-3]
        k = coefficients.reshape(-1, *coefficients.shape[-3:])
        q = jnp.broadcast_to(table, (*leading, 8, 8)).reshape(-1, 8, 8)
        image = self.module.apply(params, k, q)["image"]
        return image.reshape(*leading, *image.shape[1:3])


def load(name: str | os.PathLike) -> Model:
    """Loads a model.

    Args:
        name: a bundled name ("dmcnn-qf10"), a weights file, or the workdir of a run.

    Returns:
        The model.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if the file is none of ours, or its weights don't fit the network that it names.
    """
    path = find_weights(name)
    variables, about = load_weights(path)
    module = create_model(about["model"])
    check_variables(module, variables, str(path))
    return Model(module, jax.tree.map(jnp.asarray, variables), about, str(name))


def initialize(module: nn.Module, key: jax.Array) -> dict[str, Any]:
    """The variables that a module starts with, from a random key."""
    coefficients = jnp.zeros((1, 2, 2, 64), jnp.int32)
    return module.init(key, coefficients, jnp.ones((1, 8, 8), jnp.int32))


def check_variables(module: nn.Module, variables: Mapping[str, Any], source: str) -> None:
    """Raises a ValueError that names what is missing, superfluous or of another shape, and where
    it comes from."""
    expected = _shapes(jax.eval_shape(partial(initialize, module), jax.random.key(0)))
    found = _shapes(variables)
    wrong = [f"{key} missing" for key in sorted(expected.keys() - found.keys())]
    wrong += [f"{key} unknown" for key in sorted(found.keys() - expected.keys())]
    wrong += [
        f"{key} is {found[key]}, not {expected[key]}"
        for key in sorted(expected.keys() & found.keys())
        if found[key] != expected[key]
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ValueError(
            f"the weights of {source!r} don't fit the model {type(module).__name__}: {'; '.join(wrong[:4])}{more}"
        )


def _shapes(variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(dict(variables))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves
    }


@partial(jax.jit, static_argnums=0)
def estimate(
    module: nn.Module, variables: Mapping[str, Any], coefficients: jax.Array, table: jax.Array
) -> dict[str, jax.Array]:
    """All that a module estimates of a batch, jitted; arguments and results as of the module's
    `__call__`."""
    return module.apply(variables, coefficients, table)


def restore_plane(
    model: Model, coefficients: np.ndarray, table: np.ndarray, *, project: bool = False
) -> np.ndarray:
    """Restores one plane.

    Args:
        model: what to run.
        coefficients: k, integers [h, w, 64], natural order.
        table: Q, integers [8, 8], natural order.
        project: whether the result is moved, by as little as possible, to where quantising it
            gives `coefficients` back.

    Returns:
        float32 [8h, 8w], pixels scaled to [0, 1], not clipped.
    """
    k, q = jnp.asarray(coefficients, jnp.int32)[None], jnp.asarray(table, jnp.int32)[None]
    plane = estimate(model.module, model.params, k, q)["image"][0, ..., 0]
    if project:
        plane = project_plane(plane, k[0], q[0])
    return np.asarray(plane)


@jax.jit
def project_plane(plane: jax.Array, coefficients: jax.Array, table: jax.Array) -> jax.Array:
    """The nearest plane that quantises to given coefficients.

    The transform is orthonormal, so the nearest point is found by clipping each coefficient to its
    interval, k·Q ± Q/2. Its ends are left out, by a hundredth of a grey level: rounding there is a
    matter of the encoder's taste.

    Args:
        plane: float32 [H, W], pixels scaled to [0, 1].
        coefficients: k, integers [H/8, W/8, 64].
        table: Q, integers [8, 8].

    Returns:
        float32 [H, W], with round(D(255 · plane - 128) / Q) = k.
    """
    lower, upper = jpeg.interval(coefficients, table, margin=-0.01)
    x = jpeg.dct(plane * 255 - 128)
    # As a correction, what lies within keeps its bits.
    return plane + jpeg.idct(jnp.clip(x, lower, upper) - x) / 255


def to_uint8(plane: np.ndarray) -> np.ndarray:
    """Pixels scaled to [0, 1] → uint8, rounded and clipped: what is measured, and what is saved."""
    return np.clip(np.round(np.asarray(plane) * 255), 0, 255).astype(np.uint8)
