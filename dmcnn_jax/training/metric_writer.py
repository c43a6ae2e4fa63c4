"""What a run writes down: `log.jsonl`, one JSON a line, and TensorBoard's files.

A run that goes on from a checkpoint forgets what was written after it, so that every step is
written down once.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dmcnn_jax.system.atomic_write import write_file


class Journal:
    """The log of a workdir.

    TensorBoard's files are written if tensorboardX is installed (it needs no TensorFlow).

    Args:
        workdir: folder of the run, which is there.
        step: that the run goes on from, or 0; later records are forgotten.
    """

    def __init__(self, workdir: Path, step: int):
        path = workdir / "log.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _is_kept(line, step)]
            write_file(path, "".join(line + "\n" for line in kept).encode())
        self._file = path.open("a")
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError:
            print("no TensorBoard files: tensorboardX is not installed", file=sys.stderr)
            self._board = None
        else:
            self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Writes numbers, words and dictionaries of numbers; TensorBoard gets the numbers."""
        self._file.write(json.dumps({"step": step, **record}) + "\n")
        self._file.flush()
        if self._board is None:
            return
        for key, value in record.items():
            # What has no name of its own was measured on the training batches.
            values = {f"train/{key}": value}
            if isinstance(value, Mapping):
                values = {f"{key}/{name}": number for name, number in value.items()}
            for name, number in values.items():
                if isinstance(number, int | float):
                    self._board.add_scalar(name, number, step)

    def pictures(self, step: int, pictures: np.ndarray) -> None:
        """Shows uint8 pictures, [some, H, W], in TensorBoard, one above the other."""
        if self._board is not None:
            stacked = pictures.reshape(-1, pictures.shape[-1])
            self._board.add_image(
                "validation/original_jpeg_restored", stacked, step, dataformats="HW"
            )

    def close(self) -> None:
        """Writes what is not written yet."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _is_kept(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    # A run that was killed may have left half a line.
    except ValueError:
        return False
