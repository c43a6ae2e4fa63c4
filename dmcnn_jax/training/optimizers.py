"""The optimizers that `config.train.optimizer` may name."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from dmcnn_jax.config.types import TrainConfig


def make_optimizer(config: TrainConfig) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer that `config` names, with clipping and weight decay.

    Its updates are for a learning rate of 1; the training step multiplies them by the rate of the
    schedule, and subtracts them from the parameters.
    """
    steps = []
    if config.clip_norm:
        steps.append(optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay:
        steps.append(optax.add_decayed_weights(config.weight_decay))
    steps.append(OPTIMIZERS[config.optimizer](config))
    return optax.with_extra_args_support(optax.chain(*steps))


def _muon(config: TrainConfig) -> optax.GradientTransformation:
    """Returns Muon (Jordan et al., 2024) for convolution kernels, Nadam for everything else.

    Muon orthogonalises the momentum of a matrix: of a kernel [size, size, in, out] reshaped to
    [size · size · in, out]. Its updates are scaled to a root mean square of 0.2, about that of
    Adam's (Liu et al., 2025), so that one learning rate suits both.
    """
    del config

    def matrices(params: Any) -> Any:
        return jax.tree.map(
            lambda p: (
                optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
                if p.ndim == 4 and p.shape[-1] > 1
                else None
            ),
            params,
        )

    muon = optax.contrib.muon(
        1.0, consistent_rms=0.2, muon_weight_dimension_numbers=matrices, adam_weight_decay=0.0
    )
    # optax.contrib.muon returns descent directions; the training step subtracts updates.
    return optax.chain(muon, optax.scale(-1.0))


OPTIMIZERS: dict[str, Callable[[TrainConfig], optax.GradientTransformation]] = {
    "adam": lambda config: optax.scale_by_adam(),
    "sgd": lambda config: optax.trace(decay=config.momentum),
    "muon": _muon,
    "lbfgs": lambda config: optax.chain(optax.lbfgs(memory_size=10), optax.scale(-1.0)),
}
