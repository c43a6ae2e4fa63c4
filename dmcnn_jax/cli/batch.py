"""Restores many files: one is read and one is written while another is restored."""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from dmcnn_jax.cli.arguments import restore_options
from dmcnn_jax.cli.messages import UsageError, first_line, say
from dmcnn_jax.cli.planning import Task, plan
from dmcnn_jax.system.atomic_write import replacing


class BatchRun:
    """One run of the command: files are read and written while the device works on another."""

    def __init__(self, options: argparse.Namespace):
        from dmcnn_jax import jpeg
        from dmcnn_jax.images import formats
        from dmcnn_jax.restoration.restorer import Restorer

        self.options = options
        extension = "." + options.format.lstrip(".")
        if extension.lower() not in formats.FORMATS:
            raise UsageError(
                f"--format {options.format!r}; expected one of: {', '.join(formats.FORMATS)}"
            )
        tasks = plan(options.inputs, options.output, extension, options.overwrite)
        if not tasks:
            raise UsageError(f"no JPEG files in {', '.join(options.inputs)}")
        try:
            self.styles = {
                suffix: formats.output_format(suffix, options.quality, options.bits)
                for suffix in {(t.target.suffix if t.target else extension) for t in tasks}
            }
        except ValueError as error:
            raise UsageError(str(error)) from None
        if options.json == "-" and any(task.target is None for task in tasks):
            raise UsageError("--json - and the picture can't both go to standard output")
        if any(t.target is None for t in tasks) and sys.stdout.isatty():
            raise UsageError("standard output is a terminal; redirect it, or name a file with -o")
        check_report(options.json, [p for t in tasks for p in (t.source, t.target) if p])
        self.jpeg, self.formats = jpeg, formats
        self.default_style = self.styles.get(extension)
        self.tasks = tasks
        self.records: dict[int, dict[str, Any]] = {}  # by number of the task
        try:
            self.restorer = Restorer(options.weights, restore_options(options))
        except ValueError as error:
            raise UsageError(str(error)) from None

    def run(self) -> int:
        """All files, then the report."""
        from tqdm import tqdm

        start = time.perf_counter()
        with contextlib.ExitStack() as stack:
            self.bar = stack.enter_context(
                tqdm(
                    total=len(self.tasks),
                    unit="file",
                    disable=True if self.options.quiet else None,
                    bar_format="{l_bar}{bar}| {n:.1f}/{total} [{elapsed}<{remaining}]",
                )
            )
            reader = stack.enter_context(_worker())
            writer = stack.enter_context(_worker())
            todo = [t for t in self.tasks if not (t.refusal or t.skip)]
            ahead = self._begin_reading(reader, todo[0]) if todo else None
            behind = None
            for task in self.tasks:
                if task.refusal or task.skip:
                    kind = ("error", task.refusal) if task.refusal else ("reason", task.skip)
                    self._record(task, "failed" if task.refusal else "skipped", **dict([kind]))
                    self.bar.update(1)
                    continue
                began = time.perf_counter()
                current, number = ahead, todo.index(task) + 1
                # No more than one file waits to be restored, and one to be written.
                ahead = reader.submit(self._read, todo[number]) if number < len(todo) else None
                work = self._restore(task, current)
                if behind:
                    behind.result()
                behind = writer.submit(self._write, task, work, began) if work else None
            if behind:
                behind.result()
        return self._report(time.perf_counter() - start)

    def _begin_reading(self, reader: concurrent.futures.Executor, task: Task):
        if task.source is not None:
            return reader.submit(self._read, task)
        # Here: a thread that waits for a terminal can't be interrupted.
        reading: concurrent.futures.Future = concurrent.futures.Future()
        try:
            reading.set_result(self._read(task))
        except Exception as error:
            reading.set_exception(error)
        return reading

    def _read(self, task: Task):
        return self.jpeg.read(
            sys.stdin.buffer if task.source is None else task.source,
            max_pixels=self.options.max_pixels,
            allow_truncated=self.options.allow_truncated,
            name=task.name,
        )

    def _restore(self, task: Task, reading: concurrent.futures.Future):
        done = 0.0

        def progress(share: float) -> None:
            nonlocal done
            done += share
            self.bar.update(share)

        try:
            return self.restorer.restore_planes(reading.result(), progress)
        except Exception as error:
            self._fail(task, error)
            return None
        finally:
            self.bar.update(1 - done)

    def _write(self, task: Task, planes: Any, began: float) -> None:
        try:
            result = self.restorer.render(planes)
            metadata = planes.file.metadata
            if task.target is None:
                remarks = self.formats.write(
                    sys.stdout.buffer, result.pixels, metadata, self.default_style
                )
                sys.stdout.buffer.flush()
            else:
                task.target.parent.mkdir(parents=True, exist_ok=True)
                remarks = self.formats.write(
                    task.target, result.pixels, metadata, self.styles[task.target.suffix]
                )
        except Exception as error:
            self._fail(task, error)
            return
        file = planes.file
        about = {
            "model": result.model,
            "width": file.width,
            "height": file.height,
            "color": file.color,
            "sampling": [list(c.subsampling) for c in file.components],
            "table_quality": result.quality,
            "notes": [*result.notes, *remarks],
            "seconds": round(time.perf_counter() - began, 3),
        }
        if result.prior is not None:
            about["earlier"] = {
                "quality": result.prior.quality,
                "grid": [result.prior.left, result.prior.top],
                "assumed": self.options.assume_quality is not None,
            }
        for plane, tally in (("luma", result.luma_tally), ("chroma", result.chroma_tally)):
            if tally is not None:
                about[f"{plane}_kept"] = dataclasses.asdict(tally) | {"share": tally.share}
        self._record(task, "restored" if result.model else "decoded", **about)

    def _fail(self, task: Task, error: Exception) -> None:
        message = first_line(error)
        if not isinstance(error, ValueError | OSError):
            message = f"{type(error).__name__}: {message}"
        self._record(task, "failed", error=message.removeprefix(f"{task.shown}: "))

    def _record(self, task: Task, status: str, **about: Any) -> None:
        record = {
            "input": task.name,
            "output": None if task.target is None else str(task.target),
            "status": status,
        } | about
        self.records[self.tasks.index(task)] = record
        if status == "failed":
            self._say(f"{task.shown}: {record['error']}")
        elif not self.options.quiet:
            self._say(f"{task.shown}: {_describe(record)}")

    def _say(self, text: str) -> None:
        self.bar.write(f"dmcnn-restore: {text}", file=sys.stderr)

    def _report(self, seconds: float) -> int:
        records = [self.records[number] for number in sorted(self.records)]
        counts = {
            status: sum(record["status"] == status for record in records)
            for status in ("restored", "decoded", "skipped", "failed")
        }
        summary = counts | {"seconds": round(seconds, 3)}
        if not self.options.quiet and len(records) > 1:
            words = {"decoded": "left as decoded"}
            parts = [f"{n} {words.get(status, status)}" for status, n in counts.items() if n]
            say(f"{', '.join(parts)}, in {seconds:.1f} s")
        if self.options.json:
            write_json(self.options.json, {"files": records, "summary": summary})
        return 1 if counts["failed"] else 0


def _describe(record: dict[str, Any]) -> str:
    from dmcnn_jax.jpeg.reader import printable

    if record["status"] == "skipped":
        return printable(f"skipped: {record['reason']}")
    target = printable(record["output"] or "<standard output>")
    how = f"{record['model']}, " if record["model"] else "as decoded, "
    kept = record.get("luma_kept")
    guarantee = f", {kept['share']:.3%} of luma coefficients kept" if kept else ""
    notes = f" ({'; '.join(record['notes'])})" if record["notes"] else ""
    return f"{target}: {how}{record['seconds']:.1f} s{guarantee}{notes}"


def check_report(path: str | None, pictures: Sequence[str | os.PathLike]) -> None:
    """Whether a report may be written there, before all the work.

    Raises:
        UsageError: if it would overwrite a picture, or there is no such folder.
    """
    if path in (None, "-"):
        return
    real = os.path.realpath(path)
    if real in map(os.path.realpath, pictures):
        raise UsageError(f"--json {path!r} would overwrite a picture; choose another name")
    if os.path.isdir(real) or not os.path.isdir(os.path.dirname(real)):
        raise UsageError(f"--json {path!r}; expected the name of a file in a folder that exists")


def write_json(path: str, content: dict[str, Any]) -> None:
    """Writes JSON to a file, or to standard output for "-"."""
    text = json.dumps(content, indent=2) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    with replacing(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def _worker() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    """A thread that takes one thing after another; if something goes wrong, not all that waits."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
