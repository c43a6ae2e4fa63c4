"""Shows the progress of a training run: a bar on a terminal, lines in a file."""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from dmcnn_jax.system import devices
from dmcnn_jax.system.item_progress import LINES_EVERY
from dmcnn_jax.training.clock import ClockSchedule
from dmcnn_jax.training.schedule import Schedule


class TimeLeft:
    """An estimate of a run's remaining time, from its latest steps.

    The time that a pixel takes is averaged over as many steps as lie between two validations, so
    that the average includes the time of one validation. Time in `excluded` does not count.

    Args:
        schedule: stage and step.
        stage_steps: steps of each stage.
        batch_pixels: pixels in a batch of each stage.
        validate_every: steps between validations.
        clock: returns seconds.
    """

    def __init__(
        self,
        schedule: Schedule | ClockSchedule,
        stage_steps: Sequence[int],
        batch_pixels: Sequence[int],
        validate_every: int,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._schedule, self._clock = schedule, clock
        self._stage_steps, self._batch_pixels = stage_steps, batch_pixels
        self._pixels, self._excluded, self._unsettled = 0, 0.0, _QUEUED_STEPS
        # Time and pixels after each step.
        self._samples: deque[tuple[float, int]] = deque(maxlen=max(20, validate_every) + 1)

    def count(self, stage: int) -> None:
        """Counts a step of a stage."""
        self._pixels += self._batch_pixels[stage]
        if self._unsettled:
            self._unsettled -= 1
        if not self._unsettled:
            self._samples.append((self._clock() - self._excluded, self._pixels))

    @contextlib.contextmanager
    def excluded(self) -> Iterator[None]:
        """Excludes the time of its block."""
        before = self._clock()
        yield
        self._excluded += self._clock() - before

    def seconds_per_step(self) -> float | None:
        """Returns the time of a step of the current stage; None while unknown."""
        per_pixel = self._seconds_per_pixel()
        return None if per_pixel is None else per_pixel * self._batch_pixels[self._schedule.stage]

    def seconds(self) -> float | None:
        """Returns the time left if no stage converges early; None while unknown."""
        schedule = self._schedule
        if schedule.done:
            return 0.0
        if isinstance(schedule, ClockSchedule):
            return float(schedule.total - schedule.position)
        per_pixel = self._seconds_per_pixel()
        if per_pixel is None:
            return None
        steps = [self._stage_steps[schedule.stage] - schedule.stage_step]
        steps += self._stage_steps[schedule.stage + 1 :]
        pixels = self._batch_pixels[schedule.stage :]
        return per_pixel * sum(s * p for s, p in zip(steps, pixels, strict=True))

    def _seconds_per_pixel(self) -> float | None:
        if len(self._samples) < 2:
            return None
        (begin, before), (end, after) = self._samples[0], self._samples[-1]
        return (end - begin) / (after - before)


# The first steps of a run seem to take no time: they are queued on the device.
_QUEUED_STEPS = 2


class Progress:
    """The progress display of a run: a context manager, silent except in the main process.

    On a terminal it is a bar. A file gets a line for the first report, every half minute, and at
    the end. If the terminal, or the reader of a pipe, has gone, nothing is shown, and training goes
    on.

    Args:
        schedule: stage, step and position.
        left: estimates the time left.
        clock: returns seconds.
    """

    def __init__(
        self,
        schedule: Schedule | ClockSchedule,
        left: TimeLeft,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._schedule, self._left, self._clock = schedule, left, clock
        self._main = devices.is_main()
        self._report = ""
        self._written = clock()
        self._bar: _Bar | None = None
        if self._main and sys.stderr.isatty():
            self._bar = _Bar(schedule, self._pace)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()

    def advance(self) -> None:
        """Shows that a step is done."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.update(self._schedule.position - self._bar.n)
        elif self._clock() - self._written >= LINES_EVERY:
            self._write_state()

    def report(self, text: str) -> None:
        """Shows figures, from now on.

        Args:
            text: such as the loss.
        """
        first, self._report = not self._report, text
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.set_postfix_str(text)
        elif first or self._schedule.done:
            self._write_state()

    def write(self, line: str) -> None:
        """Prints a line, above the bar if there is one; any thread may call this."""
        with contextlib.suppress(OSError):
            if self._bar is not None:
                self._bar.write(line, file=sys.stderr)
            elif self._main:
                self._written = self._clock()
                # `print` writes the line break apart, so two threads' lines could run together.
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()

    def _write_state(self) -> None:
        schedule = self._schedule
        share = 100 * schedule.position // schedule.total
        of = f"{schedule.unit} {schedule.position:,} of {schedule.total:,} ({share} %)"
        self.write(", ".join(part for part in (of, self._pace(), self._report) if part))

    def _pace(self) -> str:
        """Returns the time of a step and the time left, as text; empty while unknown."""
        step, left = self._left.seconds_per_step(), self._left.seconds()
        per_step = "" if step is None else f"{step:.3g} s/step"
        remaining = "" if left is None else f"{tqdm.format_interval(left)} left"
        return ", ".join(part for part in (per_step, remaining) if part)


class _Bar(tqdm):
    """A bar whose time left is that of `TimeLeft`: tqdm's own counts compilation.

    Args:
        schedule: see `Progress`.
        pace: returns the time of a step and the time left, in words.
    """

    def __init__(self, schedule: Schedule | ClockSchedule, pace: Callable[[], str]):
        self._pace_in_words = pace
        super().__init__(
            total=schedule.total,
            initial=schedule.position,
            unit=schedule.unit,
            dynamic_ncols=True,
            mininterval=0.5,
            miniters=1,
            bar_format="{l_bar}{bar}| {unit} {n_fmt}/{total_fmt} [{elapsed}, {pace}{postfix}]",
        )

    @property
    def format_dict(self) -> dict[str, Any]:
        """The fields of `bar_format`."""
        return {**super().format_dict, "pace": self._pace_in_words() or "…"}
