"""The command `dmcnn-restore`: files and folders of JPEG files in, restored pictures out."""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import gc
import json
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dmcnn_jax.system.atomic_write import replacing
from dmcnn_jax.system.compile_cache import keep_compiled
from dmcnn_jax.system.malloc import keep_memory

_EXAMPLES = """examples:
  dmcnn-restore photo.jpg                           photo-restored.png beside it
  dmcnn-restore photo.jpg -o photo.tif              PNG, TIFF, WebP or JPEG, by extension
  dmcnn-restore photo.jpg holiday/ -o cleaned/      folders too, their structure mirrored
  dmcnn-restore holiday/ -o cleaned/ --bits 16      PNG files of 16 bits
  dmcnn-restore - < photo.jpg > photo.png
  dmcnn-restore meme.jpg --assume-quality 30        was saved twice, first at 30
  dmcnn-restore --serve                             a page to drop files on
  dmcnn-restore --verify photo.jpg photo.png        could one be the original of the other?

exit status: 0 all went well, 1 some file failed (or --verify found less than is guaranteed),
2 the command makes no sense, 130 interrupted. Files that exist are left alone and not counted as
failures, unless --overwrite. Inputs are never written over.

What was compiled is kept in the user's cache folder, so that the next start is quick;
DMCNN_JAX_CACHE names another folder or, if it is empty, keeps nothing.
"""

_JPEG_EXTENSIONS = {".jpg", ".jpeg", ".jpe", ".jfif"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: its arguments; by default those of the process.

    Returns:
        The exit status.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.serve is not None:
        if options.inputs or options.output:
            parser.error("--serve takes no files; they are dropped on its page")
    elif options.verify:
        if options.inputs:
            parser.error("--verify takes two files and no others")
    elif not options.inputs:
        parser.error("nothing to restore; name files or folders, or - for standard input")
    interrupter = _Interrupter()
    previous = signal.signal(signal.SIGTERM, interrupter)
    try:
        if not options.verify:
            keep_memory()
            keep_compiled()
        if options.device:
            import jax

            jax.config.update("jax_platforms", options.device)
            jax.devices()  # fails, if it does, here
        if options.serve is not None:
            return _serve(options)
        return _verify(options) if options.verify else _Run(options).run()
    except KeyboardInterrupt:
        _say("interrupted; what was finished is whole, nothing else was written")
        return 130
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        _say(_one_line(error))
        return 2 if isinstance(error, UsageError) else 1
    finally:
        interrupter.stop()
        signal.signal(signal.SIGTERM, previous)


class UsageError(ValueError):
    """A command that makes no sense."""


@dataclasses.dataclass(eq=False)
class Task:
    """One file to restore.

    Attributes:
        source: its path, None for standard input.
        target: where to, None for standard output.
        refusal: why not, if so.
        skip: why it need not be.
    """

    source: Path | None
    target: Path | None
    refusal: str = ""
    skip: str = ""

    @property
    def name(self) -> str:
        """What to call it."""
        return "<standard input>" if self.source is None else str(self.source)

    @property
    def shown(self) -> str:
        """The same for terminals."""
        from dmcnn_jax.jpeg.reader import printable

        return printable(self.name)


def plan(
    inputs: Sequence[str], output: str | None, extension: str, overwrite: bool = False
) -> list[Task]:
    """Which files are restored to where.

    Args:
        inputs: files, folders, "-".
        output: a folder, a file, "-", or None.
        extension: of files that are written to folders, with its dot.
        overwrite: whether files that exist are replaced.

    Returns:
        Tasks in order of the inputs, files of a folder sorted.

    Raises:
        UsageError: if inputs and output don't fit each other.
    """
    folders = [Path(i) for i in inputs if i != "-" and Path(i).is_dir()]
    if output == "":
        raise UsageError("-o ''; expected a folder, a file or -")
    if "-" in inputs and len(inputs) > 1:
        raise UsageError("standard input goes alone; expected '-' to be the only input")
    if output == "-" and (len(inputs) > 1 or folders):
        raise UsageError("standard output takes one picture; name a folder with -o")
    if folders and output is None:
        raise UsageError(f"{str(folders[0])!r} is a folder; say with -o where its pictures go")
    to_file = (
        output not in (None, "-")
        and not folders
        and len(inputs) == 1
        and not output.endswith(("/", os.sep))
        and not Path(output).is_dir()
        and Path(output).suffix != ""
    )
    if output not in (None, "-") and not to_file and Path(output).is_file():
        raise UsageError(f"-o {output!r} is a file; expected a folder for several pictures")
    tasks = []
    for each in inputs:
        if each == "-":
            target = None if output in (None, "-") else Path(output)
            target = target if to_file or target is None else target / f"restored{extension}"
            tasks.append(Task(None, target))
        elif Path(each) in folders:
            for path in _jpegs(Path(each), Path(output)):
                inside = path.relative_to(each).with_suffix(extension)
                tasks.append(Task(path, Path(output) / inside))
        elif output == "-":
            tasks.append(Task(Path(each), None))
        elif output is None:
            path = Path(each)
            tasks.append(Task(path, path.with_name(f"{path.stem}-restored{extension}")))
        else:
            target = Path(output) if to_file else Path(output) / f"{Path(each).stem}{extension}"
            tasks.append(Task(Path(each), target))
    _check(tasks, overwrite)
    return tasks


def _jpegs(folder: Path, output: Path) -> Iterator[Path]:
    """JPEG files below a folder, sorted, but for those below the output."""
    output = output.resolve()
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if (Path(path) / f).resolve() != output)
        for name in sorted(files):
            if Path(name).suffix.lower() in _JPEG_EXTENSIONS:
                yield Path(path) / name


def _check(tasks: list[Task], overwrite: bool) -> None:
    """Finds what must not be written, before anything is."""
    sources = {os.path.realpath(task.source): task.source for task in tasks if task.source}
    taken: dict[str, Task] = {}
    for task in tasks:
        if task.target is None:
            continue
        real = os.path.realpath(task.target)
        if real in sources:
            task.refusal = (
                f"its result would overwrite the input {sources[real]}; choose another -o"
            )
        elif real in taken:
            task.refusal = f"its result would overwrite that of {taken[real].name} ({task.target})"
        else:
            taken[real] = task
            if task.target.is_dir():
                task.refusal = f"its result would be {task.target}, which is a folder"
            elif task.target.exists() and not overwrite:
                task.skip = f"{task.target} exists; --overwrite replaces it"


class _Run:
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
                suffix: formats.style_of(suffix, options.quality, options.bits)
                for suffix in {(t.target.suffix if t.target else extension) for t in tasks}
            }
        except ValueError as error:
            raise UsageError(str(error)) from None
        if options.json == "-" and any(task.target is None for task in tasks):
            raise UsageError("--json - and the picture can't both go to standard output")
        if any(t.target is None for t in tasks) and sys.stdout.isatty():
            raise UsageError("standard output is a terminal; redirect it, or name a file with -o")
        _check_report(options.json, [p for t in tasks for p in (t.source, t.target) if p])
        self.jpeg, self.formats = jpeg, formats
        self.default_style = self.styles.get(extension)
        self.tasks = tasks
        self.records: dict[int, dict[str, Any]] = {}  # by number of the task
        try:
            self.restorer = Restorer(options.weights, **_restoring(options))
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
            return self.restorer.planes(reading.result(), progress)
        except Exception as error:
            self._fail(task, error)
            return None
        finally:
            self.bar.update(1 - done)

    def _write(self, task: Task, planes: Any, began: float) -> None:
        try:
            result = self.restorer.picture(planes)
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
            "sampling": [list(c.step) for c in file.components],
            "table_quality": result.quality,
            "notes": [*result.notes, *remarks],
            "seconds": round(time.perf_counter() - began, 3),
        }
        if result.earlier is not None:
            about["earlier"] = {
                "quality": result.earlier.quality,
                "grid": [result.earlier.left, result.earlier.top],
                "assumed": self.options.assume_quality is not None,
            }
        for plane, kept in (("luma", result.kept), ("chroma", result.chroma_kept)):
            if kept is not None:
                about[f"{plane}_kept"] = dataclasses.asdict(kept) | {"share": kept.share}
        self._record(task, "restored" if result.model else "decoded", **about)

    def _fail(self, task: Task, error: Exception) -> None:
        message = _one_line(error)
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
            _say(f"{', '.join(parts)}, in {seconds:.1f} s")
        if self.options.json:
            _write_json(self.options.json, {"files": records, "summary": summary})
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


def _restoring(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of a `Restorer`."""
    names = (
        "strength",
        "project",
        "bits",
        "detect",
        "assume_quality",
        "grid",
        "size",
        "ensemble",
        "engine",
    )
    return {name: getattr(options, name) for name in names}


def _serve(options: argparse.Namespace) -> int:
    from dmcnn_jax import serve
    from dmcnn_jax.restoration.restorer import Restorer

    restorer = Restorer(options.weights, **_restoring(options))
    limits = {"max_pixels": options.max_pixels, "allow_truncated": options.allow_truncated}
    serve.serve(serve.restoring(restorer, **limits), port=options.serve)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from dmcnn_jax.restoration.verification import verify

    _check_report(options.json, options.verify)
    limits = {"max_pixels": options.max_pixels, "allow_truncated": options.allow_truncated}
    verdict = verify(*options.verify, **limits)
    if options.json:
        _write_json(options.json, verdict.to_json())
    if not options.quiet and options.json != "-":
        print("\n".join(verdict.lines()))
    return 0 if verdict.passed else 1


def _check_report(path: str | None, pictures: Sequence[str | os.PathLike]) -> None:
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


def _write_json(path: str, content: dict[str, Any]) -> None:
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


class _Interrupter:
    """Handles a signal: interrupts the main thread.

    An exception that a garbage collector's callback raises is dropped, and JAX has one that takes
    its time. A signal that comes during one is sent again until it gets through: one that comes
    just before the main thread waits for something would not end the waiting.
    """

    def __init__(self):
        self._over = threading.Event()
        self._again: threading.Thread | None = None

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
        while frame is not None:
            if frame.f_code in callbacks:
                if self._again is None:
                    self._again = threading.Thread(target=self._send, args=(number,), daemon=True)
                    self._again.start()
                return
            frame = frame.f_back
        self.stop()
        raise KeyboardInterrupt

    def stop(self) -> None:
        """Sends nothing again."""
        self._over.set()

    def _send(self, number: int) -> None:
        while not self._over.wait(0.05):
            signal.pthread_kill(threading.main_thread().ident, number)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    text = " ".join(str(error).split())
    for name, option in _OPTIONS.items():
        text = text.replace(name, option)
    return text or type(error).__name__


# What messages of the library call arguments, and the command options.
_OPTIONS = {"allow_truncated=True": "--allow-truncated", "max_pixels": "--max-pixels"}


def _say(text: str) -> None:
    print(f"dmcnn-restore: {text}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dmcnn-restore",
        description="Removes JPEG artifacts from photographs.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("inputs", nargs="*", metavar="INPUT", help="JPEG files; folders, recursively; - for stdin")
    add(
        "-o",
        "--output",
        metavar="PATH",
        help="a folder; for one input also a file, whose extension says its type, or - for stdout",
    )
    add(
        "--format",
        default="png",
        metavar="EXT",
        help="type of files in folders: png, tif, webp, jpg (default: %(default)s)",
    )
    add("--bits", type=int, choices=(8, 16), default=8, help="bits of a sample; 16 for PNG, TIFF")
    add(
        "--quality",
        type=_number(int, 1, 100),
        metavar="Q",
        help="of JPEG (default: 95) and WebP (default: without loss)",
    )
    add("--overwrite", action="store_true", help="replace results that exist (default: skip)")
    add(
        "--weights",
        "--model",
        metavar="NAME",
        help="a bundled model, a weights file or a workdir (default: the bundled model trained for"
        " tables like the file's; files that none is trained for are left as decoded)",
    )
    add(
        "--size",
        choices=("auto", "fast", "full"),
        default="auto",
        help="of the bundled model: fast, or full, which is better (default: full where there is an"
        " accelerator or OpenVINO)",
    )
    add(
        "--strength",
        type=_number(float, 0, 1),
        default=1.0,
        metavar="S",
        help="from 0, as decoded, to 1, all the way (default)",
    )
    add(
        "--ensemble",
        action="store_true",
        help="average over the picture turned and mirrored in eight ways: a little better, eight"
        " times slower",
    )
    add(
        "--no-project",
        dest="project",
        action="store_false",
        help="don't keep luma where it quantises to the file's coefficients",
    )
    add(
        "--no-detect",
        dest="detect",
        action="store_false",
        help="don't look for an earlier, coarser save that a later one has hidden",
    )
    add(
        "--assume-quality",
        type=_number(int, 1, 100),
        metavar="Q",
        help="take it that the pictures were saved before at this quality",
    )
    add(
        "--grid",
        type=_grid,
        metavar="X,Y",
        help="where the blocks of that earlier save begin, pixels from the left and top, 0 to 7",
    )
    add(
        "--device", choices=("cpu", "cuda", "tpu"), help="where to run (default: the best there is)"
    )
    add(
        "--engine",
        choices=("auto", "jax", "openvino", "openvino-float32", "openvino-bfloat16"),
        default="auto",
        help="what computes the layers: openvino is quicker on CPUs, in bfloat16 on those that have"
        " it (default: openvino on a CPU, if it is installed, else jax)",
    )
    add("--allow-truncated", action="store_true", help="restore what there is of damaged files")
    add(
        "--max-pixels",
        type=_number(int, 1, 2**32),
        default=200_000_000,
        metavar="N",
        help="refuse larger pictures (default: 200 million)",
    )
    add("--json", metavar="PATH", help="write a report for programs; - for stdout")
    add("-q", "--quiet", action="store_true", help="say nothing but errors")
    add(
        "--verify",
        nargs=2,
        metavar=("ORIGINAL", "RESTORED"),
        help="quantise a restored picture by the tables of the JPEG file it comes from",
    )
    add(
        "--serve",
        nargs="?",
        type=_number(int, 0, 65535),
        const=0,
        metavar="PORT",
        help="show a page, for this computer only, to drop JPEG files on (default: any free port)",
    )
    return parser


def _grid(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part in "01234567" and len(part) == 1 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}; expected two offsets from 0 to 7, as in 3,5")
    return int(parts[0]), int(parts[1])


def _number(kind: type, low: float, high: float):
    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r}; expected a number from {low} to {high}")
        return value

    return parse
