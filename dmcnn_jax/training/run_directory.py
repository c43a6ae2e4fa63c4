"""The files of a run: lock, configuration, log, weights and checkpoints in its workdir."""

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dmcnn_jax.config.types import Config
from dmcnn_jax.config.validation import check_resumable
from dmcnn_jax.inference.weights import save_weights
from dmcnn_jax.system import devices
from dmcnn_jax.system.atomic_write import write_file
from dmcnn_jax.training import checkpoint_reading
from dmcnn_jax.training.checkpoints import FOLDER, Checkpoints, complete_steps
from dmcnn_jax.training.metric_writer import MetricWriter
from dmcnn_jax.training.progress import print_on_main
from dmcnn_jax.training.trainer import TrainState
from dmcnn_jax.training.workdir_lock import WorkdirInUseError, WorkdirLock


class RunDirectory:
    """The files of a run.

    Each process of a run has one. All processes write checkpoints together; only the main process
    writes everything else.

    Args:
        path: the workdir.
        config: the configuration of the run.

    Attributes:
        path: the workdir, which is locked until `close`.

    Raises:
        WorkdirInUseError: if another process trains in it.
        OSError: if nothing can be written to it.
        ConnectionError: if another process of this run has ended.
    """

    def __init__(self, path: Path, config: Config):
        self.path, self._config = path, config
        self._lock = _lock(path)
        self._checkpoints: Checkpoints | None = None
        self._writer: MetricWriter | None = None
        self._saved_step: int | None = None
        self._written_step: int | None = None
        self._best_loss = math.inf

    @property
    def last_checkpoint(self) -> str:
        """A description of the newest complete checkpoint."""
        step = next(iter(complete_steps(self.path)), None)
        return f"that of step {step:,} in {str(self.path)!r}" if step is not None else "none yet"

    @property
    def has_best(self) -> bool:
        """Whether there are validated weights, from which another run can start."""
        return (self.path / "best.safetensors").exists()

    def read_newest(self, abstract: TrainState) -> tuple[dict[str, Any], TrainState] | None:
        """Reads the newest undamaged checkpoint, if there is one; sets damaged ones aside.

        Args:
            abstract: shapes and shardings of the arrays.

        Returns:
            The host's values, "schedule" and "step_metrics" among them, and the arrays; None if
            there is no checkpoint.

        Raises:
            ValueError: if the run was begun with another configuration.
            CheckpointError: if all checkpoints are damaged.
        """
        # Processes read together, so they have to see the same checkpoints.
        devices.check_agreement(f"{self.path} {complete_steps(self.path)}")

        def check_host(host: Mapping[str, Any]) -> None:
            check_resumable(host["config"], self._config, host["schedule"], str(self.path))

        newest = checkpoint_reading.read_newest(self.path, abstract, check_host, print_on_main)
        if newest is None:
            return None
        self._saved_step, host, state = newest
        if host["best_loss"] is not None:
            self._best_loss = host["best_loss"]
        return host, state

    def check_images(self, host: Mapping[str, Any], images: Mapping[str, str]) -> None:
        """Checks that a run resumes with its original images.

        Args:
            host: the host's values of a checkpoint.
            images: fingerprints of the "training" and "validation" images.

        Raises:
            ValueError: if the images differ.
        """
        for which, found in images.items():
            if found != host["images"][which]:
                raise ValueError(
                    f"the {which} images are not those that the run in {str(self.path)!r} was "
                    f"begun with ({host['images'][which]}, now {found}); bring them back, or "
                    "choose another workdir"
                )

    def begin(self, step: int) -> None:
        """Opens the checkpoints, writes the configuration, and opens the log after a step."""
        self._checkpoints = Checkpoints(self.path)
        if devices.is_main():
            self.path.mkdir(parents=True, exist_ok=True)
            text = self._config.to_json_best_effort(indent=2) + "\n"
            write_file(self.path / "config.json", text.encode())
            self._writer = MetricWriter(self.path, step)

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        """Adds a record of finite numbers and strings to the log."""
        if self._writer is not None:
            self._writer.write(step, record)

    def write_validated(
        self,
        step: int,
        variables: Mapping[str, Any],
        result: Mapping[str, float],
        pictures: np.ndarray,
    ) -> None:
        """Writes validated weights: as `last`, and as `best` if the loss is the lowest so far.

        Args:
            step: number of steps done.
            variables: the weights.
            result: figures from `Validation`; "loss" decides.
            pictures: from `Validation`, for TensorBoard.
        """
        # The same criterion as for the checkpoint that Orbax preserves: the lowest loss.
        improved = result["loss"] < self._best_loss
        self._best_loss = min(self._best_loss, result["loss"])
        if self._writer is None:
            return
        self._writer.write_pictures(step, pictures)
        about = self._about(step) | {"validation": dict(result)}
        for name in ["best", "last"] if improved else ["last"]:
            save_weights(self.path / f"{name}.safetensors", variables, about)
        self._written_step = step

    def write_last(self, step: int, variables: Mapping[str, Any]) -> None:
        """Writes unvalidated weights as `last`, unless this step's are already written.

        Args:
            step: number of steps done.
            variables: the weights.
        """
        if self._writer is not None and self._written_step != step:
            save_weights(self.path / "last.safetensors", variables, self._about(step))

    def _about(self, step: int) -> dict[str, Any]:
        """Returns the metadata of a weights file."""
        config = self._config
        return {
            "model": config.model.to_dict(),
            "name": config.name,
            "quality": config.quality,
            "quality_range": list(config.quality_range),
            "luma": config.data.luma,
            "step": step,
        }

    def has_checkpoint(self, step: int) -> bool:
        """Returns whether the newest checkpoint, even one being written, is of a given step."""
        return self._saved_step == step

    def save_checkpoint(
        self,
        step: int,
        state: TrainState,
        host: Mapping[str, Any],
        images: Mapping[str, str],
        loss: float | None = None,
    ) -> None:
        """Starts writing a checkpoint; see `Checkpoints.save`, and `check_images` for `images`."""
        self._saved_step = step
        best_loss = self._best_loss if math.isfinite(self._best_loss) else None
        config = self._config.to_dict()
        host = {**host, "best_loss": best_loss, "config": config, "images": images}
        self._opened_checkpoints.save(step, state, host, loss)

    def wait(self) -> None:
        """Waits until checkpoints are on disk; raises a CheckpointError if one can't be written."""
        self._opened_checkpoints.wait()

    def close(self, error: BaseException | None) -> None:
        """Closes all files and frees the lock.

        Args:
            error: the exception that ends the run; errors while closing are then suppressed, since
                they would hide it.
        """
        suppressed = () if error is None else (Exception,)
        try:
            with contextlib.suppress(*suppressed):
                if self._writer is not None:
                    self._writer.close()
            with contextlib.suppress(*suppressed):
                # Waits for a checkpoint that is being written, but not for processes that have
                # died.
                if self._checkpoints is not None and not isinstance(error, ConnectionError):
                    self._checkpoints.close()
        finally:
            if self._lock is not None:
                with contextlib.suppress(OSError):  # it holds checkpoints
                    (self.path / FOLDER).rmdir()
                self._lock.release()

    @property
    def _opened_checkpoints(self) -> Checkpoints:
        assert self._checkpoints is not None  # `begin` comes first
        return self._checkpoints


def _lock(path: Path) -> WorkdirLock | None:
    """Locks the workdir in the main process, for all processes of the run."""
    lock, refusal = None, None
    if devices.is_main():
        try:
            lock = WorkdirLock(path)
        except OSError as error:
            refusal = error
    try:
        devices.check_agreement(str(path))
        refused = devices.any_process(refusal is not None)
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    if refused:
        raise refusal or WorkdirInUseError(f"process 0 can't train in the workdir {str(path)!r}")
    if lock is not None and not lock.works:
        print_on_main(
            f"the file system of {str(path)!r} has no locks: start no second run in this workdir"
        )
    return lock
