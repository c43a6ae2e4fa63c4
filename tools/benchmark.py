#!/usr/bin/env python
"""Measures how fast training and restoring are, beside the same network in PyTorch if it is there.

    python tools/benchmark.py -o benchmark                 benchmark.md and benchmark.json
    python tools/benchmark.py --only train restore --rounds 9
    python tools/benchmark.py --max-side 1024 --features 24

Interrupted, it writes what it has. An idle machine says most; on another, the CPU seconds and the
ratios within rounds still mean something.
"""

import argparse
import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Two frameworks share the device's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from dmcnn_jax import benchmark
from dmcnn_jax.system import devices, malloc
from dmcnn_jax.system.atomic_write import write_file

_COUNTS = ("features", "growth_features", "patch", "batch", "rounds")


def main() -> None:
    """The command line; an error that a user can mend is one line and exit status 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-o", "--output", default="benchmark", help="files, without extension (%(default)s)")
    add("--only", nargs="+", choices=benchmark.SECTIONS, default=benchmark.SECTIONS)
    add("--quick", action="store_true", help="the least of everything, to see that it works")
    add("--no-torch", action="store_true", help="nothing beside")
    add("--max-side", type=int, help="of images whose cost is measured by area, pixels")
    for field in _COUNTS:
        add(f"--{field.replace('_', '-')}", type=int, help="default: what suits the machine")
    add("--dtypes", nargs="+", choices=("float32", "bfloat16"))
    options = parser.parse_args()
    # As commands have it.
    malloc.tune_malloc()
    devices.use_cores_as_devices([max(1, options.batch or benchmark.Settings.batch)])
    try:
        settings, peer = _settings(options), None if options.no_torch else _peer()
        results = _run(options, settings, peer)
    except (ValueError, OSError) as error:
        sys.exit(f"benchmark: {error}")
    if results is None:
        sys.exit(130)


def _settings(options: argparse.Namespace) -> benchmark.Settings:
    kind = benchmark.Settings
    settings = kind.quick() if options.quick else kind.of_machine()
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


def _run(options: argparse.Namespace, settings: benchmark.Settings, peer: Any) -> Any:
    """The results, or None if it was interrupted; either way they are written."""
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    runs = benchmark.Benchmark(settings, peer, say)
    whole = True
    try:
        runs.run(options.only, f"{output}.json")
    except KeyboardInterrupt:
        whole = False
    text = benchmark.to_markdown(runs.results)
    write_file(f"{output}.md", (text + "\n").encode())
    print(text)
    say(f"{'written' if whole else 'interrupted; what there is was written'} to {output}.md, .json")
    return runs.results if whole else None


def _peer() -> Any:
    try:
        return Peers()
    except ImportError as error:
        print(f"nothing to compare with: {error}", file=sys.stderr)
        return None


class Peers:
    """The same network in PyTorch, in processes of its own, which wait while others are measured.

    On a CPU two of them: one with memory as PyTorch's users have it, and one that keeps what it
    frees, as `dmcnn_jax.system.malloc` has it for our commands.

    Attributes:
        version: of PyTorch, in words.
    """

    def __init__(self):
        self._workers = {"torch": _Worker({})}
        self.version, device = self._workers["torch"].hello
        if device == "cpu" and sys.platform == "linux":
            self._workers["torch, memory kept,"] = _Worker(malloc.VARIABLES)

    def steps(self, *arguments: Any) -> dict[str, tuple[Callable, Callable]]:
        """Training steps, see `benchmark_torch.Torch.steps`."""
        return self._calls("steps", arguments)

    def restorers(self, *arguments: Any) -> dict[str, tuple[Callable, Callable]]:
        """The network over a plane, see `benchmark_torch.Torch.restorers`."""
        return self._calls("restorers", arguments)

    def cpu_seconds(self) -> float:
        """What the processes have computed so far."""
        return sum(worker.cpu for worker in self._workers.values())

    def _calls(self, method: str, arguments: Any) -> dict[str, tuple[Callable, Callable]]:
        return {
            name.replace("torch", label, 1): (
                lambda worker=worker, name=name: worker.ask("call", name),
                lambda _: None,
            )
            for label, worker in self._workers.items()
            for name in worker.ask(method, *arguments)
        }


class _Worker:
    """A process that runs benchmark_torch.py."""

    def __init__(self, variables: Mapping[str, str]):
        tool = Path(__file__).with_name("benchmark_torch.py")
        self._process = subprocess.Popen(
            [sys.executable, str(tool)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | variables,
        )
        self.cpu = 0.0
        self.hello = self._answer()

    def ask(self, *question: Any) -> Any:
        pickle.dump(question, self._process.stdin)
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        try:
            kind, answer, self.cpu = pickle.load(self._process.stdout)
        except EOFError:
            raise RuntimeError("the process that runs PyTorch has ended") from None
        if kind == "error":
            raise ImportError(answer)
        return answer


if __name__ == "__main__":
    main()
