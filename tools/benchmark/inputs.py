"""Synthetic pictures and random networks to measure with."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmark.settings import QUALITY, SEED, Settings
from benchmark.timing import Call
from dmcnn_jax import jpeg
from dmcnn_jax.inference import openvino_engine
from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.plane import restore_plane
from dmcnn_jax.inference.variables import variable_shapes
from dmcnn_jax.inference.weights import save_weights
from dmcnn_jax.models import create_model


def make_pictures(count: int, side: int) -> np.ndarray:
    """Makes pictures of waves with some noise: uint8 [count, side, side]."""
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    scales = rng.uniform(3, 30, (count, 2, 1, 1)).astype(np.float32)
    waves = 60 * np.sin(x / scales[:, 0]) * np.cos(y / scales[:, 1])
    noise = rng.normal(128, 4, (1, side, side)).astype(np.float32)
    return np.clip(waves + noise, 16, 235).astype(np.uint8)


def make_jpeg(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes a JPEG: integer coefficients [height/8, width/8, 64] and a table [8, 8]."""
    table = np.asarray(jpeg.quality_table(QUALITY))
    # A picture of 512 pixels is repeated to fill larger ones.
    side = min(512, max(height, width))
    once = np.asarray(jpeg.encode(make_pictures(1, side)[0], table))
    repeats = (-(-height // side), -(-width // side), 1)
    return np.tile(once, repeats)[: height // 8, : width // 8], table


def make_batch(batch: int, patch: int) -> dict[str, np.ndarray]:
    """Makes a training batch: "original", "coefficients" and "table" of `batch` patches."""
    original = make_pictures(batch, patch)
    table = np.asarray(jpeg.quality_table(QUALITY))
    return {
        "original": original,
        "coefficients": np.asarray(jpeg.encode(original, table)),
        "table": np.tile(table, (batch, 1, 1)),
    }


def random_model(features: int, dtype: str, precision: str = "") -> Model:
    """Makes a DMCNN with random weights.

    Args:
        features: F, its width.
        dtype: data type that it computes in.
        precision: OpenVINO's precision, if OpenVINO is to compute the layers.
    """
    module = create_model({"name": "dmcnn", "features": features, "dtype": dtype})
    variables = _random_variables(module)
    engine = openvino_engine.Engine(module, variables, precision) if precision else None
    return Model(module, variables, engine=engine)


def random_weights_file(folder: Path, features: int) -> Path:
    """Writes the weights of `random_model` to a file, and returns its path."""
    path = folder / "random.safetensors"
    fields = {"name": "dmcnn", "features": features}
    save_weights(path, _random_variables(create_model(fields)), {"model": fields})
    return path


def _random_variables(module: Any) -> dict[str, Any]:
    """Draws variables of about unit gain on the host, where nothing has to be compiled for it."""
    rng = np.random.default_rng(SEED)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if leaf.ndim < 2:  # biases, and slopes of PReLU
            return jnp.full(leaf.shape, 0.1, leaf.dtype)
        fan_in = math.prod(leaf.shape[:-1])
        return jnp.asarray(rng.normal(0, fan_in**-0.5, leaf.shape), leaf.dtype)

    return jax.tree.map(draw, variable_shapes(module))


def restore_call(model: Model, k: np.ndarray, q: np.ndarray) -> Call:
    """Returns a call that restores a plane; the result is on the host, so nothing to wait for."""
    return lambda: restore_plane(model, k, q), lambda plane: None


def training_config(settings: Settings, features: int, batch: int, dtype: str) -> Any:
    """Returns a training configuration of one stage at the given sizes."""
    from dmcnn_jax.config.defaults import default_config

    config = default_config()
    config.quality = QUALITY
    config.model.features, config.model.dtype = features, dtype
    config.data.tile = max(settings.patch, 64)
    config.train.patch_sizes, config.train.stage_steps = (settings.patch,), (1000,)
    config.train.batch_sizes = (batch,)
    return config


def first_devices(count: int) -> jax.sharding.Mesh:
    """Returns a mesh of the first `count` devices, along which batches are split."""
    auto = jax.sharding.AxisType.Auto
    return jax.sharding.Mesh(np.asarray(jax.devices()[:count]), ("batch",), axis_types=(auto,))
