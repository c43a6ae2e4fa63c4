"""Restores many files; reads one and writes another while the device restores a third."""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING

from dmcnn_jax.cli.in_place import parse_originals, plan_in_place
from dmcnn_jax.cli.originals import make_folder, replace_keeping_original
from dmcnn_jax.cli.process import UsageError, first_line, naming_output, say
from dmcnn_jax.cli.real_paths import KnownFiles, RealPaths
from dmcnn_jax.cli.record_spool import RecordSpool
from dmcnn_jax.cli.restore_arguments import jpeg_options, restore_options
from dmcnn_jax.cli.restore_planning import Task, already_there, plan
from dmcnn_jax.cli.restore_report import (
    check_report,
    describe_counts,
    describe_file,
    write_report,
)
from dmcnn_jax.restoration.records import STATUSES, FileRecord, written_record

if TYPE_CHECKING:
    from tqdm import tqdm

    from dmcnn_jax.images.formats import OutputFormat
    from dmcnn_jax.jpeg.reader import JpegFile
    from dmcnn_jax.restoration.results import Outcome, Planes

_COMMAND = "dmcnn-restore"


class BatchRun:
    """One run of `dmcnn-restore` over its inputs.

    The constructor checks inputs, outputs and options before the first file is restored.

    Args:
        options: the command's options, from the parser of `restore_arguments.make_parser`.

    Raises:
        UsageError: if inputs, outputs and options contradict each other.
        OSError, ImportError: if the model can't be loaded.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        from dmcnn_jax.restoration.restorer import Restorer

        self.options = options
        default = "jpg" if options.in_place else "png"
        self.extension = "." + (options.format or default).lstrip(".")
        self.formats: dict[str, OutputFormat] = {}  # by extension
        self.jpeg_options = jpeg_options(options)
        self.tasks = self._plan()
        self._inputs = KnownFiles((t.source for t in self.tasks if t.source), RealPaths())
        self._index = {task: index for index, task in enumerate(self.tasks)}
        self._records = RecordSpool(len(self.tasks), keep=bool(options.json))
        try:
            self.restorer = Restorer(options.weights, restore_options(options))
        except ValueError as error:
            raise UsageError(str(error)) from None

    def run(self) -> int:
        """Restores all files, writes the report and returns the exit status."""
        from dmcnn_jax.jpeg import entropy

        start = time.perf_counter()
        with (
            self._progress_bar() as self.bar,
            _worker() as reader,
            _worker() as writer,
        ):
            try:
                self._restore_all(reader, writer)
            except KeyboardInterrupt:
                entropy.abandon()  # libjpeg may take long on the file being read
                raise
        return self._finish(time.perf_counter() - start)

    def _restore_all(
        self, reader: concurrent.futures.Executor, writer: concurrent.futures.Executor
    ) -> None:
        """Restores the files in turn, while the next is read and the previous one written."""
        upcoming = (task for task in self.tasks if not (task.refusal or task.skip))
        ahead = self._start_reading(reader, next(upcoming, None))
        writing: Future[None] | None = None
        for task in self.tasks:
            if task.refusal or task.skip:
                self._record_unprocessed(task)
                continue
            began = time.perf_counter()
            reading = ahead
            # At most one file waits to be restored, and one waits to be written.
            ahead = self._start_reading(reader, next(upcoming, None))
            planes = self._restore(task, reading)
            if writing is not None:
                writing.result()
                writing = None
            if planes is not None:
                writing = writer.submit(self._write, task, planes, began)
        if writing is not None:
            writing.result()

    def _plan(self) -> list[Task]:
        """Plans and checks outputs, their formats and the report."""
        from dmcnn_jax.images import formats

        options = self.options
        if self.extension.lower() not in formats.FORMATS:
            raise UsageError(
                f"--format {options.format!r}; expected one of: {', '.join(formats.FORMATS)}"
            )
        if options.in_place:
            planned = plan_in_place(options.inputs, parse_originals(options.originals))
        else:
            planned = plan(
                options.inputs,
                options.output,
                self.extension,
                options.overwrite,
                options.suffix,
                decoded=options.decoded,
            )
        tasks = planned.tasks
        if not tasks:
            raise UsageError(f"no JPEG files in {', '.join(options.inputs)}")
        try:
            for suffix in {self._suffix(task) for task in tasks}:
                self.formats[suffix] = formats.output_format(
                    suffix, options.quality, options.bits, upright=options.upright
                )
        except ValueError as error:
            raise UsageError(str(error)) from None
        self._check_jpeg_options()
        to_stdout = any(task.target is None and not task.refusal for task in tasks)
        if to_stdout and options.json == "-":
            raise UsageError("--json - and the picture can't both go to standard output")
        if to_stdout and sys.stdout.isatty():
            raise UsageError("standard output is a terminal; redirect it, or name a file with -o")
        check_report(
            options.json, [p for t in tasks for p in (t.source, t.target, t.original) if p]
        )
        if not options.quiet:
            for line in planned.remarks:
                say(_COMMAND, line)
        return tasks

    def _check_jpeg_options(self) -> None:
        """Checks the options that apply only to some kinds of JPEG results.

        Raises:
            UsageError: if an option doesn't apply to the results.
        """
        options = self.options
        of_coefficients = any(style.holds_coefficients for style in self.formats.values())
        if of_coefficients and options.upright:
            raise UsageError(
                "--upright turns pixels, but JPEG files hold restored coefficients; add --quality"
                " to compress the pixels anew, or leave it to viewers to turn the picture"
            )
        for name in ("budget", "subsampling"):
            if getattr(options, name) and not of_coefficients:
                raise UsageError(
                    f"--{name} is for JPEG files of restored coefficients; write one with -o"
                    " FILE.jpg or --format jpg, without --quality"
                )

    def _suffix(self, task: Task) -> str:
        """Returns the extension that gives the type of a task's result."""
        if task.target is None or self.options.in_place:
            return self.extension
        return task.target.suffix

    def _progress_bar(self) -> "tqdm":
        from tqdm import tqdm

        return tqdm(
            total=len(self.tasks),
            unit="file",
            disable=True if self.options.quiet else None,  # None: shown on terminals only
            bar_format="{l_bar}{bar}| {n:.1f}/{total} [{elapsed}<{remaining}]",
        )

    def _start_reading(
        self, reader: concurrent.futures.Executor, task: Task | None
    ) -> "Future[JpegFile] | None":
        if task is None:
            return None
        if task.source is not None and os.path.isfile(task.source):
            return reader.submit(self._read, task)
        # Read in the main thread: a thread that waits for a terminal or a pipe can't be
        # interrupted.
        reading: Future[JpegFile] = Future()
        try:
            reading.set_result(self._read(task))
        except Exception as error:
            reading.set_exception(error)
        return reading

    def _read(self, task: Task) -> "JpegFile":
        from dmcnn_jax.restoration.decoded_file import DecodedFile, read_source

        holds_coefficients = self.formats[self._suffix(task)].holds_coefficients
        file = read_source(
            sys.stdin.buffer if task.source is None else task.source,
            max_pixels=self.options.max_pixels,
            allow_truncated=self.options.allow_truncated,
            whole=holds_coefficients,
            name=task.name,
        )
        if isinstance(file, DecodedFile) and holds_coefficients:
            raise ValueError(
                "not a JPEG file, so that no JPEG file of restored coefficients can be written;"
                " expected a .png or .tif output, or --quality for a .jpg one"
            )
        return file

    def _restore(self, task: Task, reading: "Future[JpegFile] | None") -> "Planes | None":
        """Returns restored planes; if there are none to write, records why and returns None."""
        assert reading is not None  # reading began before the file's turn
        done = 0.0

        def progress(share: float) -> None:
            nonlocal done
            done += share
            self.bar.update(share)

        try:
            file = reading.result()
            redirected = self._redirect_inks(task) if len(file.components) == 4 else None
            keep_target = not (self.options.overwrite or self.options.in_place)
            if task.target and keep_target and os.path.lexists(task.target):
                self._record_skipped(task)  # another process has written the result
                done = 1.0
                return None
            planes = self.restorer.restore_planes(file, progress)
            if redirected:
                planes = dataclasses.replace(planes, notes=(*planes.notes, redirected))
            return planes
        except Exception as error:
            self._record_failure(task, error)
            return None
        finally:
            self.bar.update(1 - done)

    def _redirect_inks(self, task: Task) -> str | None:
        """Changes the target of a CMYK file to TIFF, unless the target was named or can hold CMYK.

        Returns:
            A note on the change; None if the target stays.

        Raises:
            ValueError: if the target was named, or is an input.
        """
        from dmcnn_jax.images import formats

        options = self.options
        name = formats.FORMATS[self._suffix(task).lower()]
        if name in formats.CMYK_FORMATS:
            return None
        if task.target is None or options.output == str(task.target):
            way_out = "--format tif" if task.target is None else "a .tif or .jpg file with -o"
            raise ValueError(f"a CMYK file (four inks), which {name} can't hold; use {way_out}")
        task.target = task.target.with_suffix(".tif")
        if self._inputs.find(task.target):
            raise ValueError(f"its result would overwrite the input {task.target}")
        if task.target.exists() and not options.overwrite:
            task.skip = already_there(task.target)
        self.formats[".tif"] = formats.output_format(
            ".tif", bits=options.bits, upright=options.upright
        )
        return f"a CMYK file, written as TIFF, since {name} can't hold it"

    def _write(self, task: Task, planes: "Planes", began: float) -> None:
        """Renders the result and writes it, in the writer's thread."""
        from dmcnn_jax.restoration.writing import make_result

        original: str | None = None
        try:
            style = self.formats[self._suffix(task)]
            result, write = make_result(self.restorer, planes, style, self.jpeg_options)
            if self.options.in_place and not any(result.models):
                task.skip = "; ".join(result.notes) or "nothing was restored"
                self._record_skipped(task)
                return
            if task.target is None:
                with naming_output():
                    dropped = write(sys.stdout.buffer, True)
                    sys.stdout.buffer.flush()
            elif self.options.in_place:
                dropped, original = (), self._replace(task, planes.file, result)
            else:
                make_folder(task.target.parent)
                dropped = write(task.target, self.options.overwrite)
                if self.options.preserve_times and task.source is not None:
                    times = task.source.stat()
                    os.utime(task.target, ns=(times.st_atime_ns, times.st_mtime_ns))
        except Exception as error:
            if isinstance(error, FileExistsError) and not self.options.in_place:
                self._record_skipped(task)  # the file appeared in the meantime
            else:
                self._record_failure(task, error)
            return
        seconds = time.perf_counter() - began
        assumed = self.options.assume_quality is not None
        record = written_record(
            task.name, task.output, planes.file, result, dropped, seconds, assumed=assumed
        )
        if original is not None:
            record["original"] = original
        self._record(task, record)

    def _replace(self, task: Task, file: "JpegFile", result: "Outcome") -> str:
        """Replaces a file in place and keeps its original; returns the original's place."""
        from dmcnn_jax.restoration.results import JpegRestoration

        assert task.target and task.original and isinstance(result, JpegRestoration)
        original = None if result.recoverable else task.original
        replace_keeping_original(
            task.target,
            original,
            file.data,
            result.data,
            preserve_times=self.options.preserve_times,
        )
        return "inside" if original is None else str(original)

    def _record_failure(self, task: Task, error: Exception) -> None:
        message = first_line(error)
        if not isinstance(error, ValueError | OSError):
            message = f"{type(error).__name__}: {message}"
        message = message.removeprefix(f"{task.shown}: ")
        self._record(
            task,
            {"input": task.name, "output": task.output, "status": "failed", "error": message},
        )

    def _record_unprocessed(self, task: Task) -> None:
        """Records a file that is refused or skipped."""
        if task.refusal:
            self._record_failure(task, ValueError(task.refusal))
        else:
            self._record_skipped(task)
        self.bar.update(1)

    def _record_skipped(self, task: Task) -> None:
        reason = task.skip or (already_there(task.target) if task.target else "")
        self._record(
            task,
            {"input": task.name, "output": task.output, "status": "skipped", "reason": reason},
        )

    def _record(self, task: Task, record: FileRecord) -> None:
        self._records.add(self._index[task], record)
        if record["status"] == "failed" or not self.options.quiet:
            line = f"{_COMMAND}: {task.shown}: {describe_file(record)}"
            self.bar.write(line, file=sys.stderr)

    def _finish(self, seconds: float) -> int:
        """Prints the closing line, writes the report and returns the exit status."""
        counts = self._records.counts
        if not self.options.quiet and len(self.tasks) > 1:
            say(_COMMAND, describe_counts(counts, seconds))
        if self.options.json:
            summary: dict[str, float] = {status: counts[status] for status in STATUSES}
            summary["seconds"] = round(seconds, 3)
            write_report(self.options.json, self._records.texts(), summary)
        return 1 if counts["failed"] else 0


@contextlib.contextmanager
def _worker() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    """Yields an executor with one thread; if the block fails, waiting tasks are dropped."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
