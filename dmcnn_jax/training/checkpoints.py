"""Checkpoints of a run, written by Orbax."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax


class CheckpointError(OSError):
    """A checkpoint can't be written; the message says which one is still good."""


class Checkpoints:
    """The checkpoints of a workdir: the latest, and the one whose metric was best.

    Args:
        workdir: folder of the run; checkpoints lie in `checkpoints` below it.

    Raises:
        CheckpointError: if nothing can be written there.
    """

    def __init__(self, workdir: str | os.PathLike):
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

        self._ocp = ocp
        self.path = Path(workdir).absolute() / "checkpoints"
        self._make_folder()
        self._manager = ocp.CheckpointManager(
            self.path,
            options=ocp.CheckpointManagerOptions(
                # "Best" is the highest.
                best_fn=_psnr,
                best_mode="max",
                preservation_policy=policy.AnyPreservationPolicy(
                    [
                        policy.LatestN(1),
                        policy.BestN(
                            get_metric_fn=_psnr, n=1, keep_checkpoints_without_metrics=False
                        ),
                    ]
                ),
                # What a killed run left half written, before something new is.
                cleanup_tmp_directories=True,
            ),
        )

    def _make_folder(self) -> None:
        reason = ""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror
        if reason or not os.access(self.path, os.W_OK):
            raise CheckpointError(
                f"nothing can be written to the workdir {str(self.path.parent)!r} "
                f"({reason or 'Permission denied'}); choose another with --workdir"
            )

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        # Orbax counts one that it is still writing, and that may fail.
        return max((int(p.name) for p in self.path.glob("*") if p.name.isdigit()), default=None)

    @property
    def best(self) -> int | None:
        """Step of the checkpoint whose validation PSNR was highest."""
        return self._manager.best_step()

    def save(
        self, step: int, arrays: Any, host: Mapping[str, Any], psnr: float | None = None
    ) -> None:
        """Writes a checkpoint behind the caller's back; `wait` waits for it.

        It has a temporary name until it is complete, and the checkpoints before it are kept so
        long.

        Args:
            step: its name.
            arrays: a tree of arrays.
            host: JSON.
            psnr: validation PSNR, dB; None if there was no validation: it is not the best, then.

        Raises:
            CheckpointError: if it, or the one before it, can't be written.
            jax.errors.JaxRuntimeError: if another process is gone.
        """
        args = self._ocp.args
        # A copy: Orbax writes later, when the caller's lists may have grown.
        host = json.loads(json.dumps(host))
        with self._errors():
            self._manager.save(
                step,
                args=args.Composite(arrays=args.StandardSave(arrays), host=args.JsonSave(host)),
                metrics=None if psnr is None else {"psnr": psnr},
                force=True,
            )

    def host(self, step: int) -> dict[str, Any]:
        """Reads the host's JSON of a checkpoint alone."""
        args = self._ocp.args
        return self._manager.restore(step, args=args.Composite(host=args.JsonRestore())).host

    def restore(self, step: int, arrays: Any) -> Any:
        """Reads the arrays of a checkpoint.

        Args:
            step: its name.
            arrays: a tree of arrays, or of jax.ShapeDtypeStruct with shardings, like what was
                saved; by any number of devices and processes.

        Returns:
            The arrays, placed as `arrays` is.
        """
        args = self._ocp.args
        abstract = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, arrays)
        return self._manager.restore(
            step, args=args.Composite(arrays=args.StandardRestore(abstract))
        ).arrays

    def wait(self) -> None:
        """Returns when everything is on disk; raises a CheckpointError if that fails."""
        with self._errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go."""
        with self._errors():
            self._manager.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Orbax and TensorStore raise many kinds of errors where a file can't be written."""
        try:
            yield
        except Exception as error:
            # Processes wait for each other here: no disk is to blame where one of them is gone.
            if jax.process_count() > 1 and _is_collective(error):
                raise jax.errors.JaxRuntimeError(str(error)) from error
            latest = self.latest
            good = "there is none yet"
            if latest is not None:
                good = f"that of step {latest:,} is still good"
            # TensorStore names a chain of files, and the reason last.
            reason = " ".join(str(error).split()).rsplit('": ', 1)[-1][:300]
            raise CheckpointError(
                f"a checkpoint can't be written to {str(self.path)!r} ({reason}); {good}; make "
                "room, and the same command goes on from there"
            ) from error


def _is_collective(error: Exception) -> bool:
    """Whether other processes could not be reached; a thread's error comes as another type."""
    carriers = ("Gloo", "NCCL", "oordination service")
    return isinstance(error, jax.errors.JaxRuntimeError) or any(
        carrier in str(error) for carrier in carriers
    )


def _psnr(metrics: Mapping[str, float]) -> float:
    return metrics["psnr"]
