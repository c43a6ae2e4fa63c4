"""Measures weights on validation tiles."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax.config.types import Config
from dmcnn_jax.data import feeds
from dmcnn_jax.data import tiles as tiles_module
from dmcnn_jax.images import color
from dmcnn_jax.inference.model import estimate
from dmcnn_jax.models import create_model, decode
from dmcnn_jax.models.base import Network
from dmcnn_jax.system import devices
from dmcnn_jax.training.trainer import scale_pixels

# Number of tiles that each device validates at a time.
_TILES_PER_DEVICE = 4
# Number of photographs of which TensorBoard shows a tile.
_PICTURES = 4


class Validation:
    """A measurement of weights on whole validation tiles, split over all devices.

    Args:
        tiles: validation tiles.
        config: configuration of the run; tiles are compressed at its `quality`.
        mesh: the devices.

    Attributes:
        jpeg_psnr: PSNR of the JPEGs, dB, mean over tiles, finite (see `tile_psnrs`); of RGB, if
            tiles are in colour.
    """

    def __init__(self, tiles: tiles_module.Tiles, config: Config, mesh: jax.sharding.Mesh):
        self._count = len(tiles)
        # The first tile of each photograph.
        self._shown = np.sort(np.unique(tiles.images, return_index=True)[1])[:_PICTURES]
        module = create_model(config.model.to_dict())
        size = _TILES_PER_DEVICE * mesh.size
        self._batches = []
        mine, batched = devices.local_rows(size), devices.batched(mesh)
        originals, jpegs = [], []
        squares: dict[str, list[np.ndarray]] = {}
        for start in range(0, self._count, size):
            # The last batch is padded with copies of the last tile, which are not counted.
            rows = np.minimum(np.arange(start, start + size), self._count - 1)
            batch = feeds.validation_batch(tiles, rows, config)
            parts = batch["original"], batch["coefficients"], batch["table"]
            decoded = np.asarray(decode(module, *parts[1:]))
            shown = self._shown[(self._shown >= start) & (self._shown < start + size)] - start
            originals.append(parts[0][shown])
            jpegs.append(decoded[shown])
            for measure, errors in _row_squares(parts[0], decoded).items():
                squares.setdefault(measure, []).append(np.asarray(errors))
            self._batches.append(
                jax.tree.map(
                    lambda part: devices.to_devices(np.ascontiguousarray(part[mine]), batched),
                    parts,
                )
            )
        self._shape = originals[0].shape[1:]
        self._original = np.concatenate(originals)
        self._jpeg = np.concatenate(jpegs)
        self._jpeg_psnrs = {
            measure: self._mean_psnr(np.concatenate(parts), measure)
            for measure, parts in squares.items()
        }
        self.jpeg_psnr = self._jpeg_psnrs[""]
        self._measure = jax.jit(_measure, static_argnums=0, out_shardings=devices.replicated(mesh))
        self._compiled: jax.stages.Compiled | None = None

    def __call__(
        self, module: Network, variables: Mapping[str, Any]
    ) -> tuple[dict[str, float], np.ndarray]:
        """Measures loss and PSNR of weights.

        Args:
            module: the network.
            variables: its variables, on every device.

        Returns:
            Means over tiles, equal in all processes: "loss"; "psnr", dB, of pixels rounded to 8
            bits, finite (see `tile_psnrs`), of RGB if tiles are in colour; "gain", "psnr" minus
            `jpeg_psnr`; and in colour "gain_luma" and "gain_chroma", of Cb and Cr together. Then
            pictures, uint8 [N, side, 3 · side], of tiles of N photographs: original, JPEG and
            restored side by side.
        """
        measure = self._compiled or partial(self._measure, module)
        measured = [jax.device_get(measure(variables, *batch)) for batch in self._batches]
        losses, squares, outputs = jax.tree.map(
            lambda *parts: np.concatenate(parts)[: self._count], *measured
        )
        psnrs = {measure: self._mean_psnr(rows, measure) for measure, rows in squares.items()}
        result = {"loss": math.fsum(losses.tolist()) / self._count}
        result["psnr"] = psnrs[""]
        for measure, psnr in psnrs.items():
            result[f"gain_{measure}".rstrip("_")] = psnr - self._jpeg_psnrs[measure]
        # For chroma, Cb is shown; for a colour picture, luma.
        pictures = [
            picture[..., 0] if picture.ndim == 4 else picture
            for picture in (self._original, self._jpeg, outputs[self._shown])
        ]
        return result, np.concatenate(pictures, axis=2)

    @property
    def is_compiled(self) -> bool:
        """Whether `compile` has been called."""
        return self._compiled is not None

    def compile(self, module: Network, variables: Mapping[str, Any]) -> None:
        """Compiles the measurement, for calls with the same network; any thread may call this.

        Args:
            module: the network.
            variables: its variables, or the shapes and shardings of their arrays.
        """
        self._compiled = self._measure.lower(module, variables, *self._batches[0]).compile()

    def _mean_psnr(self, squares: np.ndarray, measure: str) -> float:
        """Returns the mean PSNR of the tiles, from the squared errors of rows, [N, rows]."""
        rows, columns, *channels = self._shape
        planes = {"luma": 1, "chroma": 2}.get(measure, math.prod(channels))
        sums = squares[: self._count].sum(axis=1, dtype=np.int64)
        return float(np.mean(tile_psnrs(sums, rows * columns * planes)))


def tile_psnrs(squares: np.ndarray, pixels: int) -> np.ndarray:
    """Returns the PSNR of each tile, kept finite by counting a squared error of 0 as 1.

    Args:
        squares: sum of squared errors of each tile, in grey levels, int64 [N].
        pixels: number of pixels of a tile, times channels.

    Returns:
        float64 [N], dB, at most 10·log₁₀(255² · pixels).
    """
    return 10 * np.log10(255**2 * pixels / np.maximum(squares, 1))


def _measure(
    module: Network,
    variables: Mapping[str, Any],
    original: jax.Array,
    coefficients: jax.Array,
    table: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
    """Returns each tile's loss, `_row_squares` of the output, and the output."""
    estimates = estimate(module, variables, coefficients, table)

    def loss_of_tile(estimates: dict[str, jax.Array], original: jax.Array) -> jax.Array:
        return module.loss(jax.tree.map(lambda x: x[None], estimates), original[None])

    losses = jax.vmap(loss_of_tile)(estimates, scale_pixels(original))
    output = jnp.clip(jnp.round(estimates["image"] * 255), 0, 255).astype(jnp.uint8)
    output = output.reshape(original.shape)
    return losses, _row_squares(original, output), output


def _row_squares(
    original: jax.Array | np.ndarray, output: jax.Array | np.ndarray
) -> dict[str, jax.Array]:
    """Returns the sum of squared errors of each row of each tile, by measure.

    Sums of integers are equal on every device. int32 can hold the sum of a row, but not of a tile.

    Args:
        original: uint8 [N, rows, columns], or [N, rows, columns, channels].
        output: the same.

    Returns:
        int32 [N, rows]: "" of all channels; or, of Y, Cb and Cr, "" of RGB, "luma" and "chroma".
    """

    def squares(first: jax.Array | np.ndarray, second: jax.Array | np.ndarray) -> jax.Array:
        first, second = (jnp.asarray(planes, jnp.int32) for planes in (first, second))
        errors = jnp.square(first - second)
        return jnp.sum(errors.reshape(*errors.shape[:2], -1), axis=2)

    if original.ndim < 4 or original.shape[-1] != 3:
        return {"": squares(original, output)}
    rgb = (color.ycbcr_to_rgb(jnp.asarray(planes), "full") for planes in (original, output))
    return {
        "": squares(*rgb),
        "luma": squares(original[..., :1], output[..., :1]),
        "chroma": squares(original[..., 1:], output[..., 1:]),
    }
