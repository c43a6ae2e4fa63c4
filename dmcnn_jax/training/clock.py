"""A schedule by the clock: a run takes a given time, whatever the speed of the machine."""

import time
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

from dmcnn_jax.config.types import Config
from dmcnn_jax.system.cpu import usable_cores
from dmcnn_jax.training.schedule import cooldown_factor

# Share of the time over which the learning rate rises from 0.
_WARMUP = 0.02


def _processor_time() -> float:
    """Returns the processor time of this process divided by the number of its cores, s."""
    return time.process_time() / usable_cores()


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "processor": _processor_time}
"""The clocks that `config.schedule.clock` can name."""


class ClockSchedule:
    """Stages and learning rate that follow the time that has passed, not the number of steps.

    The rate rises over the first 2 % of `config.schedule.minutes`, stays constant, and falls to 0
    over the last `config.schedule.cooldown` of them (`schedule.cooldown_factor`). So no step has to
    be measured beforehand, and the rate reaches 0 on slow machines too. `config.train.stage_steps`
    divides the time among stages.

    Time runs from the first use of the learning rate, and includes later compilation and saving. It
    includes validation by the clock "wall", so that a run ends on time, but not by "processor", so
    that networks that restore slowly are not trained less. It stops while a run is interrupted. The
    number of steps depends on the machine, so two runs don't end with the same bits.

    Args:
        config: the configuration of the run, whose `schedule.clock` names a clock.
        clock: returns seconds; overrides that clock.

    Attributes:
        step: number of steps done.
        stage: index of the current stage.
        stage_step: number of steps done in the current stage.
    """

    unit = "s"

    def __init__(self, config: Config, clock: Callable[[], float] | None = None):
        self._train, self._config = config.train, config.schedule
        self._clock = clock or CLOCKS[config.schedule.clock]
        self._seconds = 60 * config.schedule.minutes
        steps = config.train.stage_steps
        self._stage_ends = [self._seconds * s / sum(steps) for s in accumulate(steps)]
        # Exact, since a rounding error would leave the last stage unfinished.
        self._stage_ends[-1] = self._seconds
        self._started: float | None = None
        self._read = 0.0  # the clock's time after the last step
        self._elapsed = self._before = self._validated = 0.0
        self.step = self.stage = self.stage_step = 0

    @property
    def total(self) -> int:
        """Length of the run, seconds."""
        return round(self._seconds)

    @property
    def position(self) -> int:
        """Time passed, whole seconds."""
        return min(round(self._elapsed), self.total)

    @property
    def done(self) -> bool:
        """Whether the time is over."""
        return self.stage == len(self._stage_ends) - 1 and self.stage_over

    @property
    def stage_over(self) -> bool:
        """Whether the time of the stage is over."""
        return self._elapsed >= self._stage_ends[self.stage]

    @property
    def validation_due(self) -> bool:
        """Whether it is time to validate and to save."""
        waited = self._elapsed - self._validated
        return waited >= 60 * self._config.validate_minutes or self.stage_over

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        if self._started is None:
            self._started = self._clock()
        share = min(1.0, self._elapsed / self._seconds)
        rate = self._train.learning_rate * min(1.0, (share + 1e-3) / _WARMUP)
        cooldown = self._config.cooldown
        if share > 1 - cooldown:
            rate *= cooldown_factor((share - (1 - cooldown)) / cooldown)
        return rate

    def advance(self) -> None:
        """Counts a step, and reads the clock."""
        self.step += 1
        self.stage_step += 1
        if self._started is not None:
            self._read = self._clock()
            self._elapsed = self._before + self._read - self._started

    def observe(self, loss: float) -> str:
        """Records that a validation is done, and enters the next stage if it is due.

        Args:
            loss: validation loss, which has no effect.

        Returns:
            "", for no event.
        """
        del loss
        if self._started is not None and self._config.clock == "processor":
            self._started += self._clock() - self._read
        self._validated = self._elapsed
        self._leave_if_over()
        return ""

    def _leave_if_over(self) -> None:
        while self.stage_over and self.stage < len(self._stage_ends) - 1:
            self.stage += 1
            self.stage_step = 0

    @property
    def state(self) -> dict[str, Any]:
        """All values that later steps depend on, as JSON."""
        return {
            "step": self.step,
            "stage": self.stage,
            "stage_step": self.stage_step,
            "converged": False,
            "elapsed": self._elapsed,
        }

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        self.step, self.stage, self.stage_step = state["step"], state["stage"], state["stage_step"]
        self._elapsed = self._before = self._validated = state["elapsed"]
        self._started = None
        # The run may have been shortened since.
        self._leave_if_over()
