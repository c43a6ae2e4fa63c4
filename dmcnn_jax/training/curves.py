"""Draws the curves of training runs: loss, learning rate, gain in PSNR, and the end of the gain.

`training.plots.draw` reads the runs; this file only draws.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Records = Sequence[Mapping[str, Any]]
"""Records of a run's log, oldest first."""

_TRAINING, _VALIDATION, _RATE = "C0", "C1", "0.5"


def draw_runs(runs: Sequence[tuple[str, Records]]) -> "Figure":
    """Draws runs that continue each other, one after another.

    Args:
        runs: name and records of each.

    Returns:
        A Matplotlib figure of three panels. Left: training loss, smoothed, and learning rate.
        Middle: gain in PSNR over the JPEG, dB, on training batches (smoothed) and on validation
        images, with the best gain of each run. Right: the end of validation, enlarged.

    Raises:
        ModuleNotFoundError: if Matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    # Without pyplot, which only the main thread may use.
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    loss, gain, end = figure.subplots(1, 3, width_ratios=(4, 5, 3))
    rate = loss.twinx()
    begins = list(_begins(runs))
    for begin, (_, records) in zip(begins, runs, strict=True):
        _draw_loss(records, begin, loss, rate)
    _finish_loss(loss, rate)
    _draw_gains(runs, begins, gain)
    if len(runs) > 1:
        _mark_runs(runs, begins, loss, gain)
    _draw_end(runs, begins, end)
    return figure


def smooth(values: Sequence[float]) -> np.ndarray:
    """Returns the centred moving average over a tenth of the values, shorter at both ends."""
    half = len(values) // 20
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _begins(runs: Sequence[tuple[str, Records]]) -> Iterator[int]:
    """Yields the step of the figure at which each run begins."""
    begin = 0
    for _, records in runs:
        yield begin
        begin += max((record["step"] for record in records), default=0)


def _draw_loss(records: Records, begin: int, loss: "Axes", rate: "Axes") -> None:
    """Draws a run's training loss, as logged and smoothed, and its learning rate."""
    training = [record for record in records if "loss" in record]
    steps = [begin + record["step"] for record in training]
    values = [record["loss"] for record in training]
    loss.plot(steps, values, color=_TRAINING, alpha=0.25, linewidth=0.8)
    loss.plot(steps, smooth(values), color=_TRAINING)
    rate.plot(steps, [r["learning_rate"] for r in training], color=_RATE, linewidth=1)


def _finish_loss(loss: "Axes", rate: "Axes") -> None:
    """Sets the labels, and limits that cut off single high losses."""
    logged = loss.lines[::2]  # the others are smoothed
    values = [float(y) for line in logged for y in np.asarray(line.get_ydata())]
    if values:
        low, high = np.quantile(values, (0.005, 0.99))
        margin = 0.05 * (high - low) or 0.05 * high
        loss.set_ylim(low - margin, high + margin)
    loss.set_ylabel("training loss", color=_TRAINING)
    loss.set_xlabel("step")
    loss.ticklabel_format(axis="y", scilimits=(-2, 3))
    rate.set_ylabel("learning rate", color=_RATE)
    rate.set_ylim(bottom=0)
    rate.ticklabel_format(axis="y", scilimits=(-2, 3))
    # The loss lies on top.
    loss.set_zorder(1)
    loss.patch.set_visible(False)


def _draw_gains(runs: Sequence[tuple[str, Records]], begins: Sequence[int], axes: "Axes") -> None:
    """Draws the gains of training batches and of validation, each labelled at its end."""
    ends: dict[str, tuple[float, float]] = {}
    shown: list[tuple[float, float]] = []
    for begin, (_, records) in zip(begins, runs, strict=True):
        training = [record for record in records if "loss" in record]
        gains = smooth([record["psnr"] - record["jpeg_psnr"] for record in training])
        batches = [(begin + r["step"], float(g)) for r, g in zip(training, gains, strict=True)]
        validations = _validations(records, begin)
        axes.plot(*_columns(batches), color=_TRAINING, alpha=0.6)
        axes.plot(*_columns(validations), "o-", color=_VALIDATION, markersize=3)
        ends |= {"training": batches[-1]} if batches else {}
        ends |= {"validation": validations[-1]} if validations else {}
        shown += batches + validations
    # The gain of the first steps from random weights would compress the rest of the curve.
    last = max((step for step, _ in shown), default=0)
    values = [gain for step, gain in shown if step >= 0.06 * last]
    if len(shown) > 20:
        margin = 0.06 * (max(values) - min(values)) or 0.01
        axes.set_ylim(min(values) - margin, max(values) + margin)
    highest = max(ends, key=lambda name: ends[name][1], default="")
    for name, point in ends.items():
        color = _TRAINING if name == "training" else _VALIDATION
        offset = (3, 4) if name == highest else (3, -4)
        label = axes.annotate(name, point, offset, textcoords="offset points", color=color)
        label.set(ha="right", va="bottom" if name == highest else "top")
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5})
    axes.set_ylabel("gain over the JPEG, dB")
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)


def _mark_runs(
    runs: Sequence[tuple[str, Records]], begins: Sequence[int], loss: "Axes", gain: "Axes"
) -> None:
    """Draws a line at the start of each run, with its name and its best validation gain."""
    for begin, (name, records) in zip(begins, runs, strict=True):
        for axes in (loss, gain):
            axes.axvline(begin, color="black", linewidth=0.5)
        best = max((gain for _, gain in _validations(records, 0)), default=None)
        text = name if best is None else f"{name} {best:.3f}"
        place = gain.get_xaxis_transform()
        gain.text(begin, 1.01, text, transform=place, fontsize="small", rotation=30)


def _draw_end(runs: Sequence[tuple[str, Records]], begins: Sequence[int], axes: "Axes") -> None:
    """Draws the last two thirds of the last run's validations, with the best gain in figures."""
    points = _validations(runs[-1][1], begins[-1])
    start = begins[-1] + (points[-1][0] - begins[-1]) / 3 if points else 0
    points = [point for point in points if point[0] >= start]
    axes.plot(*_columns(points), "o-", color=_VALIDATION, markersize=4)
    if points:
        best = max(points, key=lambda point: point[1])
        label = axes.annotate(f"{best[1]:.3f}", best, (0, 6), textcoords="offset points")
        label.set(ha="center", color=_VALIDATION)
        gains = [gain for _, gain in points]
        margin = max(0.15 * (max(gains) - min(gains)), 0.002)
        axes.set_ylim(min(gains) - margin, max(gains) + 1.5 * margin)
    axes.margins(x=0.12)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_ylabel(f"validation{f' of {runs[-1][0]}' if len(runs) > 1 else ''}, dB")
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)


def _validations(records: Records, begin: int) -> list[tuple[float, float]]:
    """Returns step of the figure and gain, dB, of each validation."""
    return [(begin + r["step"], r["validation"]["gain"]) for r in records if "validation" in r]


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Returns the first and the second numbers of pairs."""
    return [x for x, _ in points], [y for _, y in points]
