"""Which of the bundled models suits a quantisation table, if any does."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.inference.weights import BUNDLED

# How far from the qualities that a model has seen it is still used, in octaves of the mean
# quantisation step: for coarser tables, for finer ones, and for finer ones without projection.
# Small networks of quality 10 and 20, on photographs that they had not seen, in dB over the JPEG:
#
#     octaves            +1.0   +0.6    0.0   -0.6   -1.0   -1.3   -1.6   -2.3   -3.6
#     20, projected      0.83   1.24   1.34   1.23   1.06   0.86   0.65   0.23  -0.87
#     20                 0.83   1.24   1.33   1.17   0.92   0.61   0.22  -0.83  -4.34
#     10, projected                    1.56   1.06   0.89   0.73   0.50
#     10                               1.55   0.94   0.65   0.36  -0.16
COARSER, FINER, FINER_FREE = 2.0, 1.5, 1.0

# A model of many qualities has not seen how bad things can be, either. Beyond its finest tables
# there is nothing to win: on 24 photographs that dmcnn-small-any had not seen, projected, it gains
# 0.78 dB at quality 90, 0.36 at 95, and loses 0.08 at 98 and 0.72 at 100.
RANGE_COARSER, RANGE_FINER = 4.0, 0.5

# Octaves from what a model has seen that make no difference.
_NEAR = 0.25

SIZES = ("auto", "fast", "full")
"""Which of the models to prefer: the narrowest, or the widest, or what suits the device."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What to restore a plane with.

    Attributes:
        name: of a bundled model; None if the plane is best left as it is decoded.
        reason: why, in a few words, for a report; empty where there is nothing to say.
    """

    name: str | None
    reason: str


def choose(
    table: np.ndarray,
    models: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    project: bool = True,
    size: str = "fast",
) -> Choice:
    """Chooses a model for a plane.

    Models that have seen such tables come first, by the mean logarithm of the quantisation steps;
    among them those of the size that is asked for; among these, one trained over a range of
    qualities before those of one quality, and the nearer before the farther. Where even the nearest
    has seen nothing like the table, none is chosen: a network that was trained on coarse steps
    takes texture for artifacts.

    Args:
        table: Q of the plane, integers [8, 8].
        models: name to what the weights file says of itself ("quality", "quality_range", and
            "features" of its "model"); by default those that come with the package.
        project: whether the result will be projected into its intervals, which bounds the harm
            that a model can do.
        size: "fast" or "full".

    Returns:
        The choice.

    Raises:
        FileNotFoundError: if there are no models to choose from.
        ValueError: for another size.
    """
    if size not in SIZES[1:]:
        raise ValueError(f'size is {size!r}; expected "fast" or "full"')
    models = bundled() if models is None else models
    if not models:
        raise FileNotFoundError(
            "no weights come with this installation; name a .safetensors file or a workdir with"
            " --weights (model= in Python)"
        )
    quality = nearest_quality(table)
    suited = []
    for name, about in models.items():
        single = len(_qualities(about)) == 1
        octaves = _octaves(table, _qualities(about))
        finer = (FINER if project else FINER_FREE) if single else RANGE_FINER
        coarser = COARSER if single else RANGE_COARSER
        if -finer <= octaves <= coarser:
            width = about.get("model", {}).get("features", 0)
            width = -width if size == "full" else width
            distance = abs(octaves)
            suited.append((distance > _NEAR, width, single, distance, name))
    if not suited:
        return Choice(
            None,
            f"no bundled model was trained for such a quantisation table (about quality {quality});"
            " left as decoded",
        )
    *_, single, distance, name = min(suited)
    if distance < 0.1 or (not single and quality >= max(_qualities(models[name]))):
        return Choice(name, "")
    trained = " to ".join(map(str, _qualities(models[name])))
    return Choice(name, f"trained for quality {trained}; the file's is about {quality}")


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
        if about.get("model", {}).get("name") == "dmcnn" and _qualities(about)
    }


def _qualities(about: Mapping[str, Any]) -> Sequence[int]:
    one = (about["quality"],) if "quality" in about else ()
    return tuple(about.get("quality_range") or one)


def _octaves(table, qualities):
    """How much coarser (finer: negative) a table is than the nearest that a model has seen."""
    means = np.log2(jpeg.quality_table(np.asarray(qualities))).mean(axis=(1, 2))
    mean = np.log2(table).mean()
    return float(mean - np.clip(mean, means.min(), means.max()))
