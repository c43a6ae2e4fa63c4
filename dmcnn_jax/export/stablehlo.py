"""The network as a StableHLO program, by jax.export; for any number and size of images."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax.export.formats import Coefficients, Format, Runner, named_inputs
from dmcnn_jax.images.color import ycbcr_to_rgb
from dmcnn_jax.inference.model import Model, apply_module
from dmcnn_jax.models.chroma import ChromaNet
from dmcnn_jax.models.photo import PhotoNet
from dmcnn_jax.models.photo_input import PhotoInput

PLATFORMS = ("cpu", "cuda", "tpu")


SUBSAMPLING = "4:2:0"
"""The subsampling of pictures for exported networks for photographs, gray pictures included. It
determines shapes, so each other subsampling would need another program."""


def write(model: Model, path: Path) -> None:
    """Writes one program for all `PLATFORMS`.

    Its arguments are coefficients and table; for networks for photographs, those of `_photo`.

    Raises:
        ValueError: for a network of chroma.
    """
    from jax import export

    if isinstance(model.module, ChromaNet):
        raise ValueError(
            "a network of chroma can't be written as stablehlo; expected npz, safetensors or orbax"
        )
    batch, rows, columns = export.symbolic_shape("batch, rows, columns")
    program: Callable
    if isinstance(model.module, PhotoNet):
        program = partial(_photo, model)
        shapes = [
            (batch, 2 * rows, 2 * columns, 64),
            (batch, 2, rows, columns, 64),
            (batch, 3, 8, 8),
            (2,),
        ]
    else:
        params = jax.tree.map(np.asarray, dict(model.variables))
        program = partial(model.apply, params)
        shapes = [(batch, rows, columns, 64), (batch, 8, 8)]
    exported = export.export(jax.jit(program), platforms=PLATFORMS)(
        *(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes)
    )
    path.write_bytes(exported.serialize())


def run(path: Path) -> Runner:
    """Returns a function that restores a batch by the program."""
    from jax import export

    program = export.deserialize(bytearray(path.read_bytes()))

    def restore(coefficients: Coefficients, table: np.ndarray) -> np.ndarray:
        inputs = named_inputs(coefficients, table)
        if isinstance(coefficients, PhotoInput):
            luma, chroma, table, _ = inputs.values()
            blocks = np.array(luma.shape[1:3], np.int32)
            return np.asarray(program.call(luma, chroma, table, blocks)[1]) / 255
        return np.asarray(program.call(*inputs.values()))

    return restore


def _photo(
    model: Model, luma: jax.Array, chroma: jax.Array, table: jax.Array, blocks: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Restores pictures of one size by a network for photographs.

    Args:
        model: the network.
        luma: k of Y, int32 [B, 2h, 2w, 64], anything where there are no blocks of luma.
        chroma: k of Cb and Cr, int32 [B, 2, h, w, 64].
        table: Q of Y, Cb and Cr, int32 [B, 3, 8, 8].
        blocks: rows and columns of blocks of luma in the file, int32 [2].

    Returns:
        The pictures in RGB and in YCbCr, float32 [B, 16h, 16w, 3] each, levels 0 to 255, neither
        rounded nor clipped.
    """
    batch, rows, columns, _ = luma.shape
    inside = (jnp.arange(rows)[:, None] < blocks[0]) & (jnp.arange(columns) < blocks[1])
    mask = jnp.broadcast_to(inside[None, :, :, None], (batch, rows, columns, 1))
    params = jax.tree.map(np.asarray, dict(model.variables))
    inputs = PhotoInput(luma, chroma)
    ycbcr = 255 * apply_module(model.module, params, inputs, table, mask=mask)["image"]
    return ycbcr_to_rgb(ycbcr, "full"), ycbcr


STABLEHLO = Format(
    name="stablehlo",
    suffixes=(".stablehlo",),
    tolerance=1e-6,
    write=write,
    run=run,
    # jax.export needs it to serialise, and does not install it.
    packages=("flatbuffers",),
    details=f", for {', '.join(PLATFORMS)}",
    subsamplings=(SUBSAMPLING,),
)
