"""Shared by the drivers: the shards that are left, and the lines on a run's progress."""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator

from dmcnn_jax.archives.journal import JOURNALS, journaled_shards
from dmcnn_jax.archives.plan import SHARDS_A_PART, Archive
from dmcnn_jax.archives.reports import Summary, read_summary, shards_with_reports


@dataclasses.dataclass
class RunResult:
    """The outcome of a run.

    Attributes:
        counts: number of files in the shards that it finished, by status.
        finished: number of shards that it finished.
        left: the reason for each shard that it could not finish.
    """

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    finished: int = 0
    left: dict[int, str] = dataclasses.field(default_factory=dict)

    def add(self, summary: Summary) -> None:
        """Adds a finished shard."""
        self.finished += 1
        self.counts.update(summary.counts)


class Progress:
    """Prints a line on a run's progress at intervals.

    Args:
        say: prints a line.
        shards: number of shards to restore.
        files: number of files in these shards.
        every: seconds between lines.
    """

    def __init__(
        self, say: Callable[[str], None], shards: int, files: int, every: float = 30.0
    ) -> None:
        self._say, self._shards, self._files, self._every = say, shards, files, every
        self._began = self._last = time.monotonic()
        self._done = self._finished = 0

    def file_done(self) -> None:
        """Counts a file."""
        self._done += 1
        self._print_if_due()

    def shard_done(self, files: int = 0) -> None:
        """Counts a shard, and the files of it that were not counted one by one."""
        self._finished += 1
        self._done += files
        self._print_if_due()

    def _print_if_due(self) -> None:
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        rate = self._done / (now - self._began)
        self._say(
            f"{self._finished:,} of {self._shards:,} shards are done; {self._done:,} of"
            f" {self._files:,} files, {rate:.2f} a second"
        )


def pending_shards(
    archive: Archive, chosen: range | None = None, *, retry_failed: bool = False
) -> Iterator[int]:
    """Yields the shards that are not done, in order.

    Deletes journals left over from shards that are done.

    Args:
        archive: the archive.
        chosen: the shards to consider; None: all.
        retry_failed: whether finished shards with failed files are included.
    """
    chosen = range(archive.plan.shards) if chosen is None else chosen
    begun = set(journaled_shards(archive.target))
    part, done = -1, set[int]()
    for shard in chosen:
        if shard // SHARDS_A_PART != part:
            part = shard // SHARDS_A_PART
            done = set(shards_with_reports(archive.target, part))
        if shard in done and shard in begun and not retry_failed:
            archive.target.remove(f"{JOURNALS}/shard-{shard:08}.jsonl")
        if shard not in done or (retry_failed and _has_failures(archive, shard)):
            yield shard


def _has_failures(archive: Archive, shard: int) -> bool:
    summary = read_summary(archive.target, archive.plan.id, shard)
    return summary.counts.get("failed", 0) > 0


def share_of_shards(part: int, parts: int, shards: int) -> range:
    """Returns the shards of job `part` of `parts`, counted from 0: every `parts`-th shard."""
    return range(part, shards, parts)
