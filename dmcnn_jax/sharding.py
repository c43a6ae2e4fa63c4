"""One mesh over all devices of all processes: batches are split over it, everything else is on
each device."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh() -> Mesh:
    """A mesh of one axis, "batch", over all devices."""
    return jax.make_mesh((jax.device_count(),), ("batch",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Of an array that is whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh) -> NamedSharding:
    """Of an array whose first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec("batch"))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises a ValueError if a batch can't be split evenly over the mesh."""
    if batch_size % mesh.size:
        lower = batch_size - batch_size % mesh.size
        raise ValueError(
            f"a batch of {batch_size} can't be split over {mesh.size} devices; set config.train.batch_sizes to a multiple "
            f"of {mesh.size}, such as {lower or mesh.size}"
        )


def local_rows(batch_size: int) -> slice:
    """The rows of a global batch that this process provides."""
    share = batch_size // jax.process_count()
    return slice(share * jax.process_index(), share * (jax.process_index() + 1))


def to_devices(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Puts an array on the devices of all processes.

    Args:
        array: what this process has: its rows of a batch, or all of a replicated array.
        sharding: of the global array.

    Returns:
        The global array.
    """
    return jax.make_array_from_process_local_data(sharding, array)
