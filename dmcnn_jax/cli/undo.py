"""Runs `dmcnn-restore --undo`: puts back the originals that `--in-place` kept."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from dmcnn_jax.cli.in_place import parse_originals, plan_undo
from dmcnn_jax.cli.originals import put_back, replace_keeping_original
from dmcnn_jax.cli.process import UsageError, first_line, say
from dmcnn_jax.cli.restore_planning import Task
from dmcnn_jax.cli.restore_report import check_report, write_json
from dmcnn_jax.jpeg.errors import JpegError
from dmcnn_jax.jpeg.provenance import is_as_written, read_certificate
from dmcnn_jax.jpeg.recovery import recover_original
from dmcnn_jax.system.printable import printable

_COMMAND = "dmcnn-restore"
Status = Literal["undone", "skipped", "failed"]
_STATUSES: tuple[Status, ...] = ("undone", "skipped", "failed")


def undo(options: argparse.Namespace) -> int:
    """Puts originals back, writes the report and returns the exit status.

    No network is loaded.

    Args:
        options: of the command.

    Raises:
        UsageError: if there is nothing to put back, or the report can't be written.
    """
    started = time.perf_counter()
    originals = parse_originals(options.originals)
    planned = plan_undo(options.inputs, originals)
    if not planned.tasks:
        raise UsageError(f"no JPEG files in {', '.join(options.inputs)}")
    paths = [p for t in planned.tasks for p in (t.source, t.target, t.original) if p]
    check_report(options.json, paths)
    if not options.quiet:
        for line in planned.remarks:
            say(_COMMAND, printable(line))
    records: list[dict[str, str | None]] = []
    counts = dict.fromkeys(_STATUSES, 0)
    silent = True if options.quiet else None  # None: shown on terminals only
    for task in (bar := tqdm(planned.tasks, unit="file", disable=silent)):
        status, text = _undo_one(task, originals.inside, options.max_pixels)
        counts[status] += 1
        if status == "failed" or not options.quiet:
            before = {"undone": "put back from ", "skipped": "skipped: ", "failed": ""}[status]
            bar.write(f"{_COMMAND}: {task.shown}: {before}{printable(text)}", file=sys.stderr)
        if options.json:
            records.append(_record(task, status, text))
    seconds = time.perf_counter() - started
    if not options.quiet and len(planned.tasks) > 1:
        words = {"undone": "put back", "skipped": "skipped", "failed": "failed"}
        parts = [f"{number} {words[status]}" for status, number in counts.items() if number]
        say(_COMMAND, f"{', '.join(parts)}, in {seconds:.1f} s")
    if options.json:
        summary = counts | {"seconds": round(seconds, 3)}
        write_json(options.json, {"files": records, "summary": summary})
    return 1 if counts["failed"] else 0


def _undo_one(task: Task, inside: bool, max_pixels: int) -> tuple[Status, str]:
    """Returns the outcome for a file, and the reason or the place of its original.

    Args:
        task: the file, and the possible place of its original.
        inside: whether the original may be inside the file.
        max_pixels: size limit of a picture whose original is inside it.
    """
    if task.refusal:
        return "failed", task.refusal
    if task.skip:
        return "skipped", task.skip
    assert task.target is not None and task.original is not None  # neither refused nor skipped
    try:
        if inside and not os.path.lexists(task.original):
            return _undo_from_inside(task.target, max_pixels)
        if reason := _describe_obstacle(task.target, task.original):
            return "failed", reason
        if not os.path.lexists(task.original):
            return "skipped", f"nothing to undo: no certificate, and no {task.original}"
        put_back(task.target, task.original)
    except (OSError, ValueError) as error:
        return "failed", first_line(error).removeprefix(f"{task.name}: ")
    return "undone", str(task.original)


def _undo_from_inside(path: Path, max_pixels: int) -> tuple[Status, str]:
    """Returns the outcome for a file whose original is inside it, and the reason or "inside"."""
    data = path.read_bytes()
    certificate = read_certificate(data)
    if certificate is None:
        return "skipped", "nothing to undo: no certificate, and no original beside it"
    try:
        original = recover_original(data, max_pixels=max_pixels)
    except JpegError as error:
        return "failed", str(error).removeprefix("<bytes>: ")
    replace_keeping_original(path, None, data, original)
    return "undone", "inside"


def _describe_obstacle(path: Path, original: Path) -> str:
    """Returns why a file's original must not or can't replace it; "" if it may, or is absent."""
    data = path.read_bytes()
    certificate = read_certificate(data)
    if not os.path.lexists(original):
        if certificate is None:
            return ""
        return f"no original to put back: {original} doesn't exist; --originals names the place"
    if original.is_symlink() or not original.is_file():
        return f"{original} is not a regular file"
    kept = original.read_bytes()
    if kept == data:
        return ""  # kept by a run that was interrupted before it replaced the file
    by_hand = f"to lose the changes, rename {original} yourself"
    if certificate is None:
        return f"its picture was changed since, or never restored; {by_hand}"
    if not certificate.is_of(kept):
        return f"{original} is not the file that it was restored from"
    if not is_as_written(data, kept):
        return f"its metadata were changed since it was restored; {by_hand}"
    return ""


def _record(task: Task, status: Status, text: str) -> dict[str, str | None]:
    """Returns the entry of a file in the report."""
    key = {"undone": "original", "skipped": "reason", "failed": "error"}[status]
    return {"input": task.name, "output": task.output, "status": status, key: text}
