"""Parts of the training loop's user interface: speed, messages, signals, profile."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import jax

from dmcnn_jax.system import devices


class Timer:
    """A stopwatch for training, in pixels per second; pauses are not counted."""

    def __init__(self) -> None:
        self._start, self._pixels = time.perf_counter(), 0

    def count(self, pixels: int) -> None:
        """Adds pixels trained on."""
        self._pixels += pixels

    def rate(self) -> float:
        """Returns the pixels a second since the last call."""
        now = time.perf_counter()
        rate = self._pixels / max(1e-9, now - self._start)
        self._start, self._pixels = now, 0
        return rate

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time of its block."""
        before = time.perf_counter()
        yield
        self._start += time.perf_counter() - before


class Profiler:
    """A recorder of a JAX profile of a few steps.

    Args:
        folder: folder to write it to; None for no profile.
        write: prints a line.
    """

    # Number of steps left out at the start, since they compile, and number of recorded steps.
    _SKIPPED, _RECORDED = 5, 10

    def __init__(self, folder: Path | None, write: Callable[[str], None]):
        self._folder, self._write = folder, write
        self._steps = 0

    def before_step(self) -> None:
        """Starts recording if due; called before each step."""
        if self._folder is not None and self._steps == self._SKIPPED:
            jax.profiler.start_trace(self._folder)

    def after_step(self, state: Any) -> None:
        """Stops recording if due; called after each step with its arrays."""
        self._steps += 1
        if self._steps == self._SKIPPED + self._RECORDED:
            self._stop(state)

    def finish(self, state: Any) -> None:
        """Stops recording early if a run is too short."""
        if self._steps > self._SKIPPED:
            self._stop(state)
        elif self._folder is not None:
            self._write(f"no profile: it begins {self._SKIPPED} steps after the start")

    def _stop(self, state: Any) -> None:
        if self._folder is None:
            return
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        self._write(f"profile written to {str(self._folder)!r}; TensorBoard shows it")
        self._folder = None


def print_on_main(text: str) -> None:
    """Prints a line to standard error, in the main process only."""
    if devices.is_main():
        print(text, file=sys.stderr, flush=True)


# Signals within this time are one request, seconds: `timeout` signals a process, then its group.
_TOGETHER = 0.5


@contextlib.contextmanager
def catch_stop_signals() -> Iterator[list[int]]:
    """Catches SIGINT, SIGTERM and SIGHUP in the block, and prints that the run will stop.

    An ignored SIGHUP stays ignored, so that nohup works.

    Yields:
        A list to which the first signal is appended; a later one raises KeyboardInterrupt at once.
    """
    received: list[int] = []
    first = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if received:
            if time.monotonic() - first < _TOGETHER:
                return
            raise KeyboardInterrupt
        first = time.monotonic()
        received.append(number)
        # Printed at once, since steps can take minutes; not by `print`, which the signal may have
        # interrupted.
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, b"\nstopping after this step; Ctrl-C again stops at once, without saving\n")

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
