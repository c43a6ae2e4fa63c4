"""Chooses the model that restores each plane of a file, and loads the model of chroma."""

import dataclasses
import os
from collections.abc import Sequence

from dmcnn_jax import jpeg
from dmcnn_jax.inference.chroma import CHROMA_SUBSAMPLINGS
from dmcnn_jax.inference.model import Model, load
from dmcnn_jax.jpeg.double_compression import PriorCompression
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.models.chroma import ChromaNet
from dmcnn_jax.models.photo import PhotoNet
from dmcnn_jax.restoration.model_selection import (
    ModelChoice,
    choose_chroma_model,
    choose_model,
)
from dmcnn_jax.system.bundled import BUNDLED

CHROMA_MODEL = "dmcnn-chroma"
"""The bundled weights that restore chroma, guided by luma that another network has restored."""

PHOTO_MODEL = "dmcnn-photo"
"""The bundled weights that restore all planes at once, and gray files, for the size "full"."""

UNNAMED = "an unnamed model"
"""The name in reports of a model that was not loaded by name."""


def choose_plane_models(
    file: jpeg.JpegFile,
    prior: PriorCompression | None,
    *,
    luma: str | None,
    chroma: Model | None,
    chroma_qualities: Sequence[int],
    project: bool,
    size: str,
) -> tuple[ModelChoice, ...]:
    """Returns the model that restores each plane, chosen for each plane independently.

    Args:
        file: the file.
        prior: the earlier save whose table luma is restored with; None: the file's own.
        luma: name of the model that restores luma, or R, G and B; None: the bundled model that
            suits the plane's table.
        chroma: the model that restores chroma, or all planes; None: there is none.
        chroma_qualities: the qualities that it was trained for, as in `choose_chroma_model`.
        project: as in `choose_model`.
        size: as in `choose_model`.

    Returns:
        A choice for each component.

    Raises:
        FileNotFoundError: if a bundled model is to be chosen, and there are none.
    """
    lumas = luma_components(file)
    choices = [
        choose_model(prior.table if prior else c.table, project=project, size=size)
        if luma is None
        else ModelChoice(luma, "")
        for c in lumas
    ]
    named = [_name_plane(choice, _kind(file)) for choice in choices]
    components = file.components[len(lumas) :]
    if chroma is None:
        return (*named, *[ModelChoice(None, "") for _ in components])
    name = chroma.name or UNNAMED
    if luma is None and restores_all_planes(chroma) and file.color != "rgb":
        # It restores gray files too, and its range of tables includes that of the bundled models.
        named = [dataclasses.replace(c, name=c.name and name) for c in named]
    if components and not _has_supported_sampling(file):
        unsupported = ModelChoice(
            None, "no network restores this sampling; upsampled as libjpeg does"
        )
        choices = [unsupported] * len(components)
    else:
        choices = [
            choose_chroma_model(c.table, c.subsampling, name, chroma_qualities) for c in components
        ]
    return (*named, *[_name_plane(choice, "chroma") for choice in choices])


def luma_components(file: jpeg.JpegFile) -> tuple[Component, ...]:
    """Returns the components that are restored like luma: the first, or all three of RGB."""
    return tuple(file.components if file.color == "rgb" else file.components[:1])


def _has_supported_sampling(file: jpeg.JpegFile) -> bool:
    """Returns whether luma has full size, and Cb and Cr a size that networks restore."""
    luma, cb, cr = (component.subsampling for component in file.components)
    return luma == (1, 1) and cb == cr and cb in CHROMA_SUBSAMPLINGS


def restores_all_planes(model: Model | None) -> bool:
    """Returns whether a model restores Y, Cb and Cr at once."""
    return model is not None and isinstance(model.module, PhotoNet)


def restores_together(
    file: jpeg.JpegFile, names: Sequence[str | None], model: Model | None
) -> bool:
    """Returns whether a model restores Y, Cb and Cr of a file at once.

    Args:
        file: the file.
        names: for each plane, the name of the model that restores it.
        model: the model.
    """
    if model is None or not restores_all_planes(model) or len(luma_components(file)) != 1:
        return False
    return (
        len(file.components) == 3
        and _has_supported_sampling(file)
        and (model.name or UNNAMED) in names
    )


def load_if_named(source: str | os.PathLike | Model, engine: str) -> Model:
    """Returns a loaded model unchanged; loads one given by name."""
    return source if isinstance(source, Model) else load(source, engine)


def load_chroma(
    source: str | os.PathLike | Model | None, engine: str, given: Model | None, size: str
) -> Model | None:
    """Loads the model of chroma; returns None if none is named and none is installed.

    Args:
        source: the model named for chroma.
        engine: library that computes its convolutions.
        given: the model named for luma; it may restore chroma as well.
        size: size of the bundled models, "fast" or "full". The full one restores all planes, so it
            is used only if no model was named for luma.

    Raises:
        ValueError: if the model doesn't restore chroma, or another one already does.
    """
    if given and restores_all_planes(given):
        if source is not None:
            raise ValueError(
                f"the weights {given.name!r} restore chroma too; expected no others for chroma"
            )
        return given
    if source is None:
        names = [PHOTO_MODEL, CHROMA_MODEL] if size == "full" and not given else [CHROMA_MODEL]
        source = next((n for n in names if (BUNDLED / f"{n}.safetensors").exists()), None)
    if source is None:
        return None
    model = load_if_named(source, engine)
    if given and restores_all_planes(model):
        raise ValueError(
            f"the weights {model.name!r} restore luma too; expected no others for luma"
        )
    if not isinstance(model.module, ChromaNet | PhotoNet):
        raise ValueError(f"the weights {model.name!r} do not restore chroma")
    return model


def note_limits(file: jpeg.JpegFile) -> tuple[str, ...]:
    """Returns notes on the limits of restoring a file."""
    notes = []
    if file.damage:
        notes.append(f"damaged: {file.damage}")
    if any(component.subsampling != (1, 1) for component in luma_components(file)):
        what = _kind(file) or "an ink"  # the only plane of a gray file is not subsampled
        notes.append(f"{what} is subsampled, so the guarantee does not apply to its pixels")
    return tuple(notes)


def _kind(file: jpeg.JpegFile) -> str:
    """Returns the name in notes of planes restored like luma; "" if all planes are."""
    return {"rgb": "a plane of RGB", "ycbcr": "luma"}.get(file.color, "")


def _name_plane(choice: ModelChoice, plane: str) -> ModelChoice:
    """Returns a choice whose reason, if any, begins with the name of the plane."""
    if not (choice.reason and plane):
        return choice
    return ModelChoice(choice.name, f"{plane}: {choice.reason}")
