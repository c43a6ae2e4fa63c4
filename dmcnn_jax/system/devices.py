"""One mesh over all devices of all processes.

Batches are split over it, everything else is on each device.
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

# A process that has not been heard of for so long is deemed dead, seconds.
_HEARTBEAT_TIMEOUT = 60
# How long one CPU device, or one process, may wait for another, seconds.
_PATIENCE = 7 * 24 * 3600

_meetings = itertools.count()


def connect(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Makes this process one of several that train together; called before anything else of JAX.

    Without arguments JAX finds them out where it can: under Slurm, Open MPI, Kubernetes and on
    Cloud TPU; or from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Under Slurm
    and Open MPI it gives each process one GPU, that of its rank in its node.

    Args:
        coordinator: "host:port" of process 0, which all others can reach.
        num_processes: how many there are.
        process_id: which of them this is, from 0.

    Raises:
        ValueError: if they can't be found out, or don't fit together.
    """
    given = (coordinator, num_processes, process_id)
    if any(value is not None for value in given) and any(value is None for value in given):
        raise ValueError(
            f"--coordinator is {coordinator}, --num_processes {num_processes}, --process_id "
            f"{process_id}; expected all three, or none of them and --distributed"
        )
    # SIGTERM is ours: it saves a checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    # Between CPUs; accelerators have their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
        )
        # They tell each other of their devices now, while they are together: one that asks for
        # them two minutes before another does would not get them.
        jax.devices()
    except (ValueError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"the processes can't find each other ({str(error).strip().splitlines()[0]}); give "
            "each --coordinator=HOST:PORT --num_processes=N --process_id=I"
        ) from error


def use_cores_as_devices(batch_sizes: Sequence[int]) -> None:
    """Makes a device of each CPU core, as far as all batches split evenly; for commands that train.

    On a CPU, XLA shares a step's convolutions among cores, and does much of the rest on one. A
    device for each core, of up to 8, shares all of it: with two, a step takes four fifths of the
    time. Nothing changes for GPUs and TPUs, with several processes, once JAX has begun, or where
    `XLA_FLAGS` or `JAX_NUM_CPU_DEVICES` say how many devices there are.

    Args:
        batch_sizes: patches in the batches that will be split.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    told = "xla_force_host_platform_device_count" in flags or jax.config.jax_num_cpu_devices > 0
    if told or jax.distributed.is_initialized():
        return
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    count = max(n for n in range(1, 9) if n <= cores and not any(b % n for b in batch_sizes))
    if count > 1:
        # A device that waits for another, for long where a computer slept, is no reason to end.
        waiting = f"--xla_cpu_collective_call_terminate_timeout_seconds={_PATIENCE}"
        os.environ["XLA_FLAGS"] = f"{flags} {waiting}".strip()
        with contextlib.suppress(RuntimeError):  # JAX has begun
            jax.config.update("jax_num_cpu_devices", count)


def is_main() -> bool:
    """Whether this process is the one that writes logs and weights."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether a flag is up in any process; all of them have to ask."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def check_agreement(fingerprint: str) -> None:
    """Checks that a text is the same in all processes; all of them have to ask.

    Raises:
        ValueError: if it isn't.
        ConnectionError: if one is gone.
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
            "expected the same command in each, and one workdir that all of them see"
        )


def synchronize(name: str) -> None:
    """Waits until all processes are here, however late one may be.

    Raises:
        jax.errors.JaxRuntimeError: if one is gone.
    """
    if jax.process_count() == 1:
        return
    from orbax.checkpoint.multihost import get_barrier_sync_fn  # seconds to import

    # By way of the coordinator. Collectives between CPUs, and so JAX's own barrier, look for the
    # other processes when the first of them is asked for, and for 30 seconds only.
    key = f"{name}, meeting {next(_meetings)}"  # a barrier serves once
    get_barrier_sync_fn()(key=key, timeout_ms=_PATIENCE * 1000)
    multihost_utils.sync_global_devices(name)


def make_mesh() -> Mesh:
    """A mesh of one axis, "batch", over all devices, those of a process side by side."""
    # jax.make_mesh may put them in another order on TPUs, and `local_rows` would not be the rows
    # that a process's devices hold.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(devices), ("batch",), axis_types=(AxisType.Auto,))


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
            f"a batch of {batch_size} can't be split over {mesh.size} devices; set "
            "config.train.batch_sizes to a multiple "
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
