"""The optimizers that `config.train.optimizer` can name."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dmcnn_jax.config.types import TrainConfig
from dmcnn_jax.system import devices


def make_optimizer(
    config: TrainConfig, mesh: jax.sharding.Mesh | None = None
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer named by `config`, with clipping and weight decay.

    Its updates are for a learning rate of 1; the training step multiplies them by the rate of the
    schedule, and subtracts them from the parameters.

    Args:
        config: `config.train` of the run.
        mesh: devices that share the work of Muon; None: every device computes all of it.
    """
    steps = []
    if config.clip_norm:
        steps.append(optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay:
        steps.append(optax.add_decayed_weights(config.weight_decay))
    steps.append(OPTIMIZERS[config.optimizer](config, mesh))
    return optax.with_extra_args_support(optax.chain(*steps))


def _muon(config: TrainConfig, mesh: jax.sharding.Mesh | None) -> optax.GradientTransformation:
    """Returns Muon (Jordan et al., 2024) for convolution kernels, Nadam for everything else.

    Muon orthogonalises the momentum of a matrix: of a kernel [size, size, in, out] reshaped to
    [size · size · in, out]. Its updates are scaled to a root mean square of 0.2, about that of
    Adam's (Liu et al., 2025), so that one learning rate suits both.
    """
    del config

    def matrices(params: Any) -> Any:
        return jax.tree.map(
            lambda p: optax.contrib.MuonDimensionNumbers((0, 1, 2), 3) if _is_kernel(p) else None,
            params,
        )

    # Without Newton-Schulz steps, optax's Muon normalises and scales momentum. The steps are done
    # here, since optax computes them for one matrix at a time, redundantly on all devices, which
    # takes a third of a training step.
    scaled = optax.contrib.muon(
        1.0,
        ns_steps=0,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=matrices,
        adam_weight_decay=0.0,
    )

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        directions, state = scaled.update(gradients, state, params)
        return orthogonalize_kernels(directions, mesh), state

    # optax.contrib.muon returns descent directions; the training step subtracts updates.
    return optax.chain(optax.GradientTransformation(scaled.init, update), optax.scale(-1.0))


def orthogonalize_kernels(updates: Any, mesh: jax.sharding.Mesh | None = None) -> Any:
    """Replaces kernels by nearly orthogonal matrices of the same norms, as Muon does.

    Args:
        updates: a tree of arrays. Arrays that aren't kernels are unchanged.
        mesh: devices that share the work; matrices of one shape are split over them.

    Returns:
        The tree. The singular values of a kernel, reshaped to [size · size · in, out], are equal up
        to a third; its Frobenius norm is multiplied by about the root of their number.
    """
    leaves, structure = jax.tree.flatten(updates)
    groups: dict[tuple[int, int], list[int]] = {}
    for i, leaf in enumerate(leaves):
        if _is_kernel(leaf):
            groups.setdefault((leaf.size // leaf.shape[-1], leaf.shape[-1]), []).append(i)
    for shape, members in groups.items():
        stack = jnp.stack([leaves[i].reshape(shape) for i in members])
        for i, matrix in zip(members, _newton_schulz(stack, mesh), strict=True):
            leaves[i] = matrix.reshape(leaves[i].shape)
    return jax.tree.unflatten(structure, leaves)


# Coefficients of Jordan et al.; five steps bring singular values from 0.01 to 1 to within a third
# of 1.
_STEPS, _COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)


def _newton_schulz(stack: jax.Array, mesh: jax.sharding.Mesh | None) -> jax.Array:
    """Orthogonalises matrices [n, rows, columns] by Newton-Schulz iterations.

    An iteration multiplies X by a polynomial of its Gram matrix XᵀX. All these polynomials commute,
    so the iterations run on the Gram matrix, which is smaller, and their product is multiplied by X
    in the end. That takes two fifths of the time.
    """
    count, rows, columns = stack.shape
    x = stack
    shared = mesh is not None and 1 < mesh.size <= count
    if mesh is not None and shared:
        x = jnp.pad(x, ((0, -count % mesh.size), (0, 0), (0, 0)))
        x = jax.lax.with_sharding_constraint(x, devices.batched(mesh))
    # In less than float32, rounding errors of small eigenvalues would grow from step to step.
    matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    wide, transposed = rows < columns, x.swapaxes(1, 2)
    gram = matmul(x, transposed) if wide else matmul(transposed, x)
    # Singular values of X divided by its norm are at most 1. X itself keeps its norm.
    gram = gram / (jnp.trace(gram, axis1=1, axis2=2)[:, None, None] + 1e-16)
    identity = jnp.eye(gram.shape[-1], dtype=gram.dtype)
    linear, cubic, quintic = _COEFFICIENTS
    factors = []
    for _ in range(_STEPS):
        factor = linear * identity + cubic * gram + quintic * matmul(gram, gram)
        factors.append(factor)
        gram = reduce(matmul, [factor, gram, factor])
    product = reduce(matmul, factors)
    x = matmul(product, x) if wide else matmul(x, product)
    if mesh is not None and shared:
        x = jax.lax.with_sharding_constraint(x, devices.replicated(mesh))[:count]
    return x


def _is_kernel(array: jax.Array) -> bool:
    return array.ndim == 4 and array.shape[-1] > 1


OPTIMIZERS: dict[
    str, Callable[[TrainConfig, jax.sharding.Mesh | None], optax.GradientTransformation]
] = {
    "adam": lambda config, mesh: optax.scale_by_adam(),
    "sgd": lambda config, mesh: optax.trace(decay=config.momentum),
    "muon": _muon,
    "lbfgs": lambda config, mesh: optax.chain(optax.lbfgs(memory_size=10), optax.scale(-1.0)),
}
