"""The plots of `dmcnn-compare`, as PNG files."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_flops(results: Mapping[str, Any]) -> bytes:
    """Returns a PNG file of PSNR against FLOPs per pixel, one panel per table."""
    tables = results["tables"]
    figure, axes = _figure(len(tables))
    for axis, table in zip(axes, tables, strict=True):
        for row in table["rows"]:
            if row["label"] in results["profiles"]:
                x = results["profiles"][row["label"]]["flops"] / 1e3
                axis.plot(x, row["measured"]["psnr"], "o", label=row["label"])
        axis.set(title=f"{table['images']}, quality {table['quality']}", xscale="log")
        axis.set(xlabel="kFLOPs per pixel", ylabel="PSNR, dB")
        axis.margins(0.1)
        axis.grid(alpha=0.3)
        # A legend rather than labels at the points, some of which coincide.
        axis.legend(fontsize=8)
    return _png(figure)


def plot_gain(results: Mapping[str, Any]) -> bytes:
    """Returns a PNG file of PSNR gain against quality, with 95 % intervals, a panel per folder."""
    folders = list(dict.fromkeys(table["images"] for table in results["tables"]))
    figure, axes = _figure(len(folders))
    for axis, folder in zip(axes, folders, strict=True):
        tables = [table for table in results["tables"] if table["images"] == folder]
        for label in results["profiles"]:
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
            (line,) = axis.plot(qualities, means, "o-", label=label)
            low, high = ([gain[end] for _, gain in points] for end in ("low", "high"))
            axis.fill_between(qualities, low, high, alpha=0.15, color=line.get_color())
        axis.set(title=folder, xlabel="JPEG quality")
        axis.set(ylabel=f"gain over {results['against']}, dB")
        axis.grid(alpha=0.3)
        axis.legend()
    return _png(figure)


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
