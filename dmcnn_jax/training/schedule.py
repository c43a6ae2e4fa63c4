"""When a stage ends, and the learning rate: on the host, between steps.

What decides the future is one small dictionary of numbers, `Schedule.state`, and is checkpointed
with the weights.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Schedule:
    """Stages of patches and the learning rate, as `config.train` and `config.schedule` say.

    Attributes:
        step: steps done in all.
        stage: index of the current stage.
        stage_step: steps done in it.
    """

    def __init__(self, config: Mapping[str, Any]):
        self._train, self._config = config.train, config.schedule
        # Kept outside the optimizer: it counts its updates, and here an update is a validation.
        self._plateau = optax.contrib.reduce_on_plateau(
            factor=self._config.factor, patience=self._config.patience, rtol=self._config.rtol
        )
        self.step = self.stage = 0
        self._enter_stage(0)

    @property
    def done(self) -> bool:
        """Whether all stages are over."""
        return self._is_last and self.stage_over

    @property
    def stage_over(self) -> bool:
        """Whether the stage has had its steps, or has converged: `observe` goes on to the next."""
        return self._converged or self.stage_step >= self._train.stage_steps[self.stage]

    @property
    def total_steps(self) -> int:
        """Steps of all stages if none ends early."""
        return sum(self._train.stage_steps)

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        rate = self._train.learning_rate
        warmup = self._config.warmup_steps
        if self._config.name == "cosine":
            share = min(1.0, max(0, self.step - warmup) / max(1, self.total_steps - warmup))
            floor = self._config.min_lr_ratio
            rate *= floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2
        else:
            rate *= float(self._plateau_state.scale)
            if self.stage > 0:
                rate *= self._config.restart
        return rate * min(1.0, (self.step + 1) / warmup) if warmup else rate

    def advance(self) -> None:
        """Counts a step. Where `stage_over` follows, a validation is due."""
        self.step += 1
        self.stage_step += 1

    def observe(self, loss: float) -> str:
        """Takes a validation loss, and goes on to the next stage if this one is over.

        Args:
            loss: of the validation, finite.

        Returns:
            What followed for the learning rate: "reduced", "converged" (that ended the stage) or
            "".
        """
        event = self._observe(loss) if self._config.name == "plateau" else ""
        self._leave_if_over()
        return event

    def _observe(self, loss: float) -> str:
        before = float(self._plateau_state.scale)
        _, after = self._plateau.update({}, self._plateau_state, value=jnp.float32(loss))
        after = jax.device_get(after)
        if float(after.scale) >= before:
            self._plateau_state = after
            return ""
        if self._reductions < self._config.reductions:
            self._plateau_state = after
            self._reductions += 1
            return "reduced"
        self._converged = True
        return "converged"

    @property
    def _is_last(self) -> bool:
        return self.stage == len(self._train.stage_steps) - 1

    def _leave_if_over(self) -> None:
        # The last stage stays as it is: a longer run goes on within it.
        if self.stage_over and not self._is_last:
            self._enter_stage(self.stage + 1)

    def _enter_stage(self, stage: int) -> None:
        self.stage = stage
        self.stage_step = self._reductions = 0
        self._converged = False
        self._plateau_state = jax.device_get(self._plateau.init({}))

    @property
    def state(self) -> dict[str, Any]:
        """All that decides what comes, as JSON."""
        plateau = {key: value.tolist() for key, value in self._plateau_state._asdict().items()}
        # JSON has no infinity, which is the best value before the first.
        if not math.isfinite(plateau["best_value"]):
            plateau["best_value"] = None
        return {
            "step": self.step,
            "stage": self.stage,
            "stage_step": self.stage_step,
            "reductions": self._reductions,
            "converged": self._converged,
            "plateau": plateau,
        }

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        self.step, self.stage, self.stage_step = state["step"], state["stage"], state["stage_step"]
        self._reductions, self._converged = state["reductions"], state["converged"]
        plateau = dict(state["plateau"])
        if plateau["best_value"] is None:
            plateau["best_value"] = math.inf
        fresh = jax.device_get(self._plateau.init({}))
        self._plateau_state = type(fresh)(
            **{key: np.asarray(plateau[key], like.dtype) for key, like in fresh._asdict().items()}
        )
        # The stage that was the last one may no longer be.
        self._leave_if_over()
