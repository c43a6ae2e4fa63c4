"""Networks to test, without the seconds that it takes to compile a program for random weights."""

import jax
import numpy as np

from dmcnn_jax import models
from dmcnn_jax.inference.variables import variable_shapes


def start(module, seed=0):
    """What a module starts with, its kernels drawn by NumPy: NumPy arrays."""
    rng = np.random.default_rng(seed)
    prefixes = getattr(module, "identity_init_prefixes", ())

    def is_kernel(path):
        *layers, name = (key.key for key in path)
        return name == "kernel" and not any(layer.startswith(prefixes) for layer in layers)

    @jax.jit
    def all_but_kernels(key):
        variables = models.init_variables(module, key)
        leaves = jax.tree_util.tree_leaves_with_path(variables)
        return [leaf for path, leaf in leaves if not is_kernel(path)]

    rest = iter(jax.device_get(all_but_kernels(jax.random.key(seed))))

    def fill(path, leaf):
        if not is_kernel(path):
            return np.array(next(rest))
        deviation = np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return rng.normal(0, deviation, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, variable_shapes(module))
