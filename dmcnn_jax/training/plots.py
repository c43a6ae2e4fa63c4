"""Reads and draws a run's `log.jsonl`: as CSV, as a figure, or live in a notebook.

dmcnn-plot runs/mine -o mine.csv mine.png
"""

import contextlib
import csv
import io
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmcnn_jax.system.atomic_write import write_file
from dmcnn_jax.training.curves import draw_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def read_log(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the records that a run has written so far, oldest first."""
    path = Path(workdir) / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    records = []
    for line in lines:
        # The last line may be incomplete.
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def write_csv(workdir: str | os.PathLike, path: str | os.PathLike) -> None:
    """Writes a run's metrics as a CSV file, atomically.

    One line a record, with the columns "step", "stage", "learning_rate", "loss", "psnr",
    "jpeg_psnr" and "pixels_per_second" of training batches, and "validation_loss",
    "validation_psnr" and "validation_gain"; cells without a value are empty.

    Args:
        workdir: folder of the run.
        path: the CSV file.
    """
    training = ("stage", "learning_rate", "loss", "psnr", "jpeg_psnr", "pixels_per_second")
    validation = ("loss", "psnr", "gain")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", *training, *(f"validation_{key}" for key in validation)])
    for record in read_log(workdir):
        figures = [record.get(key) for key in training]
        figures += [record.get("validation", {}).get(key) for key in validation]
        if any(value is not None for value in figures):
            cells = (f"{v:.6g}" if isinstance(v, float) else v for v in figures)
            writer.writerow([record["step"], *("" if v is None else v for v in cells)])
    write_file(Path(path), text.getvalue().encode())


def read_csv(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the records of a table that `write_csv` wrote, as `read_log` returns them.

    Raises:
        ValueError: if the file is another table.
    """
    records = []
    with Path(path).open(newline="") as file:
        rows = csv.DictReader(file)
        if not {"step", "loss", "validation_gain"} <= set(rows.fieldnames or ()):
            raise ValueError(
                f"{str(path)!r} has no columns step, loss and validation_gain; expected curves "
                "that a training wrote"
            )
        for row in rows:
            cells: dict[str, Any] = {k: float(value) for k, value in row.items() if value}
            validation = {k: cells.pop(f"validation_{k}", None) for k in ("loss", "psnr", "gain")}
            if validation["gain"] is not None:
                cells["validation"] = validation
            records.append(cells | {"step": int(cells["step"])})
    return records


def draw(*runs: str | os.PathLike) -> "Figure":
    """Draws the curves of a run, or of runs that continue each other, one after another.

    Args:
        *runs: workdirs, or tables from `write_csv`. Several runs are joined: each begins at the
            step at which the previous one ended, marked by a vertical line with its name.

    Returns:
        A Matplotlib figure, as described at `curves.draw_runs`.

    Raises:
        ModuleNotFoundError: if Matplotlib is not installed.
    """
    names = _short_names([Path(run).stem for run in runs])
    records = [read_csv(run) if Path(run).suffix == ".csv" else read_log(run) for run in runs]
    return draw_runs(list(zip(names, records, strict=True)))


def _short_names(names: Sequence[str]) -> list[str]:
    """Returns names without the first name as a prefix, such as "long" for "qf20-long"."""
    return [name.removeprefix(f"{names[0]}-") for name in names]


@contextlib.contextmanager
def live_curves(workdir: str | os.PathLike, seconds: float = 10) -> Iterator[None]:
    """Shows a run's curves below a notebook's cell, and updates them while its block runs.

        with live_curves("runs/mine"):
            train(config, "runs/mine")

    Args:
        workdir: folder of the run.
        seconds: time between two drawings.

    Raises:
        ModuleNotFoundError: if IPython or Matplotlib is not installed.
    """
    from IPython.display import Image, display

    def picture() -> Image:
        buffer = io.BytesIO()
        draw(workdir).savefig(buffer, format="png", dpi=80)
        return Image(buffer.getvalue())

    done = threading.Event()
    handle = display(picture(), display_id=True)

    def watch() -> None:
        while not done.wait(seconds):
            handle.update(picture())

    # Training keeps the main thread, where Python handles signals.
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        handle.update(picture())
