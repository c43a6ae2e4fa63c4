"""Comparison of models on the same images by the same code, beside published figures.

    dmcnn-compare DMCNN=runs/qf{q} --images LIVE1=FOLDER --qualities 10 20

Each measurement is saved immediately in `measured.json` of the output folder, under a key made of
the weights, the images and the quality. An interrupted comparison resumes from it, and a new
comparison measures only missing values.
"""

import dataclasses
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.data import images as images_module
from dmcnn_jax.data.originals import is_gray
from dmcnn_jax.evaluation import paper_results, protocol
from dmcnn_jax.evaluation.complexity import measure_complexity
from dmcnn_jax.evaluation.results import gain, to_json
from dmcnn_jax.images import metrics
from dmcnn_jax.inference.model import Model, load
from dmcnn_jax.inference.weights import find_weights
from dmcnn_jax.system.atomic_write import write_file

QUALITIES = (10, 20, 30, 40)
JPEG = "JPEG"
"""Label of the row of the JPEGs."""

Scores = dict[str, list[float]]
"""Measure → its value for each image."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the tables: one model, or one for each quality.

    Attributes:
        label: its name in the tables.
        paths: quality → weights file.
        system: the network's name in papers.
    """

    label: str
    paths: Mapping[int, Path]
    system: str


@dataclasses.dataclass(frozen=True)
class Folder:
    """Images to measure on; each folder has its own tables.

    Attributes:
        label: its name in the tables; "LIVE1" and "BSDS500" have published figures.
        source: the folder, or "packaged".
        images: name → path.
    """

    label: str
    source: str
    images: Mapping[str, Path]


def parse_entry(text: str, qualities: Sequence[int]) -> Entry:
    """Parses [LABEL=]WEIGHTS; "{q}" in it stands for the quality.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if they are not this package's weights, or the label names a different network.
    """
    label, name = _split_label(text)
    paths = {q: find_weights(name.replace("{q}", str(q))) for q in qualities}
    models = {load(path).about["model"]["name"] for path in set(paths.values())}
    if len(models) > 1:
        raise ValueError(
            f"{text!r} stands for networks of several kinds: {', '.join(models)}; expected one"
        )
    (model,) = models
    if model in ("chroma", "photo"):
        raise ValueError(
            f"{text!r} are weights of the network {model!r}, which restores colour; expected "
            "weights that restore luma only"
        )
    system = paper_results.SYSTEMS.get(model, model)
    wanted = {**paper_results.SYSTEMS, **{s: s for s in paper_results.SYSTEMS.values()}}.get(
        label, system
    )
    if wanted != system:
        raise ValueError(
            f"{text!r} calls its weights {label}, but they are of {system} ({model!r}); "
            "choose another label"
        )
    return Entry(label or Path(name.replace("{q}", "")).stem.strip("-_") or model, paths, system)


def parse_folder(text: str) -> Folder:
    """Parses [LABEL=]FOLDER; FOLDER may be "packaged", for scikit-image's photographs.

    Raises:
        FileNotFoundError: if there is no such folder.
        ModuleNotFoundError: if the packaged photographs are named, and scikit-image is missing.
        ValueError: if there is no image in it.
    """
    label, name = _split_label(text)
    return Folder(label or Path(name).resolve().name, name, images_module.find_images(name))


def _split_label(text: str) -> tuple[str, str]:
    """Splits LABEL=NAME. The label is empty if there is none, or if `text` is a path with a "="."""
    label, equals, name = text.partition("=")
    return (label, name) if equals and not Path(text).exists() else ("", text)


class MeasurementCache:
    """A cache of measurements in a JSON file.

    Args:
        path: of the file; made with the first measurement.

    Raises:
        ValueError: if the file is not a record of measurements.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = Path(path)
        self._known: dict[str, Any] = {}
        if self._path.exists():
            try:
                self._known = dict(json.loads(self._path.read_text()))
            except ValueError as error:
                raise ValueError(
                    f"{str(path)!r} is not a record of measurements ({error});"
                    " remove it to start again"
                ) from error

    def get(self, key: str, measure: Callable[[], Any]) -> Any:
        """Returns the value of a key; measures and saves it if it is missing.

        Infinite PSNR, which JSON lacks, is saved as null, and read as None.
        """
        if key not in self._known:
            self._known[key] = measure()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_file(self._path, to_json(self._known).encode())
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
        entries: the models.
        folders: the images.
        qualities: of the JPEGs.
        measured: the cache of measurements.
        against: the row relative to which gains in PSNR are computed: "JPEG", or the label of an
            entry.
        resamples: of the bootstrap.

    Returns:
        {"against": label, "profiles": {label: complexity}, "tables": [{"images", "quality",
        "count", "rows": [row]}]}, where complexity is what `measure_complexity` returns. A row has
        "label", "system", "measured" (the means of all four measures, or None), "gain" ({"mean",
        "low", "high"}, dB, or None), "paper" and "later" (published figures, or None). Published
        systems that were not measured have rows too.

    Raises:
        ValueError: if two entries have one label, or `against` is no label.
    """
    _check_labels([entry.label for entry in entries], against)
    profiles = {entry.label: _measure_profile(entry, measured) for entry in entries}
    tables = []
    for folder in folders:
        images = digest_images(folder)
        for quality in qualities:
            scores = _score_all(entries, folder, images, quality, measured)
            rows = _make_rows(entries, scores, (folder.label.upper(), quality), against, resamples)
            tables.append(
                {
                    "images": folder.label,
                    "quality": quality,
                    "count": len(folder.images),
                    "rows": rows,
                }
            )
    return {"against": against, "profiles": profiles, "tables": tables}


def _check_labels(labels: Sequence[str], against: str) -> None:
    for label in labels:
        if labels.count(label) > 1 or label == JPEG:
            raise ValueError(f"two rows are called {label!r}; name them with LABEL=WEIGHTS")
    if against not in (JPEG, *labels):
        raise ValueError(f"nothing is called {against!r}; expected {', '.join((JPEG, *labels))}")


def _measure_profile(entry: Entry, measured: MeasurementCache) -> dict[str, Any]:
    path = next(iter(entry.paths.values()))
    key = f"profile of {_digest_file(path)} on {_describe_machine()}"
    return measured.get(key, lambda: measure_complexity(load(path)))


def _score_all(
    entries: Sequence[Entry],
    folder: Folder,
    images: str,
    quality: int,
    measured: MeasurementCache,
) -> dict[str, Scores]:
    """Returns the scores of the JPEGs and of all entries, by label; `images` is their digest."""
    key = f"scores of {JPEG} on {images} at {quality}"
    scores = {JPEG: measured.get(key, lambda: _score_jpegs(folder, quality))}
    for entry in entries:
        path = entry.paths[quality]

        def score(path: Path = path) -> Scores:
            return score_model(load(path), folder, quality)

        key = f"scores of {_digest_file(path)} on {images} at {quality}"
        scores[entry.label] = measured.get(key, score)
    return {
        label: {m: [math.inf if v is None else v for v in values] for m, values in score.items()}
        for label, score in scores.items()
    }


def score_model(model: Model, folder: Folder, quality: int) -> Scores:
    """Returns the four measures of a model for each image of a folder."""
    print(f"{model.name} on {folder.label} at quality {quality}", file=sys.stderr)
    rows = protocol.evaluate_folder(model, folder.source, quality)["per_image"]
    return {measure: [row["model"][measure] for row in rows] for measure in metrics.HEADINGS}


def _score_jpegs(folder: Folder, quality: int) -> Scores:
    """Returns the four measures of the JPEGs for each image of a folder."""
    table, rows = jpeg.quality_table(quality), []
    for path in folder.images.values():
        original = protocol.read_original(path, "studio")
        rows.append(metrics.measure(original, jpeg.roundtrip(original, table)))
    return {measure: [row[measure] for row in rows] for measure in metrics.HEADINGS}


def _make_rows(
    entries: Sequence[Entry],
    scores: Mapping[str, Scores],
    key: tuple[str, int],
    against: str,
    resamples: int,
) -> list[dict[str, Any]]:
    """Returns the rows of a table; `key` is the images' label in capitals, and the quality."""
    paper = paper_results.DMCNN_PAPER.get(key, {})
    later = paper_results.LATER_PAPERS.get(key, {})

    def row(label: str, system: str) -> dict[str, Any]:
        means = gained = None
        if measures := scores.get(label):
            columns = zip(*measures.values(), strict=True)
            means = metrics.mean([dict(zip(measures, values, strict=True)) for values in columns])
            if label != against:
                pairs = zip(scores[against]["psnr"], measures["psnr"], strict=True)
                gained = metrics.bootstrap([gain("psnr", *pair) for pair in pairs], resamples)
        return {
            "label": label,
            "system": system,
            "measured": means,
            "gain": gained,
            "paper": paper.get(system),
            "later": later.get(system),
        }

    listed = {JPEG, *(entry.system for entry in entries)}
    missing = [name for name in paper_results.published_systems(*key) if name not in listed]
    return [
        row(JPEG, JPEG),
        *(row(entry.label, entry.system) for entry in entries),
        *(row(name, name) for name in missing),
    ]


def make_crops(
    entries: Sequence[Entry], path: Path, quality: int, top: int, left: int, size: int
) -> dict[str, np.ndarray]:
    """Returns the same crop of the original, of the JPEG and of each model's output.

    Args:
        entries: the models.
        path: of the image.
        quality: of the JPEG; the whole image is compressed and restored.
        top: first row of the crop.
        left: first column of the crop.
        size: height and width of the crop, pixels; it ends where the image does.

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


def _describe_machine() -> str:
    import jax

    return f"{jax.device_count()} × {jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores"


def _digest_file(path: Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def digest_images(folder: Folder) -> str:
    """Returns a digest of the images' names and contents.

    Gray images are marked, so that measurements of earlier versions, which scaled gray images to 16
    to 235, are not used.
    """
    names = [
        f"{name} {_digest_file(path)}{' gray' if is_gray(path) else ''}"
        for name, path in folder.images.items()
    ]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
