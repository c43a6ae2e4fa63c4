"""Weights as an Orbax checkpoint: a directory that JAX programs restore from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from dmcnn_jax.export.formats import Format, choose_about, make_model, reading_runner
from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.variables import variable_shapes
from dmcnn_jax.models import create_model
from dmcnn_jax.system.messages import shorten_name


def write(model: Model, path: Path) -> None:
    """Writes a new directory with two items: "variables", arrays, and "about", JSON."""
    import orbax.checkpoint as ocp

    items = ocp.args.Composite(
        variables=ocp.args.StandardSave(dict(model.variables)),
        about=ocp.args.JsonSave(dict(model.about)),
    )
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(path.absolute(), args=items)


def read(path: Path, like: Mapping[str, Any] | None = None) -> Model:
    """Reads a directory of `write`, which always names its network; `like` is not used."""
    del like
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:

        def restore(**items: Any) -> Any:
            try:
                return checkpointer.restore(path.absolute(), args=ocp.args.Composite(**items))
            # Damage can cause any error of the parsers of Orbax and TensorStore.
            except Exception as error:
                reason = shorten_name(" ".join(str(error).split()))
                raise ValueError(
                    f"{str(path)!r} is not a directory that this package exported, or is damaged "
                    f"({reason})"
                ) from error

        about = choose_about(path, restore(about=ocp.args.JsonRestore()).about, None)
        # A target places the arrays on this machine's devices, wherever they were saved.
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            variable_shapes(create_model(about["model"])),
        )
        variables = restore(variables=ocp.args.StandardRestore(target)).variables
    return make_model(path, variables, about)


def is_checkpoint(path: Path) -> bool:
    """Returns whether `write` wrote a directory."""
    return (path / "variables").is_dir()


ORBAX = Format(
    name="orbax",
    suffixes=("",),
    tolerance=0.0,
    write=write,
    run=reading_runner(read),
    read=read,
    packages=("orbax.checkpoint",),
    extra="train",
)
