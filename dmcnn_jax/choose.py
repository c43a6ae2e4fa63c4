"""Which of the bundled models suits a quantisation table, if any does."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.checkpoint import BUNDLED

# How far from the qualities that a model has seen it is still used, in octaves of the mean
# quantisation step. Beyond, it does less good than harm.
REACH = 0.5


@dataclasses.dataclass(frozen=True)
class Choice:
    """What to restore a plane with.

    Attributes:
        name: of a bundled model; None if the plane is best left as it is decoded.
        reason: why, in a few words, for a report; empty where there is nothing to say.
    """

    name: str | None
    reason: str


def choose(table: np.ndarray, models: Mapping[str, Mapping[str, Any]] | None = None) -> Choice:
    """Chooses a model for a plane.

    A model trained over a range of qualities comes before those of one quality, and the nearer
    before the farther, by the mean logarithm of the quantisation steps. Where even the nearest has
    seen nothing like the table, none is chosen: a network that was trained on coarse steps takes
    texture for artifacts.

    Args:
        table: Q of the plane, integers [8, 8].
        models: name to what the weights file says of itself ("quality", "quality_range"); by
            default those that come with the package.

    Returns:
        The choice.

    Raises:
        FileNotFoundError: if there are no models to choose from.
    """
    models = bundled() if models is None else models
    if not models:
        raise FileNotFoundError(
            "no weights come with this installation; name a .safetensors file or a workdir with"
            " --weights (model= in Python)"
        )
    quality = nearest_quality(table)
    ranked = sorted(
        (_distance(table, qualities), len(qualities) == 1, name)
        for name, qualities in ((name, _qualities(about)) for name, about in models.items())
    )
    suited = [(single, distance, name) for distance, single, name in ranked if distance <= REACH]
    if not suited:
        return Choice(
            None,
            f"no bundled model was trained for its quantisation table (about quality {quality});"
            " left as decoded",
        )
    _, distance, name = min(suited)
    trained = "-".join(map(str, _qualities(models[name])))
    if distance < 0.05:
        return Choice(name, "")
    return Choice(name, f"trained for quality {trained}, the file's is about {quality}")


def nearest_quality(table: np.ndarray) -> int:
    """The quality, 1 to 100, whose standard luma table is nearest in the logarithm of its steps.

    Args:
        table: Q, integers [8, 8].
    """
    standard = jpeg.quality_table(np.arange(1, 101))
    distances = np.abs(np.log2(standard) - np.log2(table)).mean(axis=(1, 2))
    return int(np.argmin(distances)) + 1


@functools.cache
def bundled(folder: Path = BUNDLED) -> dict[str, dict[str, Any]]:
    """The weights that come with the package: name to what their files say of them."""
    from safetensors import safe_open

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            found[path.stem] = json.loads((file.metadata() or {}).get("dmcnn_jax", "{}"))
    # Baselines for comparison are no models to restore photographs with.
    return {
        name: about
        for name, about in found.items()
        if about.get("model", {}).get("name") == "dmcnn" and "quality" in about
    }


def _qualities(about: Mapping[str, Any]) -> Sequence[int]:
    return tuple(about.get("quality_range") or (about["quality"],))


def _distance(table, qualities):
    """Octaves between a table's mean step and the nearest of those that a model was trained on."""
    standard = jpeg.quality_table(np.asarray(qualities))
    means = np.log2(standard).mean(axis=(1, 2))
    mean = np.log2(table).mean()
    return float(max(0.0, mean - means.max(), means.min() - mean))
