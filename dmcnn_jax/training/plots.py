"""Reads and draws a run's `log.jsonl`: as CSV, as a figure, or live in a notebook.

dmcnn-plot runs/mine -o mine.csv mine.png
"""

import contextlib
import csv
import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmcnn_jax.system.atomic_write import write_file

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
    "validation_psnr" and "validation_gain"; cells that a record has no value for are empty.

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


def draw(workdir: str | os.PathLike) -> "Figure":
    """Draws a run's curves.

    Args:
        workdir: folder of the run.

    Returns:
        A Matplotlib figure. Left: training loss and learning rate. Right: gain in PSNR over the
        JPEG, dB, on training batches and on validation tiles.

    Raises:
        ModuleNotFoundError: if Matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    records = read_log(workdir)
    training = [r for r in records if "loss" in r]
    validations = [r for r in records if "validation" in r]
    steps = [r["step"] for r in training]

    # Not by pyplot, which only the main thread may use.
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.semilogy(steps, [r["loss"] for r in training], color="C0")
    left.set(title="training loss", xlabel="step")
    rate = left.twinx()
    rate.plot(steps, [r["learning_rate"] for r in training], color="C7", linewidth=1)
    rate.set_ylabel("learning rate", color="C7")
    rate.set_ylim(bottom=0)
    gains = [r["psnr"] - r["jpeg_psnr"] for r in training]
    right.plot(steps, gains, color="C0", alpha=0.4, label="training batches")
    right.plot(
        [r["step"] for r in validations],
        [r["validation"]["gain"] for r in validations],
        "o-",
        color="C1",
        label="validation",
    )
    right.axhline(0, color="black", linewidth=0.5)
    right.set(title="PSNR over the JPEG's, dB", xlabel="step")
    right.legend(loc="lower right")
    return figure


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
