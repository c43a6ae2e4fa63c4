"""The plots of `dmcnn-compare`, as PNG files."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox


def plot_flops(results: Mapping[str, Any]) -> bytes:
    """Returns a PNG file of PSNR against FLOPs per pixel, one panel per table.

    Systems over 1 dB worse than the JPEG would compress the scale, so they are drawn as arrows at
    the lower edge, with their PSNR.
    """
    tables = results["tables"]
    figure, axes = _figure(len(tables), side=5)
    for axis, table in zip(axes, tables, strict=True):
        _plot_systems(axis, table, results["profiles"])
        axis.set(title=f"{table['images']}, quality {table['quality']}", xscale="log")
        axis.set(xlabel="kFLOP per pixel", ylabel="PSNR, dB")
        axis.margins(x=0.25, y=0.15)  # labels stand to the right of points
        axis.grid(alpha=0.3)
        _spread_labels(axis)
    return _png(figure)


def _plot_systems(axis: "Axes", table: Mapping[str, Any], profiles: Mapping[str, Any]) -> None:
    """Draws the JPEG as a line and each system as a point, labelled."""
    scores = {row["label"]: row["measured"]["psnr"] for row in table["rows"] if row["measured"]}
    floor = min(scores.values())
    if "JPEG" in scores:
        floor = max(floor, scores["JPEG"] - 1)
        axis.axhline(scores["JPEG"], color="0.5", linewidth=1)
        place = axis.get_yaxis_transform()
        axis.text(0.99, scores["JPEG"], "JPEG", transform=place, color="0.5", ha="right", va="top")
    for number, (label, score) in enumerate(scores.items()):
        if label not in profiles:
            continue
        x = profiles[label]["flops"] / 1e3
        text = label if score >= floor else f"{label}: {score:.2f}"
        y, marker = max(score, floor), "o" if score >= floor else "v"
        axis.plot(x, y, marker, color=f"C{number}")
        _label(axis, x, y, text, f"C{number}")


def plot_gain(results: Mapping[str, Any]) -> bytes:
    """Returns a PNG file of PSNR gain against quality, with 95 % intervals, a panel per folder."""
    folders = list(dict.fromkeys(table["images"] for table in results["tables"]))
    figure, axes = _figure(len(folders), side=5)
    for axis, folder in zip(axes, folders, strict=True):
        tables = [table for table in results["tables"] if table["images"] == folder]
        for number, label in enumerate(results["profiles"]):
            points = [
                (table["quality"], row["gain"])
                for table in tables
                for row in table["rows"]
                if row["label"] == label and row["gain"]
            ]
            if not points:
                continue
            qualities = [quality for quality, _ in points]
            means = [gain["mean"] for _, gain in points]
            color = f"C{number}"
            axis.plot(qualities, means, "o-", color=color)
            low, high = ([gain[end] for _, gain in points] for end in ("low", "high"))
            axis.fill_between(qualities, low, high, alpha=0.15, color=color)
            _label(axis, qualities[-1], means[-1], label, color)
        axis.margins(x=0.25)  # labels stand to the right of points
        axis.set(title=folder, xlabel="JPEG quality")
        axis.set(ylabel=f"gain over {results['against']}, dB")
        axis.grid(alpha=0.3)
        _spread_labels(axis)
    return _png(figure)


def _label(axis: "Axes", x: float, y: float, text: str, color: str) -> None:
    """Writes a label to the right of a point."""
    label = axis.annotate(text, (x, y), (6, 0), textcoords="offset points", color=color)
    label.set(fontsize=8, va="center")


def _spread_labels(axis: "Axes") -> None:
    """Moves labels that would cover each other apart, upwards."""
    from matplotlib.text import Annotation

    figure = axis.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    labels = [text for text in axis.texts if isinstance(text, Annotation)]
    placed: list[Bbox] = []
    for label in sorted(labels, key=lambda label: label.get_window_extent().y0):
        box = label.get_window_extent()
        raised = 0.0
        for other in placed:
            if box.overlaps(other):
                raised += other.y1 - box.y0 + 1
                box = box.translated(0, other.y1 - box.y0 + 1)
        x, y = label.xyann
        label.xyann = (x, y + raised * 72 / figure.dpi)
        placed.append(box)


def plot_crops(pictures: Mapping[str, np.ndarray], quality: int) -> bytes:
    """Returns a PNG file of crops side by side, enlarged without smoothing.

    Args:
        pictures: uint8 [H, W] by label; "original" is what the others' PSNR refers to.
        quality: JPEG quality, for the title.
    """
    figure, axes = _figure(len(pictures), side=2.6)
    original = pictures["original"].astype(np.float64)
    for axis, (label, picture) in zip(axes, pictures.items(), strict=True):
        error = np.mean((picture - original) ** 2)
        psnr = 10 * np.log10(255**2 / max(float(error), 1e-9))
        decibels = "" if label == "original" else f"\n{psnr:.2f} dB"
        axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(label + decibels, fontsize=9)
        axis.axis("off")
    figure.suptitle(f"quality {quality}", fontsize=9)
    return _png(figure)


def _figure(panels: int, side: float = 4.2) -> tuple["Figure", Sequence["Axes"]]:
    """Returns a figure and its axes, in rows of up to four panels of `side` inches."""
    from matplotlib import pyplot

    columns = min(4, panels)
    rows = -(-panels // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(columns * side, rows * side), squeeze=False, layout="constrained"
    )
    for axis in axes.ravel()[panels:]:
        axis.axis("off")
    return figure, list(axes.ravel()[:panels])


def _png(figure: "Figure") -> bytes:
    """Returns a figure as a PNG file, and closes it."""
    from matplotlib import pyplot

    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    pyplot.close(figure)
    return content.getvalue()
