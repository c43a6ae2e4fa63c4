"""Shared by the protocols: gains, and results as JSON."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmcnn_jax.system.atomic_write import write_file

PSNR_LIMIT = 100.0
"""PSNR in dB by which gains replace the infinite PSNR of an exactly reproduced image."""


def gains(rows: Sequence[Mapping[str, Any]], measure: str, before: str, after: str) -> list[float]:
    """Returns the gain of each image in one measure.

    PSNR and PSNR-B are limited to `PSNR_LIMIT`, so that gains are finite for images reproduced
    exactly by the JPEG, the restored image or both.

    Args:
        rows: of each image, {before: {measure: value}, after: {measure: value}}.
        measure: the key of the measure.
        before: the key of the image that gains are relative to.
        after: the key of the restored image.
    """
    return [gain(measure, row[before][measure], row[after][measure]) for row in rows]


def gain(measure: str, before: float, after: float) -> float:
    """Returns the gain of one image in one measure, PSNR limited as in `gains`."""
    if "psnr" in measure:
        before, after = min(before, PSNR_LIMIT), min(after, PSNR_LIMIT)
    return after - before


def mean_gain(rows: Sequence[Mapping[str, Any]], measure: str, before: str, after: str) -> float:
    """Returns the mean over images of `gains`."""
    return math.fsum(gains(rows, measure, before, after)) / len(rows)


def to_json(value: Any) -> str:
    """Returns a value as JSON text; numbers that JSON lacks (infinite PSNR) become null."""
    return json.dumps(_finite(value), indent=1) + "\n"


def write_results(path: str | os.PathLike, results: Mapping[str, Any]) -> None:
    """Writes results as JSON (`to_json`), under a temporary name first; creates the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, to_json(results).encode())


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
