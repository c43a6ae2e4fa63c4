"""Devices: one mesh over the devices of all processes, and agreement between processes.

Batches are split over the mesh; everything else is replicated on each device.
"""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dmcnn_jax.system.cpu import usable_cores

HEARTBEAT_TIMEOUT = 60
"""A process is considered dead after this many seconds without a heartbeat."""
# How long a CPU device, or a process, may wait for another, seconds.
_WAIT_TIMEOUT = 7 * 24 * 3600

_barrier_numbers = itertools.count()


def init_distributed(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the processes that train together; must come before any other use of JAX.

    Without arguments, JAX detects them under Slurm, Open MPI and Kubernetes and on Cloud TPU, or
    reads JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Under Slurm and Open MPI
    each process gets the GPU of its local rank.

    Args:
        coordinator: "host:port" of process 0, reachable by all others.
        num_processes: number of processes.
        process_id: number of this process, from 0.

    Raises:
        ValueError: if only some arguments are given, they can't be detected, or the processes can't
            reach each other.
    """
    given = (coordinator, num_processes, process_id)
    if any(value is not None for value in given) and any(value is None for value in given):
        raise ValueError(
            f"--coordinator is {coordinator}, --num_processes {num_processes}, --process_id "
            f"{process_id}; expected all three, or none of them and --distributed"
        )
    # JAX would handle SIGTERM; training does, to save a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    # Collectives between CPUs; accelerators have their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
        )
        # Processes exchange their device lists now, while all are ready: a process that asked two
        # minutes before another would time out.
        jax.devices()
    except (ValueError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"the processes can't find each other ({str(error).strip().splitlines()[0]}); give "
            "each --coordinator=HOST:PORT --num_processes=N --process_id=I"
        ) from error


def use_cores_as_devices(batch_sizes: Sequence[int]) -> None:
    """Makes CPU cores JAX devices, as many as divide all batches evenly; for training.

    On a CPU, XLA runs a step's convolutions on all cores, and much of the rest on one. With a
    device per core, at most 8, all of it runs in parallel: with two, a step takes four fifths of
    the time. This has no effect on GPUs and TPUs, with several processes, once JAX has
    initialised its devices, or where `XLA_FLAGS` or `JAX_NUM_CPU_DEVICES` set their number.

    Args:
        batch_sizes: number of patches in each batch that will be split.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    given = jax.config.values["jax_num_cpu_devices"] > 0
    if given or "xla_force_host_platform_device_count" in flags or jax.distributed.is_initialized():
        return
    cores = usable_cores()
    count = max(n for n in range(1, 9) if n <= cores and not any(b % n for b in batch_sizes))
    if count > 1:
        # XLA ends the process when one device waits too long for another, as after the computer was
        # suspended.
        timeout = f"--xla_cpu_collective_call_terminate_timeout_seconds={_WAIT_TIMEOUT}"
        os.environ["XLA_FLAGS"] = f"{flags} {timeout}".strip()
        with contextlib.suppress(RuntimeError):  # JAX has initialised its devices
            jax.config.update("jax_num_cpu_devices", count)


def is_main() -> bool:
    """Returns whether this process is the one that writes logs and weights."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Returns whether a flag is set in any process; all processes must call this."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def check_agreement(fingerprint: str) -> None:
    """Checks that a text is the same in all processes; all processes must call this.

    Raises:
        ValueError: if it isn't.
        ConnectionError: if a process has ended.
    """
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(fingerprint.encode()).digest(), np.uint8)
    try:
        synchronize("agreement")
        digests = multihost_utils.process_allgather(digest)
    except jax.errors.JaxRuntimeError as error:
        raise ConnectionError(
            f"another process is gone ({str(error).splitlines()[0][:200]}); start all of them again"
        ) from error
    if np.ptp(digests, axis=0).any():
        raise ValueError(
            "the processes were started with different configurations, images or workdirs; "
            "expected the same command in each, and one workdir that all of them can access"
        )


def synchronize(name: str) -> None:
    """Waits until all processes have called this, for up to a week.

    Args:
        name: of the barrier, for error messages.

    Raises:
        jax.errors.JaxRuntimeError: if a process has ended.
    """
    if jax.process_count() == 1:
        return
    from orbax.checkpoint.multihost import get_barrier_sync_fn  # seconds to import

    # First through the coordinator: the first collective between CPUs, which JAX's own barrier
    # uses, waits no longer than 30 seconds for the other processes.
    key = f"{name}, meeting {next(_barrier_numbers)}"  # each key can be used only once
    get_barrier_sync_fn()(key=key, timeout_ms=_WAIT_TIMEOUT * 1000)
    multihost_utils.sync_global_devices(name)


def make_mesh() -> Mesh:
    """Returns a mesh with one axis, "batch", over all devices, grouped by process."""
    # jax.make_mesh may order them differently on TPUs; then `local_rows` would not be the rows that
    # a process's devices hold.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(devices), ("batch",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds completely."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array whose first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec("batch"))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Checks that a batch can be split evenly over the mesh; raises a ValueError if not."""
    if batch_size % mesh.size:
        lower = batch_size - batch_size % mesh.size
        raise ValueError(
            f"a batch of {batch_size} can't be split over {mesh.size} devices; set "
            "config.train.batch_sizes to a multiple "
            f"of {mesh.size}, such as {lower or mesh.size}"
        )


def local_rows(batch_size: int) -> slice:
    """Returns the rows of a global batch that this process provides."""
    share = batch_size // jax.process_count()
    return slice(share * jax.process_index(), share * (jax.process_index() + 1))


def to_devices(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Transfers an array to the devices of all processes.

    Args:
        array: this process's part: its rows of a batch, or the whole of a replicated array.
        sharding: of the global array.

    Returns:
        The global array.
    """
    return jax.make_array_from_process_local_data(sharding, array)
