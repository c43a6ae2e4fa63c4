"""Measures weights on validation tiles."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax.data import feeds
from dmcnn_jax.data import tiles as tiles_module
from dmcnn_jax.images import metrics
from dmcnn_jax.inference.model import estimate
from dmcnn_jax.models import create_model, decode
from dmcnn_jax.system import devices
from dmcnn_jax.training.trainer import scale_pixels

# Tiles that a device validates on at a time, and those whose pictures TensorBoard shows.
_VALIDATION_BATCH, _PICTURES = 4, 4


class Validation:
    """Measures weights on whole validation tiles, split over all devices.

    Args:
        tiles: validation tiles.
        config: of the run; its `quality` is what they are compressed at.
        mesh: of the devices.

    Attributes:
        jpeg_psnr: of the JPEGs, dB, mean over tiles.
    """

    def __init__(
        self, tiles: tiles_module.Tiles, config: Mapping[str, Any], mesh: jax.sharding.Mesh
    ):
        self._count = len(tiles)
        module = create_model(config.model)
        self._size = _VALIDATION_BATCH * mesh.size
        self._batches, originals, decoded = [], [], []
        mine, batched = devices.local_rows(self._size), devices.batched(mesh)
        for start in range(0, self._count, self._size):
            # The last batch is filled up with tiles that don't count.
            rows = np.minimum(np.arange(start, start + self._size), self._count - 1)
            batch = feeds.validation_batch(tiles.take(rows), config)
            parts = batch["original"], batch["coefficients"], batch["table"]
            originals.append(parts[0])
            decoded.append(np.asarray(decode(module, *parts[1:])))
            self._batches.append(
                jax.tree.map(
                    lambda part: devices.to_devices(np.ascontiguousarray(part[mine]), batched),
                    parts,
                )
            )
        original, self._decoded = (
            np.concatenate(part)[: self._count] for part in (originals, decoded)
        )
        self._original = original[:_PICTURES]
        self.jpeg_psnr = float(
            np.mean([_psnr(*pair) for pair in zip(original, self._decoded, strict=True)])
        )
        self._decoded = self._decoded[:_PICTURES]
        self._measure = jax.jit(_measure, static_argnums=0, out_shardings=devices.replicated(mesh))

    def __call__(
        self, module: nn.Module, variables: Mapping[str, Any]
    ) -> tuple[dict[str, float], np.ndarray]:
        """Measures.

        Args:
            module: the network.
            variables: its variables, on every device.

        Returns:
            "loss", "psnr" and its "gain" over the JPEG's (dB, mean over tiles, of pixels rounded to
            8 bits), the same in all processes; and pictures, uint8 [some, side, 3 · side]:
            original, JPEG, restored.
        """
        measured = [
            jax.device_get(self._measure(module, variables, *batch)) for batch in self._batches
        ]
        losses, squares, outputs = (
            np.concatenate(part)[: self._count] for part in zip(*measured, strict=True)
        )
        pixels = math.prod(outputs.shape[1:])
        with np.errstate(divide="ignore"):
            psnrs = 10 * np.log10(255**2 * pixels / squares.sum(axis=1, dtype=np.int64))
        psnr = float(np.mean(psnrs))
        result = {
            "loss": math.fsum(losses.tolist()) / self._count,
            "psnr": psnr,
            "gain": psnr - self.jpeg_psnr,
        }
        pictures = (self._original, self._decoded, outputs[:_PICTURES])
        # Of chroma, Cb is shown.
        pictures = [p[..., 0] if p.ndim == 4 else p for p in pictures]
        return result, np.concatenate(pictures, axis=2)


def _psnr(original: np.ndarray, output: np.ndarray) -> float:
    """PSNR of uint8 [H, W] or [H, W, channels]: of all channels as one plane."""
    return metrics.psnr(original.reshape(len(original), -1), output.reshape(len(output), -1))


def _measure(
    module: nn.Module,
    variables: Mapping[str, Any],
    original: jax.Array,
    coefficients: jax.Array,
    table: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The loss of each tile, the squared errors of each of its rows, int32, and the output."""
    estimates = estimate(module, variables, coefficients, table)

    def loss_of_one(estimates, original):
        return module.loss(jax.tree.map(lambda x: x[None], estimates), original[None])

    losses = jax.vmap(loss_of_one)(estimates, scale_pixels(original))
    output = jnp.clip(jnp.round(estimates["image"] * 255), 0, 255).astype(jnp.uint8)
    output = output.reshape(original.shape)
    # A row at a time, integers suffice, and no device can see the sum otherwise than another.
    errors = jnp.square(output.astype(jnp.int32) - original.astype(jnp.int32))
    squares = jnp.sum(errors.reshape(*errors.shape[:2], -1), axis=2)
    return losses, squares, output
