"""What all sections of the benchmark share: settings, the peer, the results so far."""

import contextlib
import dataclasses
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from benchmark.settings import Settings
from benchmark.timing import Call, Times, measure_in_rounds
from dmcnn_jax.system.atomic_write import write_file


class Peer(Protocol):
    """The same network in another framework, to compare with."""

    @property
    def version(self) -> str:
        """Version of the framework, in words; ImportError if it doesn't run."""

    def steps(
        self,
        features: int,
        dtypes: tuple[str, ...],
        batch: Mapping[str, np.ndarray],
        *,
        compiled: bool = False,
    ) -> dict[str, Call]:
        """Returns training steps on one batch, by name; compiled ones if it is asked to."""

    def restorers(
        self,
        features: int,
        dtypes: tuple[str, ...],
        k: np.ndarray,
        q: np.ndarray,
        *,
        compiled: bool = False,
    ) -> dict[str, Call]:
        """Returns calls that restore a whole plane, by name; compiled ones if it is asked to."""

    def answer_by(self, moment: float) -> None:
        """Gives up what has not ended by then, as `time.monotonic` counts."""

    def cpu_seconds(self) -> float:
        """Returns the CPU seconds that the peer has used so far."""


class Benchmark:
    """Measurements and their results.

    Args:
        settings: sizes and repetitions.
        peer: the same network in another framework; None to compare with nothing.
        say: called with lines of progress.
        stop_at: when no other round of measurements begins, as `time.monotonic` counts.

    Attributes:
        results: by section, as JSON values.
    """

    def __init__(
        self,
        settings: Settings,
        peer: Peer | None = None,
        say: Callable[[str], None] = lambda line: None,
        stop_at: float = math.inf,
    ):
        self.settings, self.peer, self.say, self.stop_at = settings, peer, say, stop_at
        self.results: dict[str, Any] = {"settings": dataclasses.asdict(settings)}

    def run(
        self,
        sections: Mapping[str, Callable[["Benchmark"], dict[str, Any]]],
        path: str | os.PathLike,
    ) -> None:
        """Measures sections, and writes the results after each of them, even if interrupted.

        Args:
            sections: functions that return a section's results, by name. The error of one that
                fails is noted in its results.
            path: of the JSON file.
        """
        with tempfile.TemporaryDirectory() as folder, _compilation_cache(folder):
            for section, measure in sections.items():
                self.say(section)
                try:
                    self.results[section] = measure(self)
                except (ImportError, RuntimeError, MemoryError) as error:
                    self.results.setdefault(section, {})["error"] = one_line(error)
                finally:
                    write_file(path, (json.dumps(self.results, indent=1) + "\n").encode())

    def measure(
        self,
        calls: Mapping[str, Call],
        *,
        rounds: int | None = None,
        least: float | None = None,
    ) -> dict[str, Times]:
        """Measures calls in turn.

        Args:
            calls: what to measure, by name.
            rounds: by default as in the settings.
            least: least seconds of a measurement; by default as in the settings.
        """
        return measure_in_rounds(
            calls,
            rounds or self.settings.rounds,
            self.settings.seconds if least is None else least,
            self._cpu_seconds,
            self.say,
            self.stop_at,
        )

    def measure_rates(
        self, calls: Mapping[str, Call], channels: int, pixels: int
    ) -> dict[str, dict[str, Any]]:
        """Measures 3×3 convolutions or their gradients: times, and operations a second."""
        flops = 2 * 9 * channels**2 * pixels
        return {
            name: result.row(pixels) | {"rate": flops / result.median}
            for name, result in self.measure(calls).items()
        }

    def compare(
        self, calls: Mapping[str, Call], rows: Mapping[str, Any], pixels: int
    ) -> dict[str, Any]:
        """Measures our calls against the peer's.

        Args:
            calls: ours have names that begin with "jax " or "openvino "; all end in a data type.
            rows: what is known about calls already, by name: "flops" and "bound" give rates and
                shares. Calls without "flops" do the same arithmetic as those that have it.
            pixels: that each call processes.

        Returns:
            {"pixels", "rows": {name: row}, "speed": {"ours against other": {"wall", "cpu"}}}.
        """
        times = self.measure(calls)
        flops = next((row["flops"] for row in rows.values() if "flops" in row), None)
        table = {}
        for name, result in times.items():
            row = result.row(pixels) | {"flops": flops} | dict(rows.get(name, {}))
            rate = self.machine_rates(name.split()[-1]).get("flops")
            if row["flops"]:
                row["rate"] = row["flops"] / result.median
                if rate:
                    row["share_of_matrix_product"] = row["rate"] / rate
            if row.get("bound"):
                row["share_of_roofline"] = row["bound"] / result.median
            table[name] = row
        ours = [name for name in times if name.startswith(("jax ", "openvino "))]
        ratios = {
            f"{one} against {other}": {
                "wall": times[other].over(times[one]),
                "cpu": times[other].over(times[one], "cpu"),
            }
            for one in ours
            for other in times
            if other not in ours
        }
        return {"pixels": pixels, "rows": table, "speed": ratios}

    def machine_rates(self, dtype: str) -> dict[str, float]:
        """Returns the machine's {"flops", "bytes"} a second, or {} if they were not measured."""
        machine = self.results.get("machine", {})
        rate = machine.get("matrix_product", {}).get(dtype)
        return {"flops": rate, "bytes": machine["memory"]} if rate else {}

    def peer_version(self) -> str | None:
        """Returns the peer's version; if it doesn't run, says why, and continues without it."""
        try:
            return self.peer.version if self.peer else None
        except (ImportError, RuntimeError) as error:
            self.say(f"nothing to compare with: {one_line(error)}")
            self.peer = None
            return None

    def _cpu_seconds(self) -> float:
        return time.process_time() + (self.peer.cpu_seconds() if self.peer else 0)


def one_line(error: BaseException) -> str:
    """Returns an error's message on one line, shortened; its type if it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextlib.contextmanager
def _compilation_cache(folder: str) -> Iterator[None]:
    """Uses an empty folder as compilation cache, so that first compilations are cold."""
    from jax.experimental.compilation_cache import compilation_cache

    names = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in names}
    compilation_cache.reset_cache()
    for name, value in names.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
