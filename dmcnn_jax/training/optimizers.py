"""The optimizers that a configuration may name."""

from collections.abc import Mapping
from typing import Any

import jax
import optax


def make_optimizer(config: Mapping[str, Any]) -> optax.GradientTransformationExtraArgs:
    """The optimizer of `config.train`, without its learning rate, which the host sets."""
    steps = []
    if config.clip_norm:
        steps.append(optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay:
        steps.append(optax.add_decayed_weights(config.weight_decay))
    steps.append(_OPTIMIZERS[config.optimizer](config))
    return optax.with_extra_args_support(optax.chain(*steps))


def _muon(config: Mapping[str, Any]) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024) for the kernels of convolutions, Nadam for everything else.

    A kernel, [size, size, in, out], is a matrix of all that an output channel sees by output
    channels; its momentum is made orthogonal. Steps have a root mean square of 0.2, as Adam's do
    about (Liu et al., 2025), so that one learning rate does for both.
    """
    del config

    def matrices(params):
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
    # Like the others, a direction to go against.
    return optax.chain(muon, optax.scale(-1.0))


_OPTIMIZERS = {
    "adam": lambda config: optax.scale_by_adam(),
    "sgd": lambda config: optax.trace(decay=config.momentum),
    "muon": _muon,
    "lbfgs": lambda config: optax.chain(optax.lbfgs(memory_size=10), optax.scale(-1.0)),
}
