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


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (24, 24)])
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
@pytest.mark.parametrize("spectrum", ["even", "steep", "one"])
def test_orthogonal_for_every_spectrum(shape, scale, spectrum):
    """Against the iteration on the matrix itself, in float64; ours runs on its Gram matrix."""
    rng = np.random.default_rng(0)
    count = min(shape)
    values = {
        "even": np.linspace(1, 0.5, count),
        "steep": np.logspace(0, -6, count),
        "one": np.eye(1, count)[0],
    }[spectrum]
    left, right = (np.linalg.qr(rng.normal(size=(side, count)))[0] for side in shape)
    matrix = scale * (left * values) @ right.T
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    kernel = matrix.astype(np.float32).reshape(1, 1, *shape)
    (found,) = optimizers.orthogonalize_kernels([kernel])
    expected = np.linalg.norm(matrix) * x
    error = np.linalg.norm(found.reshape(shape) - expected) / np.linalg.norm(expected)
    assert error < 1e-3, error


def test_kernels_that_are_zero_stay_zero():
    (found,) = optimizers.orthogonalize_kernels([np.zeros((3, 3, 4, 6), np.float32)])
    assert not np.any(found)


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
