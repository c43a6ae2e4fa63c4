"""A worker: a process that loads the models once and restores the shards requested from it.

    python -m dmcnn_jax.archives.worker TARGET

Requests and answers are lines of JSON on standard input and output; `worker_client.py` sends the
requests. The process ends when its standard input does, which means that its parent is gone.
"""

import json
import os
import queue
import sys
import threading
from typing import Any, TextIO

from dmcnn_jax.archives.cores import pin_to_cores


def main() -> int:
    """Answers requests until there are no more; returns the exit status."""
    target = sys.argv[1]
    answers = _take_stdout()
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        worker = _Worker(target)
    except Exception as error:
        answer(error=_describe(error))
        return 1
    answer(ready=os.getpid())
    while True:
        try:
            answer(**worker.respond(requests.get(), answer))
        except Exception as error:
            answer(error=_describe(error))


class _Worker:
    """Answers requests with the models loaded.

    Args:
        target: address of the archive.
    """

    def __init__(self, target: str) -> None:
        from dmcnn_jax.archives.plan import Archive

        archive = Archive(target)
        if os.environ.get("DMCNN_ARCHIVE_PIN") != "0":
            pin_to_cores(archive.plan.options.cores)
        from dmcnn_jax.archives.pictures import PictureRestorer
        from dmcnn_jax.inference.tiling import use_few_shapes
        from dmcnn_jax.system.compile_cache import enable_compilation_cache
        from dmcnn_jax.system.malloc import tune_malloc

        tune_malloc()
        enable_compilation_cache()
        use_few_shapes(True)
        self.restorer = PictureRestorer(archive)

    def respond(self, request: dict[str, Any], answer: Any) -> dict[str, Any]:
        """Performs a request and returns the answer."""
        import dataclasses

        from dmcnn_jax.archives.shard import BusyError, run_shard
        from dmcnn_jax.archives.worker_client import isolate

        shard = request["shard"]
        if "row" in request:
            row = self.restorer.archive.rows(shard)[request["row"]]
            return {"record": dataclasses.asdict(self.restorer.run(row))}
        target = self.restorer.archive.target.address
        try:
            summary = run_shard(
                self.restorer,
                shard,
                lambda shard, index: isolate(target, shard, index),
                retry_failed=request.get("retry_failed", False),
                progress=lambda record: answer(file=record.status),
            )
        except BusyError as error:
            return {"busy": str(error)}
        return {"summary": dataclasses.asdict(summary)}


def _take_stdout() -> TextIO:
    """Returns a file for answers, and redirects all other output to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _read_requests(requests: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """Queues requests, and ends the process when its parent ends."""
    for line in sys.stdin:
        requests.put(json.loads(line))
    from dmcnn_jax.system.partial_files import remove_open

    remove_open()
    os._exit(0)


def _describe(error: Exception) -> str:
    from dmcnn_jax.system.messages import first_line

    known = isinstance(error, ValueError | OSError | ImportError | RuntimeError)
    return first_line(error) if known else f"{type(error).__name__}: {first_line(error)}"


if __name__ == "__main__":
    raise SystemExit(main())
