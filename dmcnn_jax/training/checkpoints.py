"""Writes checkpoints of a run, by Orbax, in the background.

A checkpoint is a folder named by its step, with four items: "arrays", "host" (JSON), "checksums" of
both, and "metrics", the validation loss. `checkpoint_reading` reads and verifies it.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from dmcnn_jax.training.checksums import make_checksums

FOLDER = "checkpoints"
"""Name of the folder of checkpoints in a workdir."""


class CheckpointError(OSError):
    """A checkpoint that can't be written or read; the message names a good one, if there is one."""


def complete_steps(workdir: Path) -> list[int]:
    """Returns the steps of a workdir's complete checkpoints, newest first."""
    # Orbax's own list would include a checkpoint that is still being written.
    names = (path.name for path in (workdir / FOLDER).glob("*"))
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


class Checkpoints:
    """The checkpoints of a workdir: keeps the latest two and the one of lowest validation loss.

    Opening them removes checkpoints that a killed run left half-written; the workdir must be
    locked.

    Args:
        workdir: folder of the run; checkpoints are kept in its subfolder `checkpoints`.

    Raises:
        CheckpointError: if the folder can't be written to.
    """

    def __init__(self, workdir: str | os.PathLike):
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

        self._ocp = ocp
        self.path = Path(workdir).absolute() / FOLDER
        self._make_folder()
        self._manager = ocp.CheckpointManager(
            self.path,
            options=ocp.CheckpointManagerOptions(
                best_fn=_loss,
                best_mode="min",
                preservation_policy=policy.AnyPreservationPolicy(
                    [
                        policy.LatestN(2),  # the second is used if the first is damaged
                        policy.BestN(
                            get_metric_fn=_loss,
                            reverse=True,  # BestN keeps the last of the sorted checkpoints
                            n=1,
                            keep_checkpoints_without_metrics=False,
                        ),
                    ]
                ),
                # Removes checkpoints that a killed run left half-written.
                cleanup_tmp_directories=True,
            ),
        )

    def _make_folder(self) -> None:
        reason = ""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
        if reason or not os.access(self.path, os.W_OK):
            raise CheckpointError(
                f"nothing can be written to the workdir {str(self.path.parent)!r} "
                f"({reason or 'Permission denied'}); choose another with --workdir"
            )

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint; None if there is none."""
        return next(iter(complete_steps(self.path.parent)), None)

    @property
    def best(self) -> int | None:
        """Step of the checkpoint of lowest validation loss; None if there is none."""
        step: int | None = self._manager.best_step()
        return step

    def save(
        self, step: int, arrays: Any, host: Mapping[str, Any], loss: float | None = None
    ) -> None:
        """Starts writing a checkpoint in the background; `wait` waits for it.

        It has a temporary name until it is complete; earlier checkpoints are removed only then.

        Args:
            step: number of steps done, which names the checkpoint.
            arrays: a pytree of arrays.
            host: values of the host, JSON.
            loss: validation loss; None without a validation, so that it can't be the best.

        Raises:
            CheckpointError: if this checkpoint, or the previous one, can't be written.
            jax.errors.JaxRuntimeError: if another process has died.
        """
        args = self._ocp.args
        # A copy, since Orbax writes it later, when the caller may have changed its lists.
        host = json.loads(json.dumps(host))
        with self._errors():
            self._manager.save(
                step,
                args=args.Composite(
                    arrays=args.StandardSave(arrays),
                    host=args.JsonSave(host),
                    checksums=args.JsonSave(make_checksums(arrays, host, loss)),
                ),
                metrics=None if loss is None else {"loss": loss},
                force=True,
            )

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
            CheckpointError: if something can't be written.
        """
        with self._errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is on disk, and releases Orbax's threads."""
        with self._errors():
            self._manager.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Converts the many kinds of errors of Orbax and TensorStore to a CheckpointError."""
        try:
            yield
        except Exception as error:
            # Processes wait for each other here, so a dead process must not be reported as a disk
            # error.
            if jax.process_count() > 1 and _is_collective(error):
                raise jax.errors.JaxRuntimeError(str(error)) from error
            latest = self.latest
            good = "there is none yet"
            if latest is not None:
                good = f"that of step {latest:,} is still good"
            # TensorStore names a chain of files; the reason comes last.
            reason = " ".join(str(error).split()).rsplit('": ', 1)[-1][:300]
            raise CheckpointError(
                f"a checkpoint can't be written to {str(self.path)!r} ({reason}); {good}; make "
                "room, and the same command resumes from there"
            ) from error


def _is_collective(error: Exception) -> bool:
    """Checks whether an error is about processes that can't be reached.

    The text is searched as well, since Orbax's threads re-raise errors with another type.
    """
    carriers = ("Gloo", "NCCL", "oordination service")
    return isinstance(error, jax.errors.JaxRuntimeError) or any(
        carrier in str(error) for carrier in carriers
    )


def _loss(metrics: Mapping[str, float]) -> float:
    return metrics["loss"]
