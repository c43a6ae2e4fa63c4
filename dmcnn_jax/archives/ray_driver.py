"""Runs an archive on Ray: on this machine, or on a cluster. Nothing else imports Ray.

Each actor starts one worker process, which loads the models once and is pinned to its cores. Ray
places actors, restarts them if their node died, and asks for more nodes if the cluster can grow.
That each file is restored once is ensured by the shards (`shard.py`), not by Ray.
"""

import collections
import dataclasses
import os
from collections.abc import Iterable
from functools import partial
from typing import Any

from dmcnn_jax.archives.driver import Progress, RunResult
from dmcnn_jax.archives.reports import Summary
from dmcnn_jax.archives.worker_client import (
    BusyShardError,
    PersistentWorker,
    WorkerError,
    WorkerProcess,
    WorkerStartError,
)

LOSSES = 20
"""How often a shard is given to another actor after its actor was lost."""

_PATIENCE = 20  # seconds without an event, after which Ray is asked whether it still has a machine

# Workers keep all cores busy, so that Ray's own processes may answer late.
_ON_A_BUSY_MACHINE = {
    "health_check_period_ms": 5_000,
    "health_check_timeout_ms": 20_000,
    "health_check_failure_threshold": 6,
}


@dataclasses.dataclass(frozen=True)
class _Left:
    """A shard that an actor could not finish.

    Attributes:
        why: one line.
        useless: whether the actor can't restore other shards either.
    """

    why: str
    useless: bool = False


class _Actor:
    """An actor, which runs one worker process.

    Args:
        target: address of the archive.
        gpus: number of GPUs that Ray assigned to the actor; with 0, the worker is pinned to cores
            of its own.
        retry_failed: as in `shard.run_shard`.
    """

    def __init__(self, target: str, gpus: float, retry_failed: bool) -> None:
        if not gpus:
            os.environ.setdefault("JAX_PLATFORMS", "cpu")
        elif gpus < 1:  # else JAX would reserve most of the GPU's memory for one worker
            os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 * gpus:.3f}")
        self._worker = PersistentWorker(
            partial(WorkerProcess, target, pin=not gpus, retry_failed=retry_failed)
        )

    def ready(self) -> bool:
        """Returns True, once Ray has placed the actor."""
        return True

    def run_shard(self, shard: int) -> "Summary | _Left":
        """Returns the counts of a shard's report, or the reason why it is left."""
        try:
            return self._worker.run_shard(shard)
        except WorkerStartError as error:
            return _Left(str(error), useless=True)
        except (WorkerError, BusyShardError) as error:
            return _Left(str(error))


def run_on_ray(
    target: str,
    shards: Iterable[int],
    workers: int | None,
    progress: Progress,
    *,
    address: str | None = None,
    cores: int = 1,
    gpus: float = 0,
    retry_failed: bool = False,
) -> RunResult:
    """Restores shards on Ray; each actor restores one at a time.

    Args:
        target: address of the archive, which every node reaches.
        shards: the shards.
        workers: number of actors; None: as many as the cluster has cores, or GPUs, for.
        progress: counts shards.
        address: of a cluster; None: Ray is started on this machine, and ended afterwards.
        cores: of each worker.
        gpus: of each worker, as 1 or 0.5.
        retry_failed: as in `shard.run_shard`.

    Returns:
        The outcome.

    Raises:
        RuntimeError: if the cluster has no room for a worker, no actor can start, or no machine is
            left.
        ConnectionError: if the cluster can't be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    settings = {} if address else {"_system_config": _ON_A_BUSY_MACHINE}
    ray.init(address=address or "local", logging_level="warning", **settings)
    try:
        count = workers or _places(ray.cluster_resources(), cores, gpus)
        options = {"num_cpus": cores, "num_gpus": gpus, "max_restarts": -1}
        actor = ray.remote(**options)(_Actor)
        actors = [actor.remote(target, gpus, retry_failed) for _ in range(count)]
        return _run(ray, actors, iter(shards), progress)
    finally:
        ray.shutdown()


def _places(resources: dict[str, float], cores: int, gpus: float) -> int:
    """Returns how many workers a cluster has room for."""
    places = int(resources.get("CPU", 0) // cores)
    if gpus:
        places = min(places, int(resources.get("GPU", 0) // gpus))
    if not places:
        raise RuntimeError(
            f"the cluster has {resources.get('CPU', 0):g} cores and {resources.get('GPU', 0):g}"
            f" GPUs; a worker needs {cores} and {gpus:g}; name a number with --workers to wait"
        )
    return places


def _run(ray: Any, actors: list[Any], waiting: Any, progress: Progress) -> RunResult:
    """Gives shards to actors that are ready, and collects the outcome."""
    result = RunResult()
    lost: collections.Counter[int] = collections.Counter()
    again: list[int] = []
    idle: list[Any] = []  # take the shards of lost actors, which Ray may never place again
    tasks: dict[Any, tuple[Any, int | None]] = {}
    tasks.update({each.ready.remote(): (each, None) for each in actors})
    while tasks:
        done, _ = ray.wait(list(tasks), num_returns=1, timeout=_PATIENCE)
        if not done:
            _check_alive(ray)
            continue
        actor, shard = tasks.pop(done[0])
        try:
            outcome = ray.get(done[0])
        except ray.exceptions.RayActorError as error:
            if shard is not None:
                lost[shard] += 1
                if lost[shard] < LOSSES:
                    again.append(shard)
                else:
                    result.left[shard] = f"its actors died {LOSSES} times ({_reason(error)})"
            if not isinstance(error, ray.exceptions.ActorDiedError):  # Ray starts it again
                tasks[actor.ready.remote()] = (actor, None)
            elif not tasks and not idle:
                raise RuntimeError(f"no actor is left: {_reason(error)}") from None
        else:
            if isinstance(outcome, Summary):
                result.add(outcome)
                progress.shard_done(outcome.files)
            elif isinstance(outcome, _Left) and shard is not None:
                result.left[shard] = outcome.why
            if not (isinstance(outcome, _Left) and outcome.useless):
                idle.append(actor)
        while idle and (upcoming := again.pop() if again else next(waiting, None)) is not None:
            actor = idle.pop()
            tasks[actor.run_shard.remote(upcoming)] = (actor, upcoming)
        if idle and not any(number is not None for _, number in tasks.values()):
            break  # actors that Ray has not yet placed are no longer needed
    return result


def _check_alive(ray: Any) -> None:
    """Raises a RuntimeError if no machine is left, since Ray would wait for one forever."""
    if not any(node["Alive"] for node in ray.nodes()):
        raise RuntimeError("Ray has lost its last machine; the same command resumes the run")


def _reason(error: Exception) -> str:
    """Returns the last line of an error, where a traceback names its cause."""
    return str(error).strip().rpartition("\n")[2].strip()[:200]
