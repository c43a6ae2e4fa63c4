"""Restores JPEG files, by models that are loaded once.

One network restores luma, and another restores chroma, guided by the restored luma; or the network
for photographs restores all planes. Models are chosen by the table of each plane. A plane without a
model is decoded from the centres of its quantisation intervals and upsampled as libjpeg does; if no
plane has a model, the picture is what libjpeg decodes. Quantising the restored planes with the
file's own tables yields the file's own coefficients; pixels keep this property up to rounding and
clipping.
"""

import copy
import os
import threading

import jax
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.inference.model import Model, is_openvino, load
from dmcnn_jax.jpeg.double_compression import PriorCompression
from dmcnn_jax.jpeg.tables import nearest_quality
from dmcnn_jax.models.chroma import ChromaNet
from dmcnn_jax.restoration.coefficient_check import CoefficientTally, tally_chroma
from dmcnn_jax.restoration.color_correction import match_file_color
from dmcnn_jax.restoration.decoding import decoded_picture
from dmcnn_jax.restoration.detail import describe_harm
from dmcnn_jax.restoration.inks import decoded_parts, is_inks, render_parts, restore_parts
from dmcnn_jax.restoration.jpeg_options import JpegOptions
from dmcnn_jax.restoration.jpeg_output import make_jpeg
from dmcnn_jax.restoration.model_selection import ModelChoice, choose_model, trained_qualities
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.plane_models import (
    UNNAMED,
    choose_plane_models,
    load_chroma,
    load_if_named,
    luma_components,
    note_limits,
    restores_together,
)
from dmcnn_jax.restoration.plane_restoration import (
    restore_guided_chroma,
    restore_luma,
    restore_together,
)
from dmcnn_jax.restoration.prior_save import find_prior, prior_component
from dmcnn_jax.restoration.results import JpegRestoration, Planes, Restoration
from dmcnn_jax.restoration.rounding import round_to_pixels
from dmcnn_jax.restoration.trial import find_reasons_against
from dmcnn_jax.system.progress import Progress, check, scaled


class Restorer:
    """A restorer of JPEG files, which loads each model once.

    Several threads may use one at the same time.

    Args:
        model: the model of luma, as in `dmcnn_jax.restore`.
        options: how files are restored.
        chroma: the model of chroma: a bundled name, a weights file, a workdir, or the result of
            `dmcnn_jax.load`. None: the bundled weights, or `model` if that is a network for
            photographs.

    Attributes:
        options: how files are restored.
        size: the size of bundled models, "fast" or "full", with "auto" resolved.
        chroma: the model that restores chroma; None without weights for it.

    Raises:
        ValueError: if a model restores the wrong planes, or its weights are not of this package.
        OSError: if there are no such weights.
        ImportError: if the engine is not installed.
    """

    def __init__(
        self,
        model: str | os.PathLike | Model | None = None,
        options: RestoreOptions = RestoreOptions(),  # noqa: B008 - frozen, so it can be shared
        *,
        chroma: str | os.PathLike | Model | None = None,
    ) -> None:
        self.options = options
        self._bundled: dict[str, Model] = {}
        self._given = None if model is None else load_if_named(model, options.engine)
        self.size = options.size
        if self.size == "auto":
            quick = jax.default_backend() != "cpu" or is_openvino(options.engine)
            self.size = "full" if quick else "fast"
        self.chroma = load_chroma(chroma, options.engine, self._given, self.size)
        # A network given by the caller restores chroma of any table, as one for luma does.
        is_bundled = chroma is None and self.chroma is not self._given
        bundled = self.chroma if is_bundled else None
        self._chroma_qualities = trained_qualities(bundled.about) if bundled else ()
        if self._given is not None and isinstance(self._given.module, ChromaNet):
            raise ValueError(
                f"the weights {self._given.name!r} restore chroma; expected weights for luma"
            )
        if model is None and options.strength > 0:
            choose_model(jpeg.STANDARD_LUMA)  # raises here if no models are installed

    def with_options(self, options: RestoreOptions) -> "Restorer":
        """Returns a restorer with other options that shares the loaded models.

        Args:
            options: how it restores files.

        Raises:
            ValueError: if the size or the engine differs, since models are loaded for them.
        """
        if (options.size, options.engine) != (self.options.size, self.options.engine):
            raise ValueError(
                "size or engine differs, for which models are loaded; expected the same"
            )
        other = copy.copy(self)
        other.options = options
        return other

    def __call__(self, file: jpeg.JpegFile, progress: Progress | None = None) -> Restoration:
        """Restores a file.

        Args:
            file: what `jpeg.read` returned.
            progress: called with the share of the work done since its last call.

        Returns:
            The picture.
        """
        planes = self.restore_planes(file, progress)
        check(progress)
        return self.render(planes)

    def restore_planes(self, file: jpeg.JpegFile, progress: Progress | None = None) -> Planes:
        """Restores the planes of a file by networks: the accelerator's part of the work.

        A result that loses more of the file's detail than its table, or an earlier save's, allows
        is discarded (`restoration.detail`). A JPEG file that was restored before is left unchanged.

        Args:
            file: what `jpeg.read` returned.
            progress: called with the share of the work done since its last call.

        Returns:
            The planes, for `render`.
        """
        if file.certificate is not None:
            notes = (*file.notes, "dmcnn_jax restored it before; left as it is")
            decoded = (None,) * len(file.components)
            return Planes(file, decoded, (), (), notes, parts=decoded_parts(file))
        if is_inks(file):
            parts, notes = restore_parts(self, file, progress)
            models = tuple(model for part in parts for model in part.models)
            return Planes(file, models, (), (), notes, parts=parts)
        prior, notes = find_prior(file, self.options)
        check(progress)
        planes = self._restore_by(file, prior, notes, progress)
        if prior and (harm := describe_harm(planes.lumas, planes.luma)):
            notes = (f"not restored by an earlier save at about quality {prior.quality}: {harm}",)
            planes = self._restore_by(file, None, notes, None)
        # Projection onto the file's own intervals bounds the loss, so no check is needed.
        if not (planes.prior or self.options.project) and (
            harm := describe_harm(planes.lumas, planes.luma)
        ):
            decoded = (None,) * len(file.components)
            planes = Planes(file, decoded, (), (), (*planes.notes, f"left as decoded: {harm}"))
        return planes

    def _restore_by(
        self,
        file: jpeg.JpegFile,
        prior: PriorCompression | None,
        prior_notes: tuple[str, ...],
        progress: Progress | None,
    ) -> Planes:
        """Restores the planes of a file by an earlier save's table, or by its own."""
        lumas, project = luma_components(file), self.options.project
        choices = self._choose_models(file, prior)
        check(progress)
        if prior and choices[0].name is None:
            prior, prior_notes = None, ()
        reasons = tuple(dict.fromkeys(c.reason for c in choices if c.reason))
        notes = (*file.notes, *prior_notes, *reasons, *note_limits(file))
        models = tuple(choice.name for choice in choices)
        if not any(models):
            return Planes(file, models, (), (), notes)
        components, of_chroma = file.components[len(lumas) :], models[len(lumas) :]
        if self.chroma and restores_together(file, models, self.chroma):
            luma, chroma = restore_together(
                file, models, self.chroma, self.options, prior, progress
            )
        else:
            chroma_share = _CHROMA_SHARE if any(of_chroma) else 0
            part = scaled(progress, (1 - chroma_share) / len(lumas))
            luma = tuple(
                restore_luma(c, self._model(name) if name else None, self.options, prior, part)
                for c, name in zip(lumas, models, strict=False)
            )
            part = scaled(progress, chroma_share)
            chroma = restore_guided_chroma(
                file, of_chroma, self.chroma, luma[0], self.options, part
            )
        check(progress)
        match_file_color(file, luma, chroma, project=project, prior=prior is not None)
        cropped = tuple(
            plane[: file.height, : file.width] if name else plane[: c.height, : c.width]
            for plane, c, name in zip(chroma, components, of_chroma, strict=True)
        )
        return Planes(file, models, luma, cropped, notes, prior)

    def render(self, planes: Planes) -> Restoration:
        """Renders restored planes as a picture in whole pixels: the CPU's part of the work.

        Args:
            planes: what `restore_planes` returned.

        Returns:
            The picture.
        """
        if planes.parts:
            return render_parts(self, planes)
        file, bits = planes.file, self.options.bits
        quality = nearest_quality(file.components[0].table)
        if not any(planes.models):
            pixels = decoded_picture(file)
            if bits == 16:
                pixels = pixels * np.uint16(257)
            return Restoration(
                pixels=pixels, models=planes.models, quality=quality, notes=planes.notes
            )
        project = self.options.project and planes.prior is None
        size = file.height, file.width
        if file.color == "rgb":
            channels = [
                round_to_pixels(plane, (), (component,), *size, bits=bits, project=project)
                for plane, component in zip(planes.luma, file.components, strict=True)
            ]
            pixels = np.stack([channel for channel, _ in channels], axis=-1)
            luma = sum((tally for _, tally in channels), CoefficientTally())
        else:
            pixels, luma = round_to_pixels(
                planes.luma[0], planes.chroma, file.components, *size, bits=bits, project=project
            )
        chroma = CoefficientTally()
        if planes.chroma:
            chroma = tally_chroma(pixels, file.components, bits).inside
        return Restoration(
            pixels=pixels,
            models=planes.models,
            quality=quality,
            luma_tally=luma if luma.coefficients and planes.prior is None else None,
            notes=planes.notes,
            prior=planes.prior,
            chroma_tally=chroma if chroma.coefficients else None,
        )

    def render_jpeg(
        self,
        planes: Planes,
        options: JpegOptions = JpegOptions(),  # noqa: B008 - frozen, so it can be shared
    ) -> JpegRestoration:
        """Renders restored planes as a JPEG file: the CPU's part of the work.

        Args:
            planes: what `restore_planes` returned.
            options: the loss allowed to rounding, and the sampling of chroma.

        Returns:
            The file, with the original's other contents.

        Raises:
            ValueError: if the file can't be as small as `options` require, or was read without its
                end (see `whole` at `jpeg.read`).
        """
        return make_jpeg(planes, options, project=self.options.project)

    def _choose_models(
        self, file: jpeg.JpegFile, prior: PriorCompression | None
    ) -> tuple[ModelChoice, ...]:
        """Returns which model restores each plane."""
        if self.options.strength == 0:
            choice = ModelChoice(None, "left as decoded: strength is 0")
            return (choice,) * len(file.components)
        choices = choose_plane_models(
            file,
            prior,
            luma=(self._given.name or UNNAMED) if self._given else None,
            chroma=self.chroma,
            chroma_qualities=self._chroma_qualities,
            project=self.options.project,
            size=self.size,
        )
        if self.options.trial and self._given is None:  # a named model is used without a trial
            return self._omit_harmed(file, prior, choices)
        return choices

    def _omit_harmed(
        self,
        file: jpeg.JpegFile,
        prior: PriorCompression | None,
        choices: tuple[ModelChoice, ...],
    ) -> tuple[ModelChoice, ...]:
        """Returns the choices without a model for planes that restoring makes worse in a trial."""

        def left(reason: str, plane: str = "") -> ModelChoice:
            what = f"{plane}left as decoded: {reason}; --no-trial restores it nevertheless"
            return ModelChoice(None, what)

        planes: list[tuple[jpeg.Component, ...]] = [
            (prior_component(component, prior) if prior else component,)
            for component in luma_components(file)
        ]
        if prior is None and restores_together(file, [c.name for c in choices], self.chroma):
            planes = [file.components]
        for choice, components in zip(choices, planes, strict=False):
            if choice.name is None:
                continue
            reasons = find_reasons_against(components, self._model(choice.name))
            if reasons.luma and reasons.chroma:
                return (left(reasons.luma),) * len(choices)
            if reasons.luma:
                choices = (left(reasons.luma, "luma: "), *choices[1:])
            if reasons.chroma:
                chroma = left(reasons.chroma, "chroma: ")
                choices = (choice, *(chroma if c.name else c for c in choices[1:]))
        return choices

    def _model(self, name: str) -> Model:
        """Returns the given model, or a bundled one by name, loaded once."""
        if self._given is not None:
            return self._given
        if self.chroma is not None and name == (self.chroma.name or UNNAMED):
            return self.chroma
        with _LOADING:
            if name not in self._bundled:
                self._bundled[name] = load(name, self.options.engine)
            return self._bundled[name]


# Held while a model is loaded, so that two threads don't load it twice.
_LOADING = threading.Lock()

# Approximate share of the work that the network of chroma takes.
_CHROMA_SHARE = 0.2
