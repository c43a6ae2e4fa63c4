"""Verifies an archive: each file has its result, with the recorded bytes."""

import dataclasses
import hashlib
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmcnn_jax.archives.errors import StorageUnavailableError
from dmcnn_jax.archives.pictures import fetch
from dmcnn_jax.archives.plan import SHARDS_A_PART, Archive, Row
from dmcnn_jax.archives.reports import Record, read_report, shards_with_reports
from dmcnn_jax.restoration.verification import Verdict, verify
from dmcnn_jax.system.messages import first_line

_SHOWN = 20


@dataclasses.dataclass
class Proof:
    """The outcome of a verification.

    Attributes:
        files: number of files in the plan.
        written: number of results whose bytes have the recorded digest.
        failed: number of files recorded as failed.
        counted: number of results whose coefficients were counted again.
        problems: number of files that differ from plan or report.
        examples: lines about the first such files.
    """

    files: int
    written: int = 0
    failed: int = 0
    counted: int = 0
    problems: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether each file has its recorded result, or a recorded reason for having none."""
        return not self.problems and self.written + self.failed == self.files

    def add_problem(self, line: str, files: int = 1) -> None:
        """Counts a problem."""
        self.problems += files
        if len(self.examples) < _SHOWN:
            self.examples.append(line)

    def lines(self) -> list[str]:
        """Returns the outcome as lines of text."""
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
        """Returns the outcome as JSON values."""
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
        sample: number of results whose coefficients are counted again; None: all.
        seed: seed that draws the sample.
        progress: called with the number of files compared so far.

    Returns:
        The outcome.

    Raises:
        StorageUnavailableError: if the storage doesn't answer.
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
    """Returns the fault of a result's bytes, or ""."""
    try:
        data = archive.target.read(record.output)
    except FileNotFoundError:
        return "missing"
    if hashlib.sha256(data).hexdigest() != record.output_sha256:
        return "other bytes than were written"
    return ""


def _check(archive: Archive, row: Row, record: Record, proof: Proof, chosen: bool) -> str:
    """Returns the fault of a result, or ""; counts results whose coefficients were counted."""
    try:
        problem = _check_output(archive, record)
        if problem or not chosen:
            return problem
        problem = _count_anew(archive, row, record)
    except StorageUnavailableError:
        raise
    except (OSError, ValueError) as error:
        return first_line(error)
    proof.counted += 1
    return problem


def _count_anew(archive: Archive, row: Row, record: Record) -> str:
    """Returns the fault of a result's coefficients, or of its input file, or ""."""
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
    # Some results keep fewer coefficients than are guaranteed: as many as their report says.
    recorded = record.kept / record.coefficients if record.coefficients else 0.0
    if isinstance(verdict, Verdict) and verdict.luma.inner.share >= recorded:
        return ""
    return "keeps fewer of its file's coefficients than it should"
