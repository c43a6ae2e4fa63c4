"""The benchmark's results as Markdown tables."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


def to_markdown(results: Mapping[str, Any]) -> str:
    """Returns the results as Markdown tables.

    Args:
        results: `Benchmark.results`, of as many sections as were measured.
    """
    machine = results.get("machine", {})
    if not machine:
        return "Nothing was measured."
    rates = machine.get("matrix_product", {})
    lines = [
        f"{machine.get('devices')} × {machine.get('device')}, {machine.get('cores')} CPU cores; "
        f"JAX {machine.get('jax')}, {machine.get('peer') or 'nothing to compare with'}; load "
        f"{machine.get('load', 0):.1f} at the start. Matrix products: "
        + ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in rates.items())
        + f"; memory {machine.get('memory', 0) / 1e9:,.0f} GB/s. Medians of "
        f"{'up to ' * ('seconds' in results)}{results['settings']['rounds']} rounds in turn "
        "(lowest to highest).",
        "",
    ]
    for section, (title, make_lines) in _TABLES.items():
        table = dict(results.get(section) or {})
        if error := table.pop("error", None):
            lines += [f"**{title}**: {error}", ""]
        if table:
            lines += make_lines(title, table)
    for what in results.get("left_out", ()):
        lines.append(f"No time was left for: {what}.")
    for what, error in results.get("failed", {}).items():
        lines.append(f"**{what}**: {error}")
    return "\n".join(lines)


def _lines_compared(title: str, table: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"**{title}**, {table['pixels']:,} pixels", "")
    yield (
        "| | seconds | CPU seconds | Mpixel/s | TFLOP/s | of matrix products | of roofline | first "
        "| cached | memory, MB |"
    )
    yield "| --- " + "| ---: " * 9 + "|"
    for name, row in table["rows"].items():
        cold = row.get("compile_cold", row.get("first_cold", row.get("first")))
        cached = row.get("compile_cached", row.get("first_cached"))
        cells = [
            name,
            _show(row["seconds"]),
            _show(row["cpu_seconds"]),
            f"{row['pixels_per_second'] / 1e6:.3g}",
            f"{row['rate'] / 1e12:.3g}" if row.get("rate") else "",
            _percent(row.get("share_of_matrix_product")),
            _percent(row.get("share_of_roofline")),
            f"{cold:.1f} s" if cold else "",
            f"{cached:.1f} s" if cached else "",
            f"{row['memory'] / 1e6:,.0f}" if row.get("memory") else "",
        ]
        yield "| " + " | ".join(cells) + " |"
    yield ""
    if table["speed"]:
        yield from ("| times as fast | by the clock | by CPU time |", "| --- | ---: | ---: |")
        for name, ratio in table["speed"].items():
            yield f"| {name} | {_show(ratio['wall'])} | {_show(ratio['cpu'])} |"
        yield ""
    if title in _DIFFERENCES and any(name.startswith("torch") for name in table["rows"]):
        yield from (_DIFFERENCES[title], "")


def _lines_pairs(title: str, table: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"**{title}**", "", "| | Mpixel/s | |", "| --- | ---: | --- |")
    for name, row in table.items():
        if "error" in row:
            yield f"| {name} | | {row['error']} |"
            continue
        note = ""
        if "share_of_step" in row:
            note = f"{row['share_of_step']:.1%} of a step"
        if "speed_against_pillow" in row:
            note = f"{_show(row['speed_against_pillow'])} of Pillow on all cores"
        yield f"| {name} | {row['pixels_per_second'] / 1e6:.3g} | {note} |"
    yield ""


def _lines_layers(title: str, tables: Mapping[str, Any]) -> Iterator[str]:
    for name, table in tables.items():
        yield from (
            f"**{title}, {name}, {table['dtype']}**: "
            f"{1e3 * table['seconds']:,.1f} ms, at least {1e3 * table['bound']:,.1f} ms; the "
            "costliest:",
            "",
            "| layer | shapes | ms | at least | GFLOP/s |",
            "| --- | --- | ---: | ---: | ---: |",
        )
        rows = sorted(table["rows"], key=lambda row: -row["seconds"])
        for row in rows[:12]:
            yield (
                f"| {row['name']} | {row['shape']} | {1e3 * row['seconds']:,.2f} "
                f"| {1e3 * row['bound']:,.2f} | {row['flops'] / row['seconds'] / 1e9:,.0f} |"
            )
        yield ""


def _lines_kernels(title: str, tables: Mapping[str, Any]) -> Iterator[str]:
    names = list(next(iter(tables.values())))
    yield from (f"**{title}**, ms (GFLOP/s)", "")
    yield "| | " + " | ".join(names) + " |"
    yield "| --- " + "| ---: " * len(names) + "|"
    for shape, table in tables.items():
        cells = [
            f"{1e3 * row['seconds']['median']:.1f} ({row['rate'] / 1e9:,.0f})"
            for row in table.values()
        ]
        yield f"| {shape} | " + " | ".join(cells) + " |"
    yield ""


def _lines_workarounds(title: str, tables: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"**{title}**, ms", "", "| | XLA | this package | ratio |")
    yield "| --- | ---: | ---: | ---: |"
    for name, table in tables.items():
        xla, ours = (table[which]["seconds"]["median"] for which in ("XLA", "ours"))
        yield f"| {name} | {1e3 * xla:.2f} | {1e3 * ours:.2f} | {xla / ours:.1f} |"
    yield ""


def _lines_growth(title: str, growth: Mapping[str, Any]) -> Iterator[str]:
    for name in (name for name in growth if name.startswith("area")):
        yield from _lines_area(name, growth[name])
    for kind in ("batch", "devices"):
        if kind in growth:
            yield from _lines_batch(kind, growth[kind])


def _lines_area(name: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from (
        f"**Cost by {name}**",
        "",
        "| side | tiles | Mpixel/s | computed / pixels | ns a computed pixel | memory, MB |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    )
    for row in rows:
        (down, height), (across, width) = row["tiles"]
        yield (
            f"| {row['side']} | {down} × {across} of {height} × {width} "
            f"| {row['pixels_per_second'] / 1e6:.3g} | {row['computed']:.2f} "
            f"| {row['nanoseconds_per_computed_pixel']:,.0f} | {row['memory'] / 1e6:,.0f} |"
        )
    yield ""


def _lines_batch(kind: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from (f"**Training by {kind}**", "")
    yield from (f"| {kind} | Mpixel/s | by CPU time |", "| ---: | ---: | ---: |")
    for row in rows:
        rate = row["pixels_per_second"] / 1e6
        by_cpu = rate * row["seconds"]["median"] / max(1e-9, row["cpu_seconds"]["median"])
        yield f"| {row[kind]} | {rate:.3g} | {by_cpu:.3g} |"
    yield ""


def _lines_start(title: str, table: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        f"**{title}**",
        "",
        "| | seconds | CPU seconds | spent on |",
        "| --- | ---: | ---: | --- |",
    )
    for name, runs in table.items():
        if "error" in runs:
            yield f"| {name} | | | {runs['error']} |"
            continue
        for temperature, run in runs.items():
            parts = ", ".join(f"{part} {seconds:.2f}" for part, seconds in run["parts"].items())
            yield (
                f"| {name}, {temperature} | {run['seconds']:.2f} | {run['cpu_seconds']:.2f} "
                f"| {parts} |"
            )
    yield ""


def _show(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:.3g} ({spread['low']:.3g}–{spread['high']:.3g})"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


_TRAIN, _RESTORE = "A training step", "Restoring an image"

_DIFFERENCES = {
    _TRAIN: "Both steps run the network forward and backward and update its weights by Adam. Ours "
    "also makes the training pairs, averages the weights over time, and measures PSNR and the "
    "gradient's norm; PyTorch's is given one finished batch. In bfloat16, PyTorch's autocast "
    "includes the DCT branch, which ours computes in float32.",
    _RESTORE: "Both go from coefficients to pixels in the host's memory: ours in overlapping "
    "tiles, PyTorch over the whole plane at once. In bfloat16, PyTorch's autocast includes the DCT "
    "branch, which ours computes in float32.",
}
"""What the programs that a table compares do differently."""

_TABLES: dict[str, tuple[str, Callable[[str, Mapping[str, Any]], Iterator[str]]]] = {
    "train": (_TRAIN, _lines_compared),
    "restore": (_RESTORE, _lines_compared),
    "pairs": ("Training pairs", _lines_pairs),
    "layers": ("Layers by themselves", _lines_layers),
    "kernels": ("A 3×3 convolution by itself", _lines_kernels),
    "gradients": ("A 3×3 convolution of a step, and its gradients", _lines_kernels),
    "workarounds": ("Convolutions that XLA computes slowly on CPUs", _lines_workarounds),
    "growth": ("Growth", _lines_growth),
    "start": ("Whole processes", _lines_start),
}
"""Title of each section, and what makes its lines."""
