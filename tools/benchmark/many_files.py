"""Measures time and memory of `dmcnn-restore` over many files, apart from the networks.

    python tools/benchmark/many_files.py                      20,000 files of 16 × 8 pixels
    python tools/benchmark/many_files.py --files 2000 --every 200

Files are decoded only (`--strength 0`) and a report is written, so that what is measured is finding
and reading files, writing results, lines and the report. Time for each file and memory should stay
the same over the run.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dmcnn_jax.cli import restore
from dmcnn_jax.cli.process import command_parser, run_command
from dmcnn_jax.cli.record_spool import RecordSpool
from dmcnn_jax.cli.restore_planning import plan


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    parser.add_argument("--files", type=int, default=20_000, help="how many (%(default)s)")
    parser.add_argument("--every", type=int, default=2_000, help="files to a line (%(default)s)")
    options = parser.parse_args(argv)
    return run_command("many_files", lambda: _measure(options))


def _measure(options: argparse.Namespace) -> None:
    """Makes the files, plans and runs, and prints a line for every so many files."""
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "in"), Path(folder, "out")
        _make_files(source, options.files)
        start = time.perf_counter()
        plan([str(source)], str(output), ".png")
        print(f"planning {options.files:,} files: {time.perf_counter() - start:.2f} s")
        _print_records(options.every)
        arguments = [str(source), "-o", str(output), "--json", f"{folder}/report.json"]
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            status = restore.main([*arguments, "--strength", "0"])
        results = sum(len(files) for *_, files in os.walk(output))
        print(f"exit status {status}, {results:,} results")


def _make_files(folder: Path, count: int) -> None:
    """Writes files of one gray level, 500 to a folder."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 16), 99, np.uint8)).save(buffer, "JPEG")
    for index in range(count):
        path = folder / f"{index // 500}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())


def _print_records(every: int) -> None:
    """Makes the command print a line of time and memory for every so many finished files."""
    add, started = RecordSpool.add, time.perf_counter()
    print(f"{'files':>8} {'ms a file':>10} {'memory, MiB':>12}")

    def add_and_print(self: RecordSpool, *record: object) -> None:
        nonlocal started
        add(self, *record)
        done = self.counts.total()
        if done % every == 0:
            now = time.perf_counter()
            print(f"{done:8,} {1e3 * (now - started) / every:10.2f} {_memory():12.1f}", flush=True)
            started = now

    RecordSpool.add = add_and_print


def _memory() -> float:
    """Returns the resident memory of this process in MiB; needs Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.exit(main())
