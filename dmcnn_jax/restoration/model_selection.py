"""Chooses the bundled model that suits a plane's quantisation table, if there is one."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.jpeg.tables import nearest_quality
from dmcnn_jax.system.bundled import BUNDLED

# Maximum distance, in octaves of mean quantisation step, at which a model trained for one quality
# is still applied: to coarser tables, to finer ones, and to finer ones without projection.
# Gains in dB over the JPEG, of small networks for quality 10 and 20 on photographs unseen in
# training:
#
#     octaves            +1.0   +0.6    0.0   -0.6   -1.0   -1.3   -1.6   -2.3   -3.6
#     20, projected      0.83   1.24   1.34   1.23   1.06   0.86   0.65   0.23  -0.87
#     20                 0.83   1.24   1.33   1.17   0.92   0.61   0.22  -0.83  -4.34
#     10, projected                    1.56   1.06   0.89   0.73   0.50
#     10                               1.55   0.94   0.65   0.36  -0.16
MAX_COARSER, MAX_FINER, MAX_FINER_UNPROJECTED = 2.0, 1.5, 1.0

# The same for models trained over a range of qualities. They are applied further beyond their
# coarsest tables; beyond their finest, there is nothing to gain: on 24 photographs unseen in
# training, projected, dmcnn-small-any gains 0.78 dB at quality 90 and 0.36 at 95, and loses 0.08 at
# 98 and 0.72 at 100.
RANGE_MAX_COARSER, RANGE_MAX_FINER = 4.0, 0.5

# Full-size chroma is restored if its table is coarser than the finest of its network's by so many
# octaves; subsampled chroma always, since the network also upsamples it, guided by luma. Mean gains
# in dB over libjpeg's upsampling, of Cb and Cr together, luma at quality 98, on 14 photographs:
#
#     quality of chroma               20     50     75     90     93     95     98    100
#     dmcnn-chroma, 4:2:0           0.49   0.27   0.12   0.04   0.05   0.09   0.40   1.12
#     dmcnn-chroma, 4:4:4           0.86   0.39   0.14   0.01   0.00   0.00  -0.01  -0.01
#
# dmcnn-photo gains at every such quality: 0.62 dB at 90, 0.32 at 95 and 0.10 at 97, full size.
FULL_SIZE_CHROMA_MIN_COARSER = 0.5

# Distances below this many octaves count as zero.
_NEGLIGIBLE = 0.25


@dataclasses.dataclass(frozen=True)
class ModelChoice:
    """The model chosen for a plane.

    Attributes:
        name: of the model; None if the plane is best left as decoded.
        reason: a few words for a report; empty if the model was trained for such tables.
    """

    name: str | None
    reason: str


def choose_model(
    table: np.ndarray,
    models: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    project: bool = True,
    size: str = "fast",
) -> ModelChoice:
    """Chooses a model for luma, or for a plane of RGB, by its quantisation table.

    Tables are compared by the mean logarithm of their steps. Models trained for such tables are
    preferred; among them, those of the requested size; then models of a range of qualities over
    models of one quality; then the nearest. If no model was trained for similar tables, none is
    chosen, because a network trained on coarse steps mistakes texture for artifacts.

    Args:
        table: Q of the plane, integers [8, 8].
        models: the metadata of each model's weights file, by name ("quality", "quality_range", and
            "features" of its "model"); None: the bundled models.
        project: whether the result will be projected onto its quantisation intervals, which limits
            the harm that a model can do.
        size: "fast" (the narrowest model) or "full" (the widest).

    Returns:
        The choice.

    Raises:
        FileNotFoundError: if there are no models to choose from.
        ValueError: if the size is neither.
    """
    if size not in ("fast", "full"):
        raise ValueError(f'size is {size!r}; expected "fast" or "full"')
    models = bundled_models() if models is None else models
    if not models:
        raise FileNotFoundError(
            "no weights come with this installation; name a .safetensors file or a workdir with"
            " --weights (model= in Python)"
        )
    quality = nearest_quality(table)
    suitable = []
    for name, about in models.items():
        single = len(trained_qualities(about)) == 1
        octaves = _octaves_coarser(table, trained_qualities(about))
        max_finer = (MAX_FINER if project else MAX_FINER_UNPROJECTED) if single else RANGE_MAX_FINER
        max_coarser = MAX_COARSER if single else RANGE_MAX_COARSER
        if -max_finer <= octaves <= max_coarser:
            width = about.get("model", {}).get("features", 0)
            width = -width if size == "full" else width
            distance = abs(octaves)
            suitable.append((distance > _NEGLIGIBLE, width, single, distance, name))
    if not suitable:
        return ModelChoice(
            None,
            f"no bundled model was trained for quantisation tables like this one (about quality"
            f" {quality}); left as decoded",
        )
    *_, single, distance, name = min(suitable)
    if distance < 0.1 or (not single and quality >= max(trained_qualities(models[name]))):
        return ModelChoice(name, "")
    trained = " to ".join(map(str, trained_qualities(models[name])))
    return ModelChoice(
        name, f"the model was trained for quality {trained}; the file's is about {quality}"
    )


def choose_chroma_model(
    table: np.ndarray, subsampling: tuple[int, int], name: str, qualities: Sequence[int]
) -> ModelChoice:
    """Decides by its own quantisation table whether Cb or Cr is restored.

    Args:
        table: Q of the plane, integers [8, 8].
        subsampling: rows and columns of the picture to a sample of the plane.
        name: of the model that restores chroma.
        qualities: the qualities that it was trained for: one, or both ends of a range; empty if
            unknown, and the plane is then restored.

    Returns:
        The choice.
    """
    if not qualities:
        return ModelChoice(name, "")
    base = jpeg.STANDARD_CHROMA
    if _octaves_coarser(table, qualities, base) > RANGE_MAX_COARSER:
        kind = "coarser"
    elif (
        subsampling == (1, 1)
        and _octaves_coarser(table, (max(qualities),), base) < FULL_SIZE_CHROMA_MIN_COARSER
    ):
        kind = "finer"
    else:
        return ModelChoice(name, "")
    return ModelChoice(
        None,
        f"the quantisation table (about quality {nearest_quality(table, base)}) is {kind} than"
        f" those that {name} improves on; left as decoded",
    )


@functools.cache
def bundled_models(folder: Path = BUNDLED) -> dict[str, dict[str, Any]]:
    """Returns the bundled models of luma: the metadata of each file, by name.

    Baselines and networks of chroma are left out.

    Args:
        folder: folder of the weights files.
    """
    from safetensors import safe_open

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            found[path.stem] = json.loads((file.metadata() or {}).get("dmcnn_jax", "{}"))
    return {
        name: about
        for name, about in found.items()
        if about.get("model", {}).get("name") == "dmcnn" and trained_qualities(about)
    }


def trained_qualities(about: Mapping[str, Any]) -> Sequence[int]:
    """Returns the qualities that a model was trained for: one, the ends of a range, or none."""
    one = (about["quality"],) if "quality" in about else ()
    return tuple(about.get("quality_range") or one)


def _octaves_coarser(
    table: np.ndarray, qualities: Sequence[int], base: np.ndarray = jpeg.STANDARD_LUMA
) -> float:
    """Returns by how many octaves a table is coarser than the tables of a range of qualities.

    Args:
        table: Q, integers [8, 8].
        qualities: one quality, or both ends of a range.
        base: the standard table at quality 50: of luma or of chroma.

    Returns:
        The difference of the mean log₂ of the steps from the nearest table of the range; negative
        if the table is finer, 0 within the range.
    """
    means = np.log2(jpeg.quality_table(np.asarray(qualities), base)).mean(axis=(1, 2))
    mean = np.log2(table).mean()
    return float(mean - np.clip(mean, means.min(), means.max()))
