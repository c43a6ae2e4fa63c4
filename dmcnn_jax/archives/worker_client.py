"""The driver's side of a worker: starts the process of `worker.py` and sends it requests."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from dmcnn_jax.archives.reports import Record, Summary

ERRORS_IN_A_ROW = 3
"""How often a shard is retried after an error that no file caused, such as a storage's."""

DEATHS_IN_A_ROW = 10
"""How many workers may die while restoring one shard in one run."""


class WorkerDiedError(Exception):
    """A worker that died; the message says how."""


class WorkerError(Exception):
    """An error that a worker reported, in one line."""


class WorkerStartError(WorkerError):
    """A worker that can't load the plan or the models: no other shard can be restored either."""


class BusyShardError(Exception):
    """A shard that another process of this machine restores."""


class WorkerProcess:
    """A running worker process.

    Args:
        target: address of the archive.
        pin: whether it is pinned to cores of its own.
        retry_failed: as in `shard.run_shard`.
        on_file: called with the status of each finished file.

    Raises:
        WorkerError: if it can't load the plan or the models.
        WorkerDiedError: if it dies at once.
    """

    def __init__(
        self,
        target: str,
        *,
        pin: bool = True,
        retry_failed: bool = False,
        on_file: Callable[[str], None] | None = None,
    ) -> None:
        self._retry_failed, self._on_file = retry_failed, on_file
        environment = os.environ | ({} if pin else {"DMCNN_ARCHIVE_PIN": "0"})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dmcnn_jax.archives.worker", target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches only the driver
        )
        try:
            self.pid: int = self._receive()["ready"]
        except BaseException:
            self.stop()
            raise

    def run_shard(self, shard: int) -> Summary:
        """Restores what is missing of a shard and returns the counts of its report.

        Raises:
            BusyShardError, WorkerError, WorkerDiedError
        """
        self._send({"shard": shard, "retry_failed": self._retry_failed})
        while "file" in (answer := self._receive()):
            if self._on_file:
                self._on_file(answer["file"])
        if "busy" in answer:
            raise BusyShardError(answer["busy"])
        return Summary(**answer["summary"])

    def run_file(self, shard: int, index: int) -> Record:
        """Restores a file of a shard and returns its record; raises what `run_shard` does."""
        self._send({"shard": shard, "row": index})
        return Record(**self._receive()["record"])

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerDiedError(self._describe_end()) from None

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise WorkerDiedError(self._describe_end())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _describe_end(self) -> str:
        status = self._process.wait()
        if status < 0:
            return f"killed by signal {-status}, {signal.Signals(-status).name}"
        return f"ended with status {status}"


def isolate(target: str, shard: int, index: int) -> Record | str:
    """Restores a file in a process of its own.

    Args:
        target: address of the archive.
        shard: number of its shard.
        index: of the file in its shard.

    Returns:
        Its record, or how the process ended if it died.

    Raises:
        WorkerError: if it can't start.
    """
    worker: WorkerProcess | None = None
    try:
        worker = WorkerProcess(target, pin=False)
        return worker.run_file(shard, index)
    except WorkerDiedError as error:
        if worker is None:
            raise WorkerError(f"a process for a single file {error}") from None
        return str(error)
    finally:
        if worker is not None:
            worker.stop()


class PersistentWorker:
    """A worker that is restarted when it dies, and then resumes its shard.

    Args:
        start_process: returns a new worker.
    """

    def __init__(self, start_process: Callable[[], WorkerProcess]) -> None:
        self._start_process = start_process
        self._process: WorkerProcess | None = None
        self._is_closed = False

    def run_shard(self, shard: int) -> Summary:
        """Restores what is missing of a shard, as `WorkerProcess.run_shard` does.

        Raises:
            BusyShardError: as there.
            WorkerStartError: if the worker can't load the plan or the models.
            WorkerError: if the worker reports errors too often in a row, or dies too often.
        """
        errors = deaths = 0
        while True:
            try:
                if self._process is None:
                    self._process = self._start()
                return self._process.run_shard(shard)
            except WorkerDiedError as error:
                deaths += 1
                self._end_process()
                if self._is_closed:
                    raise WorkerError("the run was stopped") from None
                if deaths == DEATHS_IN_A_ROW:
                    raise WorkerError(
                        f"{deaths} workers died restoring it, the last {error}"
                    ) from None
            except WorkerError:
                errors += 1
                if self._process is None or errors == ERRORS_IN_A_ROW:
                    raise

    def _start(self) -> WorkerProcess:
        try:
            return self._start_process()
        except WorkerError as error:
            raise WorkerStartError(str(error)) from None

    def close(self) -> None:
        """Ends the process permanently; `run_shard` in another thread then fails."""
        self._is_closed = True
        self._end_process()

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None
