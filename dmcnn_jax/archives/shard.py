"""The unit of work: a shard, which is restored once, however its workers end.

A shard that has a report is done. Otherwise its journal lists the files that are done; the others
are restored, and the report is written last. Files that were begun when a worker died are restored
at the end, each in its own process. A file that ends two such processes is recorded as failed.
"""

import collections
import concurrent.futures
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from dmcnn_jax.archives.journal import Journal, open_journal
from dmcnn_jax.archives.pictures import PictureRestorer, Read, failure
from dmcnn_jax.archives.plan import Row
from dmcnn_jax.archives.reports import (
    Record,
    Summary,
    read_report,
    read_summary,
    report_name,
    write_report,
)
from dmcnn_jax.restoration.results import Planes
from dmcnn_jax.system.cpu import usable_cores

MAX_DEATHS = 2
"""How many processes that restore only this file may die before it is recorded as failed."""

_FETCHED = 4  # files that are read before their turn
_LARGE = 16_000_000  # pixels above which a picture is written before the next is restored


class Isolation(Protocol):
    """A function that restores a file in a separate process."""

    def __call__(self, shard: int, index: int) -> Record | str:
        """Returns the record of a file; if the process died, how it ended."""


class BusyError(Exception):
    """A shard that another process of this machine restores."""


def run_shard(
    restorer: PictureRestorer,
    shard: int,
    isolate: Isolation,
    *,
    retry_failed: bool = False,
    progress: Callable[[Record], None] | None = None,
) -> Summary:
    """Restores the files of a shard that are not done, and writes its report.

    Args:
        restorer: restores each file.
        shard: number of the shard.
        isolate: restores files that were begun when a worker died.
        retry_failed: whether failed files of a finished shard are restored again.
        progress: called with the record of each file that this call finishes.

    Returns:
        The counts of its report.

    Raises:
        BusyError: if another process of this machine works on the shard.
        StorageUnavailableError: if the storage doesn't answer; finished files stay finished.
    """
    archive = restorer.archive
    with open_journal(archive.target, shard) as journal:
        if journal is None:
            raise BusyError(f"shard {shard} is restored by another process")
        done = archive.target.exists(report_name(shard))
        if done and not retry_failed:
            journal.remove()
            return read_summary(archive.target, archive.plan.id, shard)
        began = time.time()
        if done:
            for record in read_report(archive.target, shard):
                if record.status != "failed":
                    journal.finished.setdefault(record.index, record)
        for record in _restore_missing(restorer, shard, journal, isolate):
            if progress:
                progress(record)
        records = [record for _, record in sorted(journal.finished.items())]
        summary = write_report(archive.target, archive.plan.id, shard, records, began, time.time())
        journal.remove()
    return summary


def _restore_missing(
    restorer: PictureRestorer, shard: int, journal: Journal, isolate: Isolation
) -> Iterator[Record]:
    """Restores the files that are not done, records each in the journal and yields its record."""
    missing = [r for r in restorer.archive.rows(shard) if r.number not in journal.finished]
    suspects = set(journal.suspects)
    yield from _restore(restorer, [r for r in missing if r.number not in suspects], journal)
    for row in missing:
        if row.number in suspects:
            record = _restore_apart(shard, row, journal, isolate)
            journal.finish(record)
            yield record


def _restore(restorer: PictureRestorer, rows: Sequence[Row], journal: Journal) -> Iterator[Record]:
    """Restores files in turn, while the next ones are read and the previous ones written."""
    with _pool(_FETCHED) as fetching, _pool(1) as reading, _pool(_writers()) as writing:

        def read(row: Row, fetched: Future[bytes]) -> Read:
            return restorer.read(row, fetched.result())

        fetched: collections.deque[Future[bytes]] = collections.deque()
        written: collections.deque[Future[Record]] = collections.deque()
        upcoming = iter(rows)

        def fetch_more() -> None:
            while len(fetched) < _FETCHED and (row := next(upcoming, None)) is not None:
                fetched.append(fetching.submit(restorer.fetch, row))

        def start(row: Row) -> Future[Read]:
            journal.start(row.number)
            fetch_more()
            return reading.submit(read, row, fetched.popleft())

        def finish(row: Row, file: Read, began: float, planes: Planes) -> Record:
            try:
                record = restorer.write(row, file, planes, began)
            except Exception as error:
                record = failure(row, error, began)
            journal.finish(record)
            return record

        ahead = start(rows[0]) if rows else None
        for number, row in enumerate(rows):
            assert ahead is not None
            began, current = time.perf_counter(), ahead
            ahead = start(rows[number + 1]) if number + 1 < len(rows) else None
            try:
                file = current.result()
                planes = restorer.restore(file)
            except Exception as error:
                record = failure(row, error, began)
                journal.finish(record)
                yield record
                continue
            while len(written) >= (1 if _is_large(file) else _writers()):
                yield written.popleft().result()
            written.append(writing.submit(finish, row, file, began, planes))
        while written:
            yield written.popleft().result()


def _restore_apart(shard: int, row: Row, journal: Journal, isolate: Isolation) -> Record:
    """Restores a file in its own process; restarts a process that died."""
    while len(journal.deaths[row.number]) < MAX_DEATHS:
        outcome = isolate(shard, row.number)
        if isinstance(outcome, Record):
            return outcome
        journal.die(row.number, outcome)
    ends = ", ".join(dict.fromkeys(journal.deaths[row.number]))
    error = ValueError(f"it ended {MAX_DEATHS} processes that restored it alone ({ends})")
    return failure(row, error, time.perf_counter())


def _is_large(file: Read) -> bool:
    return file.file.width * file.file.height > _LARGE


def _writers() -> int:
    """Returns how many files may be written at a time: one for each core, at most four."""
    return min(4, usable_cores())


@contextlib.contextmanager
def _pool(threads: int) -> Iterator[concurrent.futures.Executor]:
    """Yields a thread pool; if the block fails, waiting tasks are dropped."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
