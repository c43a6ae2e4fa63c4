"""Proves that an archive is whole: each file has its result, with the bytes that were recorded."""

import dataclasses
import hashlib
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmcnn_jax.archives.pictures import fetch
from dmcnn_jax.archives.plan import SHARDS_A_PART, Archive, Row
from dmcnn_jax.archives.reports import Record, read_report, shards_with_reports
from dmcnn_jax.restoration.verification import Verdict, verify

_SHOWN = 20


@dataclasses.dataclass
class Proof:
    """What a verification found.

    Attributes:
        files: of the plan.
        written: results whose bytes have the digest recorded.
        failed: files that were recorded as failed.
        counted: results whose coefficients were counted anew.
        problems: number of files that are not as they should be.
        examples: lines about the first of these.
    """

    files: int
    written: int = 0
    failed: int = 0
    counted: int = 0
    problems: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether each file has its result, or the reason why it has none."""
        return not self.problems and self.written + self.failed == self.files

    def add_problem(self, line: str, files: int = 1) -> None:
        """Counts a problem."""
        self.problems += files
        if len(self.examples) < _SHOWN:
            self.examples.append(line)

    def lines(self) -> list[str]:
        """Returns the same for people."""
        hidden = self.problems - len(self.examples)
        rest = [f"and more: {hidden} files"] if hidden > 0 else []
        verdict = "passed" if self.passed else "FAILED"
        return [
            *self.examples,
            *rest,
            f"{verdict}: {self.written:,} of {self.files:,} files have their result as recorded,"
            f" {self.failed:,} are recorded as failed, {self.problems:,} are not as they should be;"
            f" coefficients of {self.counted:,} counted anew",
        ]

    def to_json(self) -> dict[str, Any]:
        """Returns the same for programs."""
        return dataclasses.asdict(self) | {"passed": self.passed}


def verify_archive(
    archive: Archive,
    sample: int | None = 100,
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Proof:
    """Compares an archive with its plan and its reports.

    Args:
        archive: the archive.
        sample: results whose coefficients are counted anew; None: all.
        seed: which are in the sample.
        progress: called with the number of files compared so far.

    Returns:
        What was found.
    """
    plan = archive.plan
    proof = Proof(plan.files)
    share = 1.0 if sample is None else sample / plan.files
    rng = random.Random(seed)
    done: set[int] = set()
    for shard in range(plan.shards):
        if shard % SHARDS_A_PART == 0:
            done = set(shards_with_reports(archive.target, shard // SHARDS_A_PART))
        if shard not in done:
            proof.add_problem(f"shard {shard}: no report yet", plan.rows_in(shard))
            continue
        _verify_shard(archive, shard, proof, lambda: rng.random() < share)
        if progress:
            progress(proof.written + proof.failed + proof.problems)
    return proof


def _verify_shard(
    archive: Archive, shard: int, proof: Proof, is_chosen: Callable[[], bool]
) -> None:
    """Compares the files of a shard with its report."""
    records = {record.index: record for record in read_report(archive.target, shard)}
    for row in archive.rows(shard):
        record = records.get(row.number)
        if record is None or record.path != row.path:
            proof.add_problem(f"{row.path}: not in the report of shard {shard}")
        elif record.status == "failed":
            proof.failed += 1
        elif problem := _check(archive, row, record, proof, is_chosen()):
            proof.add_problem(f"{record.output}: {problem}")
        else:
            proof.written += 1


def _check_output(archive: Archive, record: Record) -> str:
    """Returns what is wrong with a result's bytes, "" if nothing is."""
    try:
        data = archive.target.read(record.output)
    except FileNotFoundError:
        return "missing"
    if hashlib.sha256(data).hexdigest() != record.output_sha256:
        return "other bytes than were written"
    return ""


def _check(archive: Archive, row: Row, record: Record, proof: Proof, chosen: bool) -> str:
    """Returns what is wrong with a result, "" if nothing is; counts what was counted anew."""
    problem = _check_output(archive, record)
    if problem or not chosen:
        return problem
    proof.counted += 1
    return _count_anew(archive, row, record)


def _count_anew(archive: Archive, row: Row, record: Record) -> str:
    """Returns what is wrong with a result's coefficients, or with its file, "" if nothing is."""
    original = fetch(archive, row)
    if hashlib.sha256(original).hexdigest() != record.input_sha256:
        return f"{row.path} is not the file that was restored"
    if record.kept is None:
        return ""
    options = archive.plan.options
    with tempfile.TemporaryDirectory(prefix="dmcnn-archive-") as folder:
        before = Path(folder) / "original.jpg"
        after = Path(folder) / f"result{os.path.splitext(record.output)[1]}"
        before.write_bytes(original)
        after.write_bytes(archive.target.read(record.output))
        verdict = verify(
            before,
            after,
            max_pixels=options.max_pixels,
            allow_truncated=options.allow_truncated,
        )
    if verdict.passed:
        return ""
    # Of some files, fewer coefficients can be kept than is guaranteed: as many as were recorded.
    recorded = record.kept / record.coefficients if record.coefficients else 0.0
    if isinstance(verdict, Verdict) and verdict.luma.inner.share >= recorded:
        return ""
    return "keeps fewer of its file's coefficients than it should"
