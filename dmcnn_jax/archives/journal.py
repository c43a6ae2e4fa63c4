"""Journals of unfinished shards: the files that are done, and those begun when a worker died.

In a folder of this machine, each event is a line, written immediately. Object stores can't append,
so lines are collected into small objects; once a worker has died, each line is written immediately
there too.
"""

import collections
import contextlib
import dataclasses
import json
import os
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmcnn_jax.archives.plan import FOLDER
from dmcnn_jax.archives.reports import Record
from dmcnn_jax.archives.storage import LocalStore, Store

try:
    import fcntl
except ImportError:  # Windows
    _has_locks = False
else:
    _has_locks = True

JOURNALS = f"{FOLDER}/journals"

_LINES, _SECONDS = 50, 10  # an object holds this many events, or those of this many seconds


class Journal(ABC):
    """The journal of a shard; any thread may write to it.

    Attributes:
        finished: the record of each file that is done, by its index.
        suspects: files that were begun and not finished when a worker died.
        deaths: for each file, how processes that restored it alone have died.
    """

    def __init__(self, lines: Iterator[bytes]) -> None:
        self.finished: dict[int, Record] = {}
        self.suspects: set[int] = set()
        self.deaths: dict[int, list[str]] = collections.defaultdict(list)
        self._lock = threading.Lock()
        for line in lines:
            self._take(line)

    def start(self, index: int) -> None:
        """Records that a file is begun."""
        self._add({"start": index})

    def finish(self, record: Record) -> None:
        """Records the outcome of a file, after its result was written."""
        self.finished[record.index] = record
        self._add({"done": dataclasses.asdict(record)})

    def die(self, index: int, how: str) -> None:
        """Records that a process which restored a file alone has died."""
        self.deaths[index].append(how)
        self._add({"death": index, "how": how}, at_once=True)

    def _take(self, line: bytes) -> None:
        """Reads an event; ignores a line that a killed process left half-written."""
        try:
            event = json.loads(line)
            if "start" in event:
                self.suspects.add(event["start"])
            elif "done" in event:
                record = Record(**event["done"])
                self.finished[record.index] = record
                self.suspects.discard(record.index)
            elif "death" in event:
                self.deaths[event["death"]].append(event["how"])
        except (ValueError, TypeError):
            return

    @abstractmethod
    def _add(self, event: dict[str, Any], *, at_once: bool = False) -> None:
        """Writes an event, immediately or together with later ones."""

    @abstractmethod
    def remove(self) -> None:
        """Deletes the journal, once the report is written."""


@contextlib.contextmanager
def open_journal(store: Store, shard: int) -> Iterator[Journal | None]:
    """Opens the journal of a shard.

    Args:
        store: the target of the archive.
        shard: number of the shard.

    Yields:
        The journal; None if another process of this machine works on the shard.
    """
    name = f"{JOURNALS}/shard-{shard:08}"
    if not isinstance(store, LocalStore):
        journal = _ObjectJournal(store, name)
        try:
            yield journal
        finally:
            journal.flush()
        return
    path = store.path(f"{name}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", buffering=0) as file:
        if not _take_lock(file.fileno()) or not path.exists():
            yield None
            return
        file.seek(0)
        yield _FileJournal(path, file)


def journaled_shards(store: Store) -> list[int]:
    """Returns the shards whose journal is in a folder of this machine."""
    names = store.names(JOURNALS) if store.is_local else []
    return [int(name[6:14]) for name in names if name.endswith(".jsonl")]


def finished_files(store: LocalStore, shard: int) -> int:
    """Returns how many files are done in a shard that has no report yet."""
    try:
        return store.read(f"{JOURNALS}/shard-{shard:08}.jsonl").count(b'{"done"')
    except FileNotFoundError:
        return 0


def _take_lock(handle: int) -> bool:
    """Locks a file until it is closed; returns False if another process holds the lock."""
    if not _has_locks:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # file systems without locks
        return True
    return True


class _FileJournal(Journal):
    """A journal in one file of lines."""

    def __init__(self, path: Path, file: Any) -> None:
        content = file.read()
        super().__init__(iter(content.splitlines()))
        self._path, self._file = path, file
        if content and not content.endswith(b"\n"):
            self._file.write(b"\n")

    def _add(self, event: dict[str, Any], *, at_once: bool = False) -> None:
        with self._lock:
            os.write(self._file.fileno(), json.dumps(event).encode() + b"\n")

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


class _ObjectJournal(Journal):
    """A journal in several objects of lines, below a prefix."""

    def __init__(self, store: Store, prefix: str) -> None:
        names = [f"{prefix}/{name}" for name in store.names(prefix)]
        super().__init__(line for name in names for line in store.read(name).splitlines())
        self._store, self._prefix = store, prefix
        self._careful = bool(names)
        self._attempt = f"{time.time_ns():020}-{secrets.token_hex(4)}"
        self._lines: list[bytes] = []
        self._written = 0
        self._last = time.monotonic()
        self._add({"begun": time.time()}, at_once=True)

    def _add(self, event: dict[str, Any], *, at_once: bool = False) -> None:
        with self._lock:
            self._lines.append(json.dumps(event).encode())
            waited = time.monotonic() - self._last > _SECONDS
            if at_once or self._careful or waited or len(self._lines) >= _LINES:
                self._write()

    def flush(self) -> None:
        """Writes the lines not yet written, unless the journal was removed."""
        with self._lock:
            if self._lines:
                self._write()

    def remove(self) -> None:
        with self._lock:
            self._lines.clear()
            self._store.remove(self._prefix)

    def _write(self) -> None:
        name = f"{self._prefix}/{self._attempt}-{self._written:06}.jsonl"
        self._store.publish(name, b"\n".join(self._lines))
        self._lines.clear()
        self._written += 1
        self._last = time.monotonic()
