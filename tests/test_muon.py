"""Muon, whose work several devices share, is Optax's."""

import functools
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from runs import CHECKOUT, environment

from dmcnn_jax.config import default_config
from dmcnn_jax.system import devices
from dmcnn_jax.training import optimizers


def check(kernels):
    """Compares three steps of momentum, of kernels of one shape, of another one, and of a bias."""
    rng = np.random.default_rng(0)
    params = {f"kernel{i}": rng.normal(size=(3, 3, 4, 6)) for i in range(kernels)}
    params |= {"wide": rng.normal(size=(1, 1, 4, 9)), "bias": rng.normal(size=5)}
    params = jax.tree.map(lambda x: x.astype(np.float32), params)
    config = default_config()
    config.train.optimizer = "muon"
    ours = optimizers.make_optimizer(config.train, devices.make_mesh())
    theirs = optax.contrib.muon(
        -1.0,  # a descent direction, to be added; ours is subtracted
        consistent_rms=0.2,
        muon_weight_dimension_numbers=jax.tree.map(
            lambda p: optax.contrib.MuonDimensionNumbers((0, 1, 2), 3) if p.ndim == 4 else None,
            params,
        ),
        adam_weight_decay=0.0,
    )
    our_state, their_state = ours.init(params), theirs.init(params)
    for i in range(3):
        gradients = jax.tree.map(lambda x, i=i: x + i, params)
        found, our_state = jax.jit(ours.update)(gradients, our_state, params)
        expected, their_state = jax.jit(theirs.update)(gradients, their_state, params)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), found, expected)


def test_on_one_device():
    check(kernels=2)


@pytest.mark.parametrize("kernels", [1, 3])
def test_on_two_devices(tmp_path, kernels):
    """A lone kernel isn't split, and of three one device has two."""
    code = (
        "import jax; jax.config.update('jax_num_cpu_devices', 2); import sys; sys.path[:0] = "
        f"['tests']; import test_muon; assert jax.device_count() == 2; test_muon.check({kernels})"
    )
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=CHECKOUT, env=environment(tmp_path), check=True)
