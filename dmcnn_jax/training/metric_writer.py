"""Writes a run's metrics to `log.jsonl`, one JSON object a line, and to TensorBoard files.

A resumed run first removes records written after its checkpoint, so that no step is logged twice.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dmcnn_jax.images import labels, metrics
from dmcnn_jax.system.atomic_write import write_file
from dmcnn_jax.system.hidden_modules import hiding


class MetricWriter:
    """A writer that appends to the log of a workdir.

    TensorBoard files are written as well if tensorboardX is installed (it needs no TensorFlow).

    Args:
        workdir: folder of the run; it must exist.
        step: step that the run resumes from, or 0; records of later steps are removed.
    """

    def __init__(self, workdir: Path, step: int):
        path = workdir / "log.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _is_kept(line, step)]
            write_file(path, "".join(line + "\n" for line in kept).encode())
        self._file = path.open("a")
        try:
            # tensorboardX would import PyTorch only for a type, at a cost of seconds and hundreds
            # of megabytes.
            with hiding("torch"):
                from tensorboardX import SummaryWriter
        except ModuleNotFoundError:
            print("no TensorBoard files: tensorboardX is not installed", file=sys.stderr)
            self._board = None
        else:
            self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Writes a record; TensorBoard gets only its numbers.

        Args:
            step: number of steps done.
            record: finite numbers, strings, and dictionaries of them.

        Raises:
            FloatingPointError: for a number that is infinite or NaN, which JSON can't hold.
        """
        try:
            line = json.dumps({"step": step, **record}, allow_nan=False)
        except ValueError as error:
            raise FloatingPointError(
                f"the record of step {step:,} is {dict(record)}; expected finite numbers; lower "
                "config.train.learning_rate, or report it if the loss is finite"
            ) from error
        self._file.write(line + "\n")
        self._file.flush()
        if self._board is None:
            return
        for key, value in record.items():
            # Numbers outside a dictionary were measured on the training batches.
            values = {f"train/{key}": value}
            if isinstance(value, Mapping):
                values = {f"{key}/{name}": number for name, number in value.items()}
            for name, number in values.items():
                if isinstance(number, int | float):
                    self._board.add_scalar(name, number, step)

    def write_pictures(self, step: int, pictures: np.ndarray) -> None:
        """Adds labelled pictures to TensorBoard, one above the other.

        Args:
            step: number of steps done.
            pictures: uint8 [N, side, 3 · side]: original, JPEG and restored side by side.
        """
        if self._board is not None:
            self._board.add_image(
                "validation/original_jpeg_restored", _labelled(pictures), step, dataformats="HW"
            )

    def close(self) -> None:
        """Flushes and closes all files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _labelled(pictures: np.ndarray) -> np.ndarray:
    """Labels pictures with their PSNR; returns uint8 [height, width]."""
    rows = []
    for picture in pictures:
        original, jpeg, restored = np.split(picture, 3, axis=1)
        psnrs = [metrics.psnr(original, plane) for plane in (jpeg, restored)]
        rows.append(labels.original_jpeg_restored(original, jpeg, restored, psnrs, ""))
    return labels.arrange(rows)


def _is_kept(line: str, step: int) -> bool:
    """Checks that a line is complete and of no later step than `step`."""
    try:
        return bool(json.loads(line)["step"] <= step)
    # A killed run may leave an incomplete line.
    except ValueError:
        return False
