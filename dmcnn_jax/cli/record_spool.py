"""Keeps the records of a run on disk until its report is written."""

import array
import collections
import json
import tempfile
import textwrap
import threading
from collections.abc import Iterator

from dmcnn_jax.restoration.records import FileRecord, Status
from dmcnn_jax.system.atomic_write import naming_errors


class RecordSpool:
    """The records of a run's files: counted, and kept in a temporary file if a report is wanted.

    So a run's memory doesn't grow with the number of finished files.

    Args:
        files: number of files.
        keep: whether `texts` will be called.

    Attributes:
        counts: number of records of each status.
    """

    def __init__(self, files: int, *, keep: bool) -> None:
        self._lock = threading.Lock()
        self.counts: collections.Counter[Status] = collections.Counter()
        self._spool = tempfile.TemporaryFile() if keep else None  # noqa: SIM115 - until the end
        self._offsets = array.array("q", [-1]) * (files if keep else 0)

    def add(self, index: int, record: FileRecord) -> None:
        """Adds the record of a file, given by its index; any thread may call it."""
        with self._lock:
            self.counts[record["status"]] += 1
            if self._spool is not None:
                self._offsets[index] = self._spool.tell()
                with naming_errors(tempfile.gettempdir()):
                    self._spool.write(json.dumps(record).encode() + b"\n")

    def texts(self) -> Iterator[str]:
        """Yields the records as JSON, in the order of the files; nothing can be added later."""
        assert self._spool is not None
        with self._spool as spool:
            for offset in self._offsets:
                spool.seek(offset)
                record = json.loads(spool.readline())
                yield textwrap.indent(json.dumps(record, indent=2), "    ")
