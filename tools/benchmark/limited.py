"""Compares training and restoring with PyTorch within a time limit, what matters most first.

1. Our network and PyTorch's in the first data type, training and then restoring.
2. The same with `torch.compile`, which may compile for most of a minute.
3. The other data types.

What is compared runs in the same rounds. Each program is compiled once; what compiling and
memory cost is left to the complete sections.
"""

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.harness import Benchmark, Peer, one_line
from benchmark.inputs import (
    make_batch,
    make_jpeg,
    random_model,
    random_weights_file,
    restore_call,
)
from benchmark.operations import find_operations, trace
from benchmark.sections import measure_machine
from benchmark.timing import Call
from benchmark.training_step import TrainingStep
from dmcnn_jax.evaluation.complexity import flops_per_pixel
from dmcnn_jax.inference.model import estimate
from dmcnn_jax.inference.tiling import computed_pixels

LIMITED_SECTIONS = ("train", "restore")
"""Sections that can be measured within a time limit."""

OurCall = Callable[[str], tuple[Call, Callable[[], dict[str, Any]]]]
PeerCalls = Callable[[Peer, str, bool], dict[str, Call]]


def measure_within_limit(
    bench: Benchmark, sections: Sequence[str], write: Callable[[], None]
) -> None:
    """Measures until `bench.stop_at`, when no compilation and no round begins any more.

    PyTorch is stopped if it is still compiling then. JAX can't be, and ends its compilation.

    Args:
        bench: the benchmark, whose results are filled in.
        sections: of `LIMITED_SECTIONS`.
        write: called after each step, to write the results so far.
    """
    bench.results["seconds"] = {}
    for what, measure in _steps(bench, sections):
        if time.monotonic() >= bench.stop_at:
            bench.say(f"no time left for: {what}")
            bench.results.setdefault("left_out", []).append(what)
            continue
        start = time.perf_counter()
        bench.say(what)
        try:
            measure()
        except (ImportError, RuntimeError, MemoryError) as error:
            bench.say(f"{what}: {one_line(error)}")
            bench.results.setdefault("failed", {})[what] = one_line(error)
        seconds = bench.results["seconds"][what] = time.perf_counter() - start
        bench.say(f"{what}: {seconds:.1f} s")
        write()


def _steps(bench: Benchmark, sections: Sequence[str]) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields what is measured, in words, and the function that measures it."""

    def measure_machine_first() -> None:
        bench.results["machine"] = measure_machine(bench)

    yield "machine", measure_machine_first
    make = {"train": _training, "restore": _restoring}
    comparisons = [make[section](bench) for section in LIMITED_SECTIONS if section in sections]
    first, *others = bench.settings.dtypes
    for one in comparisons:
        yield f"{one.section}, {first}", partial(one.measure, first)
    if bench.settings.compiled and bench.peer:
        for one in comparisons:
            yield f"{one.section}, torch.compile {first}", partial(one.measure_compiled, first)
    for dtype in others:
        for one in reversed(comparisons):
            yield f"{one.section}, {dtype}", partial(one.measure, dtype)


@dataclasses.dataclass
class _Comparison:
    """Our calls and PyTorch's for one section.

    Attributes:
        bench: the benchmark.
        section: its name.
        pixels: that a call processes.
        ours: makes our call for a data type, and a function that returns what is known about it.
        peers: makes the peer's calls for a data type, compiled or not.
        calls: those that have been made, by name.
        rows: what is known about them, by name.
    """

    bench: Benchmark
    section: str
    pixels: int
    ours: OurCall
    peers: PeerCalls
    calls: dict[str, Call] = dataclasses.field(default_factory=dict)
    rows: dict[str, Any] = dataclasses.field(default_factory=dict)

    def measure(self, dtype: str) -> None:
        """Measures our network and the peer's in a data type."""
        name = f"jax {dtype}"
        call, describe = self.ours(dtype)
        self._begin(name, call)
        self.rows[name] |= describe()
        self._compare([name, *self._begin_peers(dtype, False)])

    def measure_compiled(self, dtype: str) -> None:
        """Measures the compiled peer and, once more, our network, in the same rounds."""
        name = f"jax {dtype}"
        if names := self._begin_peers(dtype, True):
            self._compare([*([name] if name in self.calls else []), *names])

    def _begin_peers(self, dtype: str, compiled: bool) -> list[str]:
        """Makes the peer's first calls; if it fails, says so and returns fewer names."""
        bench, names = self.bench, []
        if not bench.peer:
            return []
        try:
            bench.peer.answer_by(bench.stop_at)
            for name, call in self.peers(bench.peer, dtype, compiled).items():
                self._begin(name, call)
                names.append(name)
        except (ImportError, RuntimeError) as error:
            what = f"{self.section}, torch{'.compile' * compiled} {dtype}"
            bench.say(f"{what}: {one_line(error)}")
            bench.results.setdefault("failed", {})[what] = one_line(error)
        finally:
            bench.peer.answer_by(math.inf)
        return names

    def _begin(self, name: str, call: Call) -> None:
        """Makes a first call, which compiles."""
        function, wait = call
        start = time.perf_counter()
        wait(function())
        self.rows[name] = {"first": time.perf_counter() - start}
        self.bench.say(f"{self.section}: {name}, first call {self.rows[name]['first']:.1f} s")
        self.calls[name] = call

    def _compare(self, names: Sequence[str]) -> None:
        """Measures calls in the same rounds, and adds what has not been measured before."""
        table = self.bench.compare(
            {name: self.calls[name] for name in names}, self.rows, self.pixels
        )
        known = self.bench.results.setdefault(self.section, table)
        for part in ("rows", "speed"):
            known[part] = known[part] | table[part] | known[part]


def _training(bench: Benchmark) -> _Comparison:
    settings = bench.settings

    def ours(dtype: str) -> tuple[Call, Callable[[], dict[str, Any]]]:
        with tempfile.TemporaryDirectory() as folder:
            file = random_weights_file(Path(folder), settings.features)
            step = TrainingStep(
                settings, settings.features, settings.batch, dtype, weights=str(file)
            )

        def describe() -> dict[str, Any]:
            found = find_operations(step.jaxpr)
            rates = bench.machine_rates(dtype)
            return {
                "flops": sum(operation.flops for operation in found),
                "bound": sum(operation.bound(rates) for operation in found),
            }

        return step.call, describe

    def peers(peer: Peer, dtype: str, compiled: bool) -> dict[str, Call]:
        batch = make_batch(settings.batch, settings.patch)
        return peer.steps(settings.features, (dtype,), batch, compiled=compiled)

    return _Comparison(bench, "train", settings.batch * settings.patch**2, ours, peers)


def _restoring(bench: Benchmark) -> _Comparison:
    settings = bench.settings
    height, width = settings.block_size

    def ours(dtype: str) -> tuple[Call, Callable[[], dict[str, Any]]]:
        k, q = make_jpeg(height, width)
        model = random_model(settings.features, dtype)

        def describe() -> dict[str, Any]:
            found = find_operations(
                trace(estimate, model.module, model.variables, k[None], q[None])
            )
            rates = bench.machine_rates(dtype)
            return {
                "flops": flops_per_pixel(model.module, model.variables, 64) * height * width,
                "bound": sum(operation.bound(rates) for operation in found),
                # Overlaps of tiles are computed twice, and "flops" leaves them out.
                "computed": computed_pixels(model, *k.shape[:2]) / (height * width),
            }

        return restore_call(model, k, q), describe

    def peers(peer: Peer, dtype: str, compiled: bool) -> dict[str, Call]:
        return peer.restorers(
            settings.features, (dtype,), *make_jpeg(height, width), compiled=compiled
        )

    return _Comparison(bench, "restore", height * width, ours, peers)
