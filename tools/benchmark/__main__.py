"""Measures the speed of training and restoring, beside the same network in PyTorch if installed.

    python tools/benchmark -o benchmark                 writes benchmark.md and benchmark.json
    python tools/benchmark --only train restore --rounds 9
    python tools/benchmark --max-side 1024 --features 24
    python tools/benchmark --seconds 60 --patch 112 --dtypes bfloat16

If interrupted, it writes the results so far. Use an idle machine. On a busy one, rely on CPU
seconds and on ratios, which compare times of the same round.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import sys
from pathlib import Path

# The package `benchmark` is this folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
# Two frameworks share the device's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from benchmark.clock import STARTED
from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("benchmark: interrupted")  # imports take seconds

from benchmark.harness import Benchmark
from benchmark.limited import LIMITED_SECTIONS, measure_within_limit
from benchmark.peers import TorchPeers
from benchmark.report import to_markdown
from benchmark.sections import SECTIONS, measure_machine
from benchmark.settings import Settings
from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import INTERRUPTED, OK
from dmcnn_jax.system import devices, malloc
from dmcnn_jax.system.atomic_write import write_file

_COUNTS = ("features", "growth_features", "patch", "batch", "rounds")


def main() -> int:
    """Parses the command line and measures; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-o", "--output", default="benchmark", help="files, without extension (%(default)s)")
    add("--only", nargs="+", choices=tuple(SECTIONS), help="sections (all)")
    add("--quick", action="store_true", help="smallest sizes, to check that everything runs")
    add("--no-torch", action="store_true", help="don't compare with PyTorch")
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compare with torch.compile (default: on GPUs)",
    )
    add(
        "--seconds",
        type=float,
        metavar="N",
        help="time limit for training and restoring alone: after N seconds, nothing is begun",
    )
    add("--max-side", type=int, help="largest side of the images in section growth, pixels")
    for field in _COUNTS:
        add(f"--{field.replace('_', '-')}", type=int, help="default: depends on the machine")
    add("--dtypes", nargs="+", choices=("float32", "bfloat16"))
    options = parser.parse_args()
    options.only = options.only or (LIMITED_SECTIONS if options.seconds else tuple(SECTIONS))
    return run_main("benchmark", lambda: _measure(options), None)


def _measure(options: argparse.Namespace) -> int:
    # The same memory allocation and devices as in our commands.
    malloc.tune_malloc()
    devices.use_cores_as_devices([max(1, options.batch or Settings.batch)])
    settings = _settings(options)
    completed = _run(options, settings, None if options.no_torch else _start_peer())
    return OK if completed else INTERRUPTED


def _settings(options: argparse.Namespace) -> Settings:
    if options.seconds is not None:
        if not 0 < options.seconds < math.inf:
            raise ValueError(f"--seconds is {options.seconds}; expected a positive number")
        if others := [name for name in options.only if name not in LIMITED_SECTIONS]:
            raise ValueError(
                f"--only names {', '.join(others)}; with --seconds expected train or restore"
            )
    settings = Settings.quick() if options.quick else Settings.of_machine()
    if options.compile is not None:
        settings = dataclasses.replace(settings, compiled=options.compile)
    for field in _COUNTS:
        value = getattr(options, field)
        if value is not None and value < 1:
            raise ValueError(f"--{field.replace('_', '-')} is {value}; expected at least 1")
        if value is not None:
            settings = dataclasses.replace(settings, **{field: value})
    if settings.patch % 8:
        raise ValueError(f"--patch is {settings.patch}; expected a multiple of 8")
    if options.dtypes:
        settings = dataclasses.replace(settings, dtypes=tuple(options.dtypes))
    if options.max_side is not None:
        sides = tuple(side for side in settings.sides if side <= options.max_side)
        if not sides:
            raise ValueError(
                f"--max-side is {options.max_side}; expected at least {settings.sides[0]}"
            )
        settings = dataclasses.replace(settings, sides=sides)
    return settings


def _run(options: argparse.Namespace, settings: Settings, peer: TorchPeers | None) -> bool:
    """Measures and writes both files; returns whether it was not interrupted."""
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def write() -> None:
        write_file(f"{output}.json", (json.dumps(bench.results, indent=1) + "\n").encode())
        write_file(f"{output}.md", (to_markdown(bench.results) + "\n").encode())

    bench = Benchmark(settings, peer, say, STARTED + (options.seconds or math.inf))
    sections = {"machine": measure_machine} | {name: SECTIONS[name] for name in options.only}
    completed = True
    try:
        if options.seconds:
            _use_compilation_cache()
            measure_within_limit(bench, options.only, write)
        else:
            bench.run(sections, f"{output}.json")
    except KeyboardInterrupt:
        completed = False
    write()
    print(to_markdown(bench.results))
    say(
        f"{'written' if completed else 'interrupted; results so far written'} to {output}.md, .json"
    )
    return completed


def _use_compilation_cache() -> None:
    """Uses our commands' cache of compiled programs, which a training run may have filled."""
    # Without platformdirs, only JAX's own variable can name a folder.
    with contextlib.suppress(ImportError):
        from dmcnn_jax.system.compile_cache import enable_compilation_cache

        enable_compilation_cache()


def _start_peer() -> TorchPeers | None:
    try:
        return TorchPeers()
    except ImportError as error:
        print(f"nothing to compare with: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    sys.exit(main())
