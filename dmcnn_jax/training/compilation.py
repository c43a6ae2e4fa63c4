"""Compiles the programs of a run ahead of their first use, on other threads.

An accelerator's compiler tries out many kernels, and takes up to a minute for a training step. The
programs of a stage are compiled at once, on all cores, and those of the next stage while the
current one trains.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from dmcnn_jax.config.types import Config
from dmcnn_jax.data import feeds
from dmcnn_jax.training.trainer import Trainer, TrainState
from dmcnn_jax.training.validation import Validation


class AheadOfTime:
    """The programs of a run that are compiled ahead.

    A context manager: leaving it drops what has not begun, and waits for the rest, unless by an
    error or an interrupt.

    Args:
        trainer: its training steps are compiled.
        validation: its measurement is compiled with the first stage, but not waited for.
        feed: shows what the steps are compiled for.
        config: the configuration of the run.
        write: prints a line for each program.
    """

    def __init__(
        self,
        trainer: Trainer,
        validation: Validation,
        feed: feeds.Feed,
        config: Config,
        write: Callable[[str], None],
    ):
        self._trainer, self._validation, self._feed = trainer, validation, feed
        self._patch_sizes, self._write = config.train.patch_sizes, write
        self._state = trainer.abstract_state()
        self._pool = ThreadPoolExecutor(4)
        self._begun: dict[int, list[Future[None]]] = {}
        self._measure: Future[None] | None = None

    def enter_stage(self, stage: int) -> None:
        """Waits for the programs of a stage, and begins to compile those of the next one."""
        for program in self._begin(stage):
            program.result()
        if self._measure is None:
            self._measure = self._submit("validation", self._compile_validation)
        if stage + 1 < len(self._patch_sizes):
            self._begin(stage + 1)

    def _begin(self, stage: int) -> list[Future[None]]:
        if stage not in self._begun:
            patch = self._patch_sizes[stage]
            self._begun[stage] = [
                self._submit(f"step of {patch} × {patch} pixels", self._compile_step, inputs, patch)
                for inputs in feeds.example_inputs(self._feed, stage)
            ]
        return self._begun[stage]

    def _submit(self, name: str, compile_: Callable[..., bool], *arguments: object) -> Future[None]:
        def run() -> None:
            before = time.perf_counter()
            if compile_(*arguments):
                self._write(f"compiled in {time.perf_counter() - before:.1f} s: {name}")

        return self._pool.submit(run)

    def _compile_step(self, inputs: feeds.Inputs, patch: int) -> bool:
        return self._trainer.compile_step(self._state, inputs, patch)

    def _compile_validation(self) -> bool:
        state: TrainState = self._state
        self._validation.compile(self._trainer.module, self._trainer.variables(state))
        return True

    def __enter__(self) -> "AheadOfTime":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=True)


def is_worthwhile(config: Config) -> bool:
    """Returns whether programs take long to compile here, or a run's time is limited."""
    return jax.default_backend() != "cpu" or config.schedule.name == "clock"
