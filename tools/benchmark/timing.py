"""Timing of calls in alternating rounds."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

# A first call that takes longer than this, in seconds, is not repeated before the rounds.
_LONG = 20.0

Call = tuple[Callable[[], Any], Callable[[Any], Any]]
"""A call to measure, and a function that waits for its result."""


def device_call(function: Callable[..., Any], *arguments: Any) -> Call:
    """Returns a call of a JAX function that is complete when its result is on the device."""
    return (lambda: function(*arguments)), jax.block_until_ready


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the median, the lowest and the highest value."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


@dataclasses.dataclass
class Times:
    """Seconds per call, one value a round.

    Attributes:
        wall: wall-clock seconds.
        cpu: CPU seconds, summed over all cores.
    """

    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of the wall-clock seconds."""
        return statistics.median(self.wall)

    def row(self, pixels: int) -> dict[str, Any]:
        """Returns the times as JSON values, with the throughput for so many pixels a call."""
        return {
            "seconds": spread(self.wall),
            "cpu_seconds": spread(self.cpu),
            "pixels_per_second": pixels / self.median,
        }

    def over(self, other: "Times", kind: str = "wall") -> dict[str, float]:
        """Returns the ratio of these times to others, taken within each round."""
        pairs = zip(getattr(self, kind), getattr(other, kind), strict=True)
        return spread([mine / max(1e-9, theirs) for mine, theirs in pairs])


def measure_in_rounds(
    calls: Mapping[str, Call],
    rounds: int,
    least: float,
    cpu_seconds: Callable[[], float],
    say: Callable[[str], None],
    stop_at: float = math.inf,
) -> dict[str, Times]:
    """Measures calls in turn, round after round, after one or two uncounted calls of each.

    Args:
        calls: what to measure, by name.
        rounds: how often each is measured.
        least: least duration of a measurement, seconds; shorter calls are repeated.
        cpu_seconds: returns the CPU seconds used so far.
        say: called with a line of progress after each round.
        stop_at: when no round after the first one begins, as `time.monotonic` counts.

    Returns:
        The times by name.
    """
    counts = {name: _count_repetitions(call, least) for name, call in calls.items()}
    times = {name: Times() for name in calls}
    for number in range(rounds):
        if number and time.monotonic() >= stop_at:
            break
        for name, (call, wait) in calls.items():
            cpu, start = cpu_seconds(), time.perf_counter()
            for _ in range(counts[name]):
                result = call()
            wait(result)
            times[name].wall.append((time.perf_counter() - start) / counts[name])
            times[name].cpu.append((cpu_seconds() - cpu) / counts[name])
        shown = [f"{name} {1e3 * t.wall[-1]:,.1f} ms" for name, t in times.items()]
        say(f"round {number + 1}: {', '.join(shown[:6])}{', …' * (len(shown) > 6)}")
    return times


def _count_repetitions(timed: Call, least: float) -> int:
    """Returns how often a call fits into `least` seconds, at least once."""
    call, wait = timed
    # The first call may compile, so the second one is timed, unless even the first took long.
    for _ in range(2):
        start = time.perf_counter()
        wait(call())
        seconds = time.perf_counter() - start
        if seconds > _LONG:
            break
    return max(1, math.ceil(least / max(1e-6, seconds)))
