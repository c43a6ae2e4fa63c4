"""Decides when a stage of training ends, and the learning rate of each step.

It runs on the host, between steps. `Schedule.state`, a small dictionary of numbers, is checkpointed
with the weights.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmcnn_jax.config.types import Config


def cooldown_factor(share: float) -> float:
    """Returns the factor of the learning rate in a cooldown: 1 - √share.

    After Hägele et al., "Scaling laws and compute-optimal training beyond fixed training durations"
    (NeurIPS 2024).

    Args:
        share: completed share of the cooldown; values above 1 count as 1.
    """
    return 1 - math.sqrt(min(1.0, share))


class Schedule:
    """The stages of `config.train`, and the learning rate by `config.schedule`.

    Args:
        config: the configuration of the run.

    Attributes:
        step: number of steps done.
        stage: index of the current stage.
        stage_step: number of steps done in the current stage.
    """

    unit = "step"

    def __init__(self, config: Config):
        self._train, self._config = config.train, config.schedule
        # Not part of the optimizer, since its patience counts validations instead of steps.
        self._plateau = optax.contrib.reduce_on_plateau(
            factor=self._config.factor, patience=self._config.patience, rtol=self._config.rtol
        )
        self._plateau_state: Any = None
        self.step = self.stage = 0
        self._enter_stage(0)

    @property
    def done(self) -> bool:
        """Whether all stages are over."""
        return self._is_last and self.stage_over

    @property
    def stage_over(self) -> bool:
        """Whether the stage has converged or done all its steps."""
        return self._converged or self.stage_step >= self._train.stage_steps[self.stage]

    @property
    def total(self) -> int:
        """Number of steps of all stages if none converges early."""
        return sum(self._train.stage_steps)

    @property
    def position(self) -> int:
        """Number of steps done."""
        return self.step

    @property
    def validation_due(self) -> bool:
        """Whether it is time to validate and to save."""
        return self.step % self._train.validate_every == 0 or self.stage_over

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        rate = self._train.learning_rate
        warmup = self._config.warmup_steps
        if self._config.name == "cosine":
            share = min(1.0, max(0, self.step - warmup) / max(1, self.total - warmup))
            floor = self._config.min_lr_ratio
            rate *= floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2
        elif self._config.name == "constant":
            cooldown = self._config.cooldown * self.total
            done = self.step - (self.total - cooldown)
            if done > 0:
                rate *= cooldown_factor(done / cooldown)
        else:
            rate *= float(self._plateau_state.scale)
            if self.stage > 0:
                rate *= self._config.restart
        return rate * min(1.0, (self.step + 1) / warmup) if warmup else rate

    def advance(self) -> None:
        """Counts a step. If `stage_over` then holds, a validation is due."""
        self.step += 1
        self.stage_step += 1

    def observe(self, loss: float) -> str:
        """Updates the learning rate by a validation loss, and enters the next stage if it is due.

        Args:
            loss: validation loss, finite.

        Returns:
            "reduced" if the learning rate was reduced, "converged" if the stage ended because it
            would have been reduced too often, otherwise "".
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
        # The last stage is never left, so that a run can be extended.
        if self.stage_over and not self._is_last:
            self._enter_stage(self.stage + 1)

    def _enter_stage(self, stage: int) -> None:
        self.stage = stage
        self.stage_step = self._reductions = 0
        self._converged = False
        self._plateau_state = jax.device_get(self._plateau.init({}))

    @property
    def state(self) -> dict[str, Any]:
        """All values that later steps depend on, as JSON."""
        plateau = {key: value.tolist() for key, value in self._plateau_state._asdict().items()}
        # Infinite before the first validation; JSON has no infinity.
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
        # The configuration may have gained stages or steps since.
        self._leave_if_over()
