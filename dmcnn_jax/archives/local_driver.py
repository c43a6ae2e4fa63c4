"""Restores an archive by worker processes on this machine, without Ray."""

import queue
import threading
from collections.abc import Iterable
from functools import partial

from dmcnn_jax.archives.driver import Progress, RunResult
from dmcnn_jax.archives.reports import Summary
from dmcnn_jax.archives.worker_client import (
    BusyShardError,
    PersistentWorker,
    WorkerError,
    WorkerProcess,
    WorkerStartError,
)


def run_on_processes(
    target: str,
    shards: Iterable[int],
    workers: int,
    progress: Progress,
    *,
    retry_failed: bool = False,
) -> RunResult:
    """Restores shards; each worker restores one at a time.

    Args:
        target: address of the archive.
        shards: the shards.
        workers: number of processes, each pinned to cores of its own.
        progress: counts files and shards.
        retry_failed: as in `shard.run_shard`.

    Returns:
        The outcome.
    """
    waiting = iter(shards)
    lock = threading.Lock()
    events: queue.SimpleQueue[tuple[str, int, object]] = queue.SimpleQueue()
    pool = [
        PersistentWorker(
            partial(
                WorkerProcess,
                target,
                retry_failed=retry_failed,
                on_file=lambda status: events.put(("file", 0, status)),
            )
        )
        for _ in range(workers)
    ]
    stopping = threading.Event()

    def take() -> int | None:
        with lock:
            return None if stopping.is_set() else next(waiting, None)

    def work(worker: PersistentWorker) -> None:
        while (shard := take()) is not None:
            try:
                events.put(("done", shard, worker.run_shard(shard)))
            except WorkerStartError as error:
                events.put(("left", shard, str(error)))
                break  # the next shard would fail in the same way
            except (WorkerError, BusyShardError) as error:
                events.put(("left", shard, str(error)))
            except Exception as error:
                events.put(("left", shard, f"{type(error).__name__}: {error}"))
        events.put(("end", 0, None))

    threads = [threading.Thread(target=work, args=(each,), daemon=True) for each in pool]
    for thread in threads:
        thread.start()
    try:
        return _collect(events, len(threads), progress)
    finally:
        stopping.set()
        for worker in pool:
            worker.close()


def _collect(
    events: "queue.SimpleQueue[tuple[str, int, object]]", workers: int, progress: Progress
) -> RunResult:
    """Returns the outcome of all workers, once they have ended."""
    result, running = RunResult(), workers
    while running:
        kind, shard, value = events.get()
        if kind == "file":
            progress.file_done()
        elif kind == "end":
            running -= 1
        elif isinstance(value, Summary):
            result.add(value)
            progress.shard_done()
        else:
            result.left[shard] = str(value)
    return result
