"""Compiles the programs of a run before their first use, and reports it.

A training step takes half a minute to a minute to compile. On an accelerator, whose compiler tries
out many kernels, the programs of a stage are compiled simultaneously, on all cores, and those of
the next stage while the current stage trains. On a CPU, each program is compiled when first needed.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import jax

from dmcnn_jax import jpeg
from dmcnn_jax.config.types import Config
from dmcnn_jax.data import feeds
from dmcnn_jax.training.trainer import Trainer, TrainState
from dmcnn_jax.training.validation import Validation


class Programs(Protocol):
    """The programs of a run, compiled before use."""

    def before_step(self, state: TrainState, inputs: feeds.Inputs, stage: int) -> None:
        """Blocks until the program of a step is compiled.

        Args:
            state: the state that the step starts from.
            inputs: the step's inputs.
            stage: index of its stage.
        """

    def before_validation(self) -> None:
        """Blocks until the program of a validation is compiled."""


def compiled_programs(
    trainer: Trainer,
    validation: Validation,
    feed: feeds.Feed,
    config: Config,
    write: Callable[[str], None],
) -> AbstractContextManager[Programs]:
    """Returns the faster way, on this device, to compile the programs of a run.

    Args:
        trainer: its training steps are compiled.
        validation: its measurement is compiled.
        feed: shows what the steps are compiled for.
        config: the configuration of the run.
        write: prints a line.
    """
    # With limited time, other cores can compile later programs meanwhile.
    if jax.default_backend() != "cpu" or config.schedule.name == "clock":
        return AheadOfTime(trainer, validation, feed, config, write)
    return nullcontext(OnDemand(trainer, validation, config, write))


class OnDemand:
    """Programs compiled when first needed.

    Args:
        trainer: see `compiled_programs`.
        validation: see `compiled_programs`.
        config: see `compiled_programs`.
        write: see `compiled_programs`.
    """

    def __init__(
        self,
        trainer: Trainer,
        validation: Validation,
        config: Config,
        write: Callable[[str], None],
    ):
        self._trainer, self._validation = trainer, validation
        self._patch_sizes, self._write = config.train.patch_sizes, write

    def before_step(self, state: TrainState, inputs: feeds.Inputs, stage: int) -> None:
        """Compiles the program of a step; see `Programs`."""
        patch = self._patch_sizes[stage]
        if not self._trainer.is_compiled(inputs, patch):
            with _reporting(_step_name(inputs, patch), self._write):
                self._trainer.compile_step(state, inputs, patch)

    def before_validation(self) -> None:
        """Compiles the program of a validation; see `Programs`."""
        if not self._validation.is_compiled:
            with _reporting("validation", self._write):
                _compile_validation(self._trainer, self._validation)


class AheadOfTime:
    """Programs compiled ahead by other threads.

    A context manager. Leaving it drops compilations that have not begun, and waits for the others,
    except after an error or an interrupt.

    Args:
        trainer: see `compiled_programs`.
        validation: see `compiled_programs`; its program is begun with the first stage.
        feed: see `compiled_programs`.
        config: see `compiled_programs`.
        write: see `compiled_programs`.
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
        self._stage: int | None = None

    def before_step(self, state: TrainState, inputs: feeds.Inputs, stage: int) -> None:
        """Waits for all programs of the stage, and begins those of the next; see `Programs`."""
        del state, inputs
        if stage == self._stage:
            return
        self._stage = stage
        for program in self._begin(stage):
            program.result()
        if self._measure is None:
            self._measure = self._submit("validation", self._compile_validation)
        if stage + 1 < len(self._patch_sizes):
            self._begin(stage + 1)

    def before_validation(self) -> None:
        """Waits for the program of a validation; see `Programs`."""
        if self._measure is not None:
            self._measure.result()

    def _begin(self, stage: int) -> list[Future[None]]:
        if stage not in self._begun:
            patch = self._patch_sizes[stage]
            self._begun[stage] = [
                self._submit(_step_name(inputs, patch), self._compile_step, inputs, patch)
                for inputs in feeds.example_inputs(self._feed, stage)
                if not self._trainer.is_compiled(inputs, patch)
            ]
        return self._begun[stage]

    def _submit(self, name: str, compile_: Callable[..., None], *arguments: object) -> Future[None]:
        def run() -> None:
            with _reporting(name, self._write):
                compile_(*arguments)

        return self._pool.submit(run)

    def _compile_step(self, inputs: feeds.Inputs, patch: int) -> None:
        self._trainer.compile_step(self._state, inputs, patch)

    def _compile_validation(self) -> None:
        _compile_validation(self._trainer, self._validation)

    def __enter__(self) -> "AheadOfTime":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=True)


def _compile_validation(trainer: Trainer, validation: Validation) -> None:
    state: TrainState = trainer.abstract_state()
    validation.compile(trainer.module, trainer.variables(state))


def _step_name(inputs: feeds.Inputs, patch: int) -> str:
    """Returns a description of a training step."""
    factors = getattr(inputs, "subsampling", None)
    names = [f", {name}" for name, known in jpeg.SUBSAMPLING_FACTORS.items() if known == factors]
    return f"step of {patch} × {patch} pixels{''.join(names)}"


@contextmanager
def _reporting(name: str, write: Callable[[str], None]) -> Iterator[None]:
    """Prints the name of a program before the block, and the block's duration after it."""
    before = time.perf_counter()
    write(f"compiling the {name} …")
    yield
    write(f"compiled the {name} in {time.perf_counter() - before:.1f} s")
