"""The state of an archive: files done and failed, reasons, rate, and time left."""

import collections
import concurrent.futures
import dataclasses
import time
from collections.abc import Iterable, Iterator
from typing import Any

from dmcnn_jax.archives.journal import finished_files, journaled_shards
from dmcnn_jax.archives.plan import SHARDS_A_PART, Archive
from dmcnn_jax.archives.reports import Summary, read_summary, shards_with_reports
from dmcnn_jax.archives.storage import LocalStore

_WINDOW = 3600  # seconds over which the rate is measured
_READERS = 16  # reports that are read at a time from a remote storage


@dataclasses.dataclass
class Status:
    """The state of an archive.

    Attributes:
        files: number of files in the plan.
        shards: number of shards in the plan.
        done_shards: number of shards with a report.
        counts: number of files in these shards, by status.
        reasons: number of failed files, by reason.
        pixels: total pixels of the files written.
        begun_files: number of finished files in shards without a report, where the journal is on
            this machine.
        files_per_second, pixels_per_second: rates over the last hour of work; 0 if nothing was
            done.
    """

    files: int
    shards: int
    done_shards: int = 0
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    pixels: int = 0
    begun_files: int = 0
    files_per_second: float = 0.0
    pixels_per_second: float = 0.0

    @property
    def done_files(self) -> int:
        """Number of files in shards with a report."""
        return self.counts.total()

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the remaining files take at this rate; None if the rate is unknown."""
        left = self.files - self.done_files - self.begun_files
        if not left:
            return 0.0
        return left / self.files_per_second if self.files_per_second else None

    def lines(self) -> list[str]:
        """Returns the state as lines of text."""
        parts = [f"{self.counts[name]:,} {name}" for name in ("restored", "decoded", "failed")]
        share = (self.done_files + self.begun_files) / self.files
        lines = [
            f"shards: {self.done_shards:,} of {self.shards:,} done",
            f"files: {self.done_files:,} of {self.files:,} done ({', '.join(parts)}),"
            f" {self.begun_files:,} more in shards under way: {share:.1%}",
            f"rate: {self.files_per_second:.2f} files and {self.pixels_per_second / 1e6:.2f}"
            " megapixels a second over the last hour of work",
        ]
        if self.done_shards < self.shards:
            left = self.seconds_left
            lines.append(f"left: {'unknown' if left is None else describe_seconds(left)}")
        lines += [f"failed: {count:,} × {reason}" for reason, count in self.reasons.most_common()]
        return lines

    def to_json(self) -> dict[str, Any]:
        """Returns the state as JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        # `dataclasses.asdict` can't copy a Counter.
        counters = {"counts": dict(self.counts), "reasons": dict(self.reasons)}
        return values | counters | {"seconds_left": self.seconds_left}


def read_status(archive: Archive, now: float | None = None) -> Status:
    """Returns the state of an archive; may be called while it is restored.

    Args:
        archive: the archive.
        now: seconds since 1970; None: the current time.
    """
    plan = archive.plan
    status = Status(plan.files, plan.shards)
    recent = _Recent(time.time() if now is None else now)
    done: set[int] = set()
    for part in range(-(-plan.shards // SHARDS_A_PART)):
        found = shards_with_reports(archive.target, part)
        done.update(found)
        for summary in _read_summaries(archive, found):
            status.done_shards += 1
            status.counts.update(summary.counts)
            status.reasons.update(summary.reasons)
            status.pixels += summary.pixels
            recent.add(summary)
    if isinstance(archive.target, LocalStore):
        begun = [shard for shard in journaled_shards(archive.target) if shard not in done]
        status.begun_files = sum(finished_files(archive.target, shard) for shard in begun)
    status.files_per_second, status.pixels_per_second = recent.rates()
    return status


class _Recent:
    """The reports of the last hour of work.

    Args:
        now: seconds since 1970.
    """

    def __init__(self, now: float) -> None:
        self._now, self._kept = now, collections.deque[tuple[float, float, int, int]]()
        self._latest = 0.0

    def add(self, summary: Summary) -> None:
        self._latest = max(self._latest, min(summary.ended, self._now))
        if summary.ended > self._latest - _WINDOW:
            self._kept.append((summary.began, summary.ended, summary.files, summary.pixels))

    def rates(self) -> tuple[float, float]:
        """Returns files per second and pixels per second."""
        kept = [each for each in self._kept if each[1] > self._latest - _WINDOW]
        if not kept:
            return 0.0, 0.0
        began = max(min(each[0] for each in kept), self._latest - 2 * _WINDOW)
        seconds = max(self._latest - began, 1e-3)
        return sum(each[2] for each in kept) / seconds, sum(each[3] for each in kept) / seconds


def _read_summaries(archive: Archive, shards: Iterable[int]) -> Iterator[Summary]:
    def read(shard: int) -> Summary:
        return read_summary(archive.target, archive.plan.id, shard)

    if archive.target.is_local:
        yield from map(read, shards)
        return
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(read, shards)


def describe_seconds(seconds: float) -> str:
    """Returns a duration as text, such as "3 h 20 min"."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if days >= 2:
        return f"{days:.1f} days"
    if hours >= 1:
        return f"{int(hours)} h {int(minutes) % 60} min"
    return f"{int(minutes)} min {int(seconds) % 60} s" if minutes >= 1 else f"{seconds:.0f} s"
