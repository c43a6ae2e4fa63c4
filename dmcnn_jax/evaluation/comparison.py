"""The tables: a list of models, scored by one code on the same images, published figures beside.

    dmcnn-compare DMCNN=runs/qf{q} --images LIVE1=FOLDER --qualities 10 20

Everything measured is kept in `measured.json` of the output folder as soon as it is there, under
what decides it (the weights, the images, the quality), so that the same command goes on where it
stopped, and another one measures only what is new.
"""

import csv
import dataclasses
import hashlib
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.data import images as images_module
from dmcnn_jax.evaluation import paper_results, protocol
from dmcnn_jax.evaluation.complexity import profile
from dmcnn_jax.images import metrics
from dmcnn_jax.inference.model import Model, load
from dmcnn_jax.inference.weights import find_weights
from dmcnn_jax.system.atomic_write import write_file

QUALITIES = (10, 20, 30, 40)
JPEG = "JPEG"
_MEASURES = ("psnr", "ssim", "ssim_gauss", "psnr_b")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the tables: one model, or one for each quality.

    Attributes:
        label: what the tables call it.
        paths: quality → its weights file.
        system: what papers call such a network.
    """

    label: str
    paths: Mapping[int, Path]
    system: str


@dataclasses.dataclass(frozen=True)
class Folder:
    """A column of the tables: images.

    Attributes:
        label: what the tables call it; "LIVE1" and "BSDS500" have published figures.
        source: the folder, or "packaged".
        images: name → path.
    """

    label: str
    source: str
    images: Mapping[str, Path]


def parse_entry(text: str, qualities: Sequence[int]) -> Entry:
    """[LABEL=]WEIGHTS → an entry; "{q}" in it stands for the quality.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if they are no weights of ours, or if the label is the name of another network
            than the weights are of.
    """
    label, name = _labelled(text)
    paths = {q: find_weights(name.replace("{q}", str(q))) for q in qualities}
    models = {load(path).about["model"]["name"] for path in set(paths.values())}
    if len(models) > 1:
        raise ValueError(f"{text!r} stands for networks of several kinds: {', '.join(models)}")
    (model,) = models
    if model == "chroma":
        raise ValueError(f"{text!r} are weights that restore chroma; the tables are of luma")
    system = paper_results.SYSTEMS.get(model, model)
    wanted = {**paper_results.SYSTEMS, **{s: s for s in paper_results.SYSTEMS.values()}}.get(
        label, system
    )
    if wanted != system:
        raise ValueError(
            f"{text!r} calls its weights {label}, but they are of {system} ({model!r})"
        )
    return Entry(label or Path(name.replace("{q}", "")).stem.strip("-_") or model, paths, system)


def parse_folder(text: str) -> Folder:
    """[LABEL=]FOLDER → a folder of images; "packaged" for scikit-image's photographs.

    Raises:
        FileNotFoundError: if there is none.
        ModuleNotFoundError: if scikit-image is not there.
        ValueError: if it holds no image.
    """
    label, name = _labelled(text)
    return Folder(label or Path(name).resolve().name, name, images_module.find_images(name))


def _labelled(text: str) -> tuple[str, str]:
    """LABEL=NAME → both; of NAME the label is empty, even if there is a "=" in a path of it."""
    label, equals, name = text.partition("=")
    return (label, name) if equals and not Path(text).exists() else ("", text)


class MeasurementCache:
    """What was measured so far, on disk.

    Args:
        path: of the JSON file; made when something is measured.

    Raises:
        ValueError: if the file is not such.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = Path(path)
        self._known: dict[str, Any] = {}
        if self._path.exists():
            try:
                self._known = dict(json.loads(self._path.read_text()))
            except ValueError as error:
                raise ValueError(
                    f"{str(path)!r} is no record of measurements ({error}); remove it to begin anew"
                ) from error

    def get(self, key: str, measure: Any) -> Any:
        """The value under a key; what `measure()` returns if there is none, which is kept."""
        if key not in self._known:
            self._known[key] = measure()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_file(self._path, (json.dumps(self._known, indent=1) + "\n").encode())
        return self._known[key]


def compare(
    entries: Sequence[Entry],
    folders: Sequence[Folder],
    qualities: Sequence[int],
    measured: MeasurementCache,
    *,
    against: str = JPEG,
    resamples: int = 10_000,
) -> dict[str, Any]:
    """Scores all entries on all folders at all qualities.

    Args:
        entries: models.
        folders: images.
        qualities: of the JPEGs.
        measured: where measurements are kept.
        against: "JPEG", or the label of an entry: what gains in PSNR are gains over.
        resamples: of the bootstrap.

    Returns:
        {"against": label, "profiles": {label: `profile.profile`}, "tables": [{"images", "quality",
        "count", "rows": [row]}]}. A row has "label", "system", "measured" (the means of all four
        measures, or None), "gain" ({"mean", "low", "high"}, dB, or None), "paper" and "later"
        (published, or None). Systems that are published and not measured have rows, too.

    Raises:
        ValueError: if two entries have one label, or `against` is none.
    """
    labels = [entry.label for entry in entries]
    for label in labels:
        if labels.count(label) > 1 or label == JPEG:
            raise ValueError(f"two rows are called {label!r}; name them with LABEL=WEIGHTS")
    if against not in (JPEG, *labels):
        raise ValueError(f"nothing is called {against!r}; expected {', '.join((JPEG, *labels))}")

    profiles = {}
    for entry in entries:
        path = next(iter(entry.paths.values()))
        key = f"profile of {_digest_file(path)} on {_machine()}"
        profiles[entry.label] = measured.get(key, lambda path=path: profile(load(path)))
    tables = []
    for folder in folders:
        images = _digest_images(folder)
        for quality in qualities:
            key = f"scores of {JPEG} on {images} at {quality}"
            scores = {JPEG: measured.get(key, lambda f=folder, q=quality: _score_jpeg(f, q))}
            for entry in entries:
                path = entry.paths[quality]
                key = f"scores of {_digest_file(path)} on {images} at {quality}"
                scores[entry.label] = measured.get(
                    key, lambda p=path, f=folder, q=quality: _score(load(p), f, q)
                )
            table = {"images": folder.label, "quality": quality, "count": len(folder.images)}
            tables.append(table | {"rows": _rows(entries, scores, table, against, resamples)})
    return {"against": against, "profiles": profiles, "tables": tables}


def to_markdown(results: Mapping[str, Any]) -> str:
    """The tables, in Markdown."""
    gain = f"gain over {results['against']}"
    head = f"| | PSNR | {gain}, 95 % | SSIM 8×8 | SSIM Gauss | PSNR-B "
    head += "| DMCNN's paper | later papers | weights | kFLOP a pixel | Mpixel/s | field |"
    rule = "| --- " + "| ---: " * 11 + "|"
    lines = []
    for table in results["tables"]:
        lines += [
            f"**{table['images']}, quality {table['quality']}** ({table['count']} images)",
            "",
        ]
        lines += [head, rule]
        for row in table["rows"]:
            lines.append("| " + " | ".join(_cells(row, results["profiles"])) + " |")
        lines.append("")
    lines += [
        "DMCNN's paper: PSNR / SSIM 8×8 / PSNR-B; later papers: PSNR / SSIM Gauss. Gains in PSNR "
        "are means over images, with the 95 % interval of a paired bootstrap. The field is the "
        "side of the square of pixels that decide an output pixel, by gradient; a DCT branch sees "
        "more.",
        "",
    ]
    return "\n".join(lines)


def to_csv(results: Mapping[str, Any]) -> str:
    """The tables, one line a row; empty cells where nothing is known."""
    columns = ["images", "quality", "count", "label", "system", *_MEASURES]
    columns += ["gain", "gain_low", "gain_high"]
    columns += ["paper_psnr", "paper_ssim", "paper_psnr_b", "later_psnr", "later_ssim_gauss"]
    columns += ["weights", "flops_per_pixel", "pixels_per_second", "field"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for table in results["tables"]:
        for row in table["rows"]:
            gain, means = row["gain"] or {}, row["measured"] or {}
            costs = results["profiles"].get(row["label"], {})
            writer.writerow(
                [table["images"], table["quality"], table["count"], row["label"], row["system"]]
                + [means.get(measure, "") for measure in _MEASURES]
                + [gain.get(key, "") for key in ("mean", "low", "high")]
                + list(row["paper"] or ("", "", ""))
                + list(row["later"] or ("", ""))
                + [costs.get(key) or "" for key in ("weights", "flops", "speed", "field")]
            )
    return text.getvalue()


def crops(
    entries: Sequence[Entry], path: Path, quality: int, top: int, left: int, size: int
) -> dict[str, np.ndarray]:
    """The same crop by each model, and of the original and the JPEG.

    Args:
        entries: models.
        path: of the image.
        quality: of the JPEG; all of the image is compressed and restored.
        top: first row of the crop.
        left: first column of the crop.
        size: its side, pixels; what lies outside the image is left out.

    Returns:
        label → uint8 [size, size], "original" and "JPEG" first.
    """
    original = protocol.read_original(path, "studio")
    window = (slice(top, top + size), slice(left, left + size))
    pictures = {"original": original[window]}
    for entry in entries:
        _, planes = protocol.measure_image(load(entry.paths[quality]), original, quality)
        pictures[JPEG] = planes["jpeg"][window]
        pictures[entry.label] = planes["model"][window]
    return pictures


def _score(model: Model, folder: Folder, quality: int) -> dict[str, list[float]]:
    """The four measures, lists over images."""
    print(f"{model.name} on {folder.label} at quality {quality}", file=sys.stderr)
    rows = protocol.evaluate_folder(model, folder.source, quality)["per_image"]
    return {measure: [row["model"][measure] for row in rows] for measure in _MEASURES}


def _score_jpeg(folder: Folder, quality: int) -> dict[str, list[float]]:
    """The same of the JPEGs."""
    table, rows = jpeg.quality_table(quality), []
    for path in folder.images.values():
        original = protocol.read_original(path, "studio")
        rows.append(metrics.measure(original, jpeg.roundtrip(original, table)))
    return {measure: [row[measure] for row in rows] for measure in _MEASURES}


def _rows(entries, scores, table, against, resamples) -> list[dict[str, Any]]:
    key = (table["images"].upper(), table["quality"])
    paper, later = paper_results.PAPER.get(key, {}), paper_results.LATER.get(key, {})

    def row(label: str, system: str) -> dict[str, Any]:
        measures = scores.get(label)
        means = gain = None
        if measures:
            per_image = [
                dict(zip(measures, v, strict=True)) for v in zip(*measures.values(), strict=True)
            ]
            means = metrics.mean(per_image)
        if measures and label != against:
            pairs = zip(measures["psnr"], scores[against]["psnr"], strict=True)
            gain = metrics.bootstrap([ours - theirs for ours, theirs in pairs], resamples)
        figures = {"measured": means, "gain": gain}
        figures |= {"paper": paper.get(system), "later": later.get(system)}
        return {"label": label, "system": system, **figures}

    there = {JPEG, *(entry.system for entry in entries)}
    rows = [row(JPEG, JPEG), *(row(entry.label, entry.system) for entry in entries)]
    missing = [name for name in paper_results.systems(*key) if name not in there]
    return rows + [row(name, name) for name in missing]


def _cells(row: Mapping[str, Any], profiles: Mapping[str, Any]) -> list[str]:
    cells = [row["label"]]
    if row["measured"]:
        m, gain = row["measured"], row["gain"]
        interval = metrics.format_gain(gain) if gain else "–"
        cells += [f"{m['psnr']:.3f}", interval, f"{m['ssim']:.4f}"]
        cells += [f"{m['ssim_gauss']:.4f}", f"{m['psnr_b']:.3f}"]
    else:
        cells += ["–"] * 5
    paper, later = row["paper"], row["later"]
    cells.append(f"{paper[0]:.2f} / {paper[1]:.3f} / {paper[2]:.2f}" if paper else "–")
    cells.append(f"{later[0]:.2f} / {later[1]:.4f}" if later else "–")
    if costs := profiles.get(row["label"]):
        cells += [f"{costs['weights']:,}", f"{costs['flops'] / 1e3:,.0f}"]
        cells += [f"{costs['speed'] / 1e6:.2f}", f"{costs['field'] or '–'}"]
    else:
        cells += ["–"] * 4
    return cells


def _machine() -> str:
    import jax

    return f"{jax.device_count()} × {jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores"


def _digest_file(path: Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def _digest_images(folder: Folder) -> str:
    """Of the images' names and contents."""
    names = [f"{name} {_digest_file(path)}" for name, path in folder.images.items()]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
