"""Measures time, memory and threads of `dmcnn-restore` over many files.

    python tools/benchmark/many_files.py                      20,000 files of 16 × 8 pixels
    python tools/benchmark/many_files.py --files 2000 --every 200
    python tools/benchmark/many_files.py --engine openvino --plot memory.png
    python tools/benchmark/many_files.py --engine jax --files 5000 --plot memory.png

Without --engine, files are decoded only (`--strength 0`), so that what is measured is finding and
reading files, writing results, lines and the report. With it, 300 files of random sizes, in colour
and gray, are restored by that engine. Over the run, time for each file of a size and threads should
stay the same, and so should memory between new programs, which JAX compiles for shapes of tiles.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("many_files: interrupted")  # imports take seconds

import jax
import numpy as np
from PIL import Image

from dmcnn_jax.cli import restore
from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import command_parser
from dmcnn_jax.cli.record_spool import RecordSpool
from dmcnn_jax.cli.restore_planning import plan
from dmcnn_jax.inference.model import ENGINES
from dmcnn_jax.restoration.options import SIZES

# Files, and files to a line, when they are decoded only and when they are restored.
_DECODED, _RESTORED = (20_000, 2_000), (300, 20)

# Sides of pictures that are restored, in pixels: their logarithms are spread evenly.
_SIDES = 8, 400

Record = tuple[int, float, int, int]
"""Files that are done, resident memory in MiB, threads, and JAX's programs."""

# What JAX reports whenever it compiles a program or loads a compiled one.
_PROGRAM_EVENT = "/jax/core/compile/backend_compile_duration"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    parser.add_argument("--files", type=int, help="how many (20,000; with --engine 300)")
    parser.add_argument("--every", type=int, help="files to a line (2,000; with --engine 20)")
    parser.add_argument("--engine", choices=ENGINES, help="restores files, of random sizes")
    parser.add_argument("--size", choices=SIZES, default="auto", help="of the models (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of these sizes (%(default)s)")
    parser.add_argument("--plot", metavar="FILE", help="draws memory and threads there")
    options = parser.parse_args(argv)
    files, every = _RESTORED if options.engine else _DECODED
    options.files, options.every = options.files or files, options.every or every
    return run_main("many_files", lambda: _measure(options), argv)


def _measure(options: argparse.Namespace) -> None:
    """Makes the files, plans and runs, and prints a line for every so many files."""
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "in"), Path(folder, "out")
        _make_files(source, options.files, options.seed if options.engine else None)
        start = time.perf_counter()
        plan([str(source)], str(output), ".png")
        print(f"planning {options.files:,} files: {time.perf_counter() - start:.2f} s")
        records = _record(options.every)
        arguments = [str(source), "-o", str(output), "--json", f"{folder}/report.json"]
        if options.engine:
            arguments += ["--engine", options.engine, "--size", options.size]
        else:
            arguments += ["--strength", "0"]
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            status = restore.main(arguments)
        results = sum(len(files) for *_, files in os.walk(output))
        print(f"exit status {status}, {results:,} results")
    if options.plot and records:
        title = f"--engine {options.engine} --size {options.size}" if options.engine else "decoded"
        _draw(records, options.plot, f"dmcnn-restore, {title}")


def _make_files(folder: Path, count: int, seed: int | None) -> None:
    """Writes files, 500 to a folder: pictures of random sizes; without a seed, small gray ones."""
    same = _encode(np.full((8, 16), 99, np.uint8), 75)
    files = (same for _ in range(count)) if seed is None else _random_files(count, seed)
    for index, data in enumerate(files):
        path = folder / f"{index // 500}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _random_files(count: int, seed: int) -> Iterator[bytes]:
    """Yields smooth random pictures of qualities 5 to 90, every third of them gray."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        height, width = np.exp(rng.uniform(*np.log(_SIDES), 2)).astype(int)
        small = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
        picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        noisy = np.asarray(picture) + rng.normal(0, 4, (height, width, 1))
        pixels = np.clip(noisy, 0, 255).astype(np.uint8)
        yield _encode(pixels if index % 3 else pixels[..., 1], int(rng.integers(5, 91)))


def _encode(pixels: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _record(every: int) -> list[Record]:
    """Makes the command print a line for every so many files; returns the list of what it says."""
    add, started = RecordSpool.add, time.perf_counter()
    records: list[Record] = []
    programs: list[float] = []

    def count(event: str, seconds: float, **about: object) -> None:
        if event == _PROGRAM_EVENT:
            programs.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(count)
    print(f"{'files':>8} {'ms a file':>10} {'memory, MiB':>12} {'threads':>8} {'programs':>9}")

    def add_and_print(self: RecordSpool, *record: object) -> None:
        nonlocal started
        add(self, *record)
        done = self.counts.total()
        if done % every == 0:
            now, (memory, threads) = time.perf_counter(), _memory_and_threads()
            milliseconds = 1e3 * (now - started) / every
            line = f"{done:8,} {milliseconds:10.2f} {memory:12.1f} {threads:8} {len(programs):9}"
            print(line, flush=True)
            records.append((done, memory, threads, len(programs)))
            started = now

    RecordSpool.add = add_and_print
    return records


def _memory_and_threads() -> tuple[float, int]:
    """Returns the resident memory of this process in MiB and its threads; needs Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/task"))


def _draw(records: Sequence[Record], path: str, title: str) -> None:
    """Draws memory, threads and programs over the number of files."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    rows = figure.subplots(3, sharex=True, height_ratios=(2, 1, 1))
    files, *columns = zip(*records, strict=True)
    labels = "memory, MiB", "threads", "programs"
    for axes, values, label in zip(rows, columns, labels, strict=True):
        axes.plot(files, values, marker=".")
        axes.set(ylabel=label, ylim=(0, 1.2 * max(values)))
        axes.grid(alpha=0.3)
    rows[0].set_title(title)
    rows[-1].set_xlabel("files")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
