"""The network as a StableHLO program, by jax.export: any number and size of images."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax.export.formats import Coefficients, Format, Runner
from dmcnn_jax.inference.model import Model
from dmcnn_jax.models.chroma import ChromaNet
from dmcnn_jax.models.photo import PhotoNet

PLATFORMS = ("cpu", "cuda", "tpu")


def write(model: Model, path: Path) -> None:
    """Writes one program for all `PLATFORMS`; its arguments are coefficients and table.

    Raises:
        ValueError: for a network of colour.
    """
    from jax import export

    if isinstance(model.module, ChromaNet | PhotoNet):
        raise ValueError(
            "a network of colour can't be written as stablehlo; expected npz, safetensors or orbax"
        )
    batch, rows, columns = export.symbolic_shape("batch, rows, columns")
    params = jax.tree.map(np.asarray, dict(model.variables))
    program = export.export(
        jax.jit(lambda coefficients, table: model.apply(params, coefficients, table)),
        platforms=PLATFORMS,
    )(
        jax.ShapeDtypeStruct((batch, rows, columns, 64), jnp.int32),
        jax.ShapeDtypeStruct((batch, 8, 8), jnp.int32),
    )
    path.write_bytes(program.serialize())


def run(path: Path) -> Runner:
    """Returns a function that restores a batch by the program."""
    from jax import export

    program = export.deserialize(bytearray(path.read_bytes()))

    def restore(coefficients: Coefficients, table: np.ndarray) -> np.ndarray:
        return np.asarray(program.call(coefficients, table))

    return restore


STABLEHLO = Format(
    name="stablehlo",
    suffixes=(".stablehlo",),
    tolerance=1e-6,
    write=write,
    run=run,
    # jax.export serialises with it, and does not install it.
    packages=("flatbuffers",),
    details=f", for {', '.join(PLATFORMS)}",
)
