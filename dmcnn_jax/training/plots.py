"""Reads and draws a run's `log.jsonl`: as CSV, as a figure, or live in a notebook.

dmcnn-plot runs/mine -o mine.csv mine.png
"""

import contextlib
import csv
import io
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmcnn_jax.system.atomic_write import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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


def read_csv(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the records of a table that `write_csv` wrote, as `read_log` returns them."""
    records = []
    with Path(path).open(newline="") as file:
        for row in csv.DictReader(file):
            cells: dict[str, Any] = {k: float(value) for k, value in row.items() if value}
            validation = {k: cells.pop(f"validation_{k}", None) for k in ("loss", "psnr", "gain")}
            if validation["gain"] is not None:
                cells["validation"] = validation
            records.append(cells | {"step": int(cells["step"])})
    return records


def draw(*runs: str | os.PathLike) -> "Figure":
    """Draws the curves of a run, or of runs that continue each other, one after another.

    Args:
        *runs: workdirs, or tables from `write_csv`. Of several, each begins at the step at which
            the one before ended, and a vertical line with its name stands there.

    Returns:
        A Matplotlib figure. Left: training loss and learning rate. Right: gain in PSNR over the
        JPEG, dB, on training batches and on validation tiles.

    Raises:
        ModuleNotFoundError: if Matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    # Without pyplot, which only the main thread may use.
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    rate = left.twinx()
    names = _short_names([Path(run).stem for run in runs])
    begin = 0
    for number, run in enumerate(runs):
        is_table = Path(run).suffix == ".csv"
        records = read_csv(run) if is_table else read_log(run)
        _draw_run(records, begin, left, rate, right, label=number == 0)
        if len(runs) > 1:
            for axes in (left, right):
                axes.axvline(begin, color="black", linewidth=0.5)
            top = right.get_xaxis_transform()
            right.text(begin, 1.01, names[number], transform=top, fontsize="small", rotation=30)
        begin += max((record["step"] for record in records), default=0)
    left.set_yscale("log")
    left.set(title="training loss", xlabel="step")
    rate.set_ylabel("learning rate", color="C7")
    rate.set_ylim(bottom=0)
    right.axhline(0, color="black", linewidth=0.5)
    right.set_title("PSNR over the JPEG's, dB", pad=36 if len(runs) > 1 else None)
    right.set_xlabel("step")
    right.legend(loc="lower right")
    return figure


def _short_names(names: Sequence[str]) -> list[str]:
    """Returns names without the first of them where they begin with it: "qf20-long" → "long"."""
    return [name.removeprefix(f"{names[0]}-") for name in names]


def _draw_run(
    records: Sequence[Mapping[str, Any]],
    begin: int,
    left: "Axes",
    rate: "Axes",
    right: "Axes",
    *,
    label: bool,
) -> None:
    """Draws the records of one run, whose first step is number `begin` + 1 of the figure."""
    training = [r for r in records if "loss" in r]
    validations = [r for r in records if "validation" in r]
    steps = [begin + r["step"] for r in training]
    left.plot(steps, [r["loss"] for r in training], color="C0")
    rate.plot(steps, [r["learning_rate"] for r in training], color="C7", linewidth=1)
    gains = [r["psnr"] - r["jpeg_psnr"] for r in training]
    right.plot(steps, gains, color="C0", alpha=0.4, label="training batches" if label else None)
    right.plot(
        [begin + r["step"] for r in validations],
        [r["validation"]["gain"] for r in validations],
        "o-",
        color="C1",
        label="validation" if label else None,
    )


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
