"""Restores JPEG files: `dmcnn_jax.restore("photo.jpg")`.

Luma goes through a network, and chroma, guided by it, through another; without weights for that, it
is what the middle of its intervals says, brought to full size as libjpeg does. Of both planes,
quantising with the file's own tables gives the file's own coefficients back; the picture's whole
pixels keep that as far as they can.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import BinaryIO

import jax
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.inference.chroma import CHROMA_SUBSAMPLINGS, restore_chroma
from dmcnn_jax.inference.luma import restore_plane
from dmcnn_jax.inference.model import Model, is_openvino, load
from dmcnn_jax.inference.weights import BUNDLED
from dmcnn_jax.jpeg.double_compression import PriorCompression, find_prior_compression, requantize
from dmcnn_jax.models.chroma import ChromaNet
from dmcnn_jax.restoration import coefficient_check, color_correction, decoding, rounding
from dmcnn_jax.restoration.model_selection import SIZES, Choice, choose, nearest_quality

CHROMA = "dmcnn-chroma"
"""The bundled weights that restore chroma."""

# Its share of the work, about.
_CHROMA_WORK = 0.2


def restore(
    source: str | os.PathLike | bytes | BinaryIO,
    model: str | os.PathLike | Model | None = None,
    *,
    strength: float = 1.0,
    project: bool = True,
    bits: int = 8,
    detect: bool = True,
    assume_quality: int | None = None,
    grid: tuple[int, int] | None = None,
    size: str = "auto",
    ensemble: bool = False,
    engine: str = "auto",
) -> np.ndarray:
    """Restores a JPEG file.

    Args:
        source: a path, the file's bytes, or a file open for reading in binary. Not an image that
            is decoded already: it has lost its coefficients.
        model: a bundled name, a weights file, a workdir, or what `dmcnn_jax.load` returned. None:
            the bundled model that was trained for quantisation tables like the file's; a file that
            none was trained for is returned as decoded.
        strength: how far to go from the decoded picture (0) to the restored one (1).
        project: whether luma is kept where quantising it gives the file's coefficients back. It
            should be, except for encoders that choose coefficients otherwise than by rounding.
        bits: 8, or 16 for finer gradations.
        detect: whether to look for an earlier, coarser save that a later one has left the artifacts
            of, and to restore by its table where there was one. Then the result no longer
            quantises to the file's own coefficients.
        assume_quality: what the earlier quality is known to be, 1 to 100.
        grid: where the blocks of the earlier save are known to begin: columns and rows from the
            corner, 0 to 7.
        size: of the bundled model: "fast"; "full", which is better; "auto", full where there is an
            accelerator, or OpenVINO, by which the one takes no longer than the other without.
        ensemble: whether luma is the mean of what is restored of the picture turned and mirrored in
            eight ways: a little better, at eight times the work.
        engine: what computes the models' layers, one of `inference.ENGINES`, as of `load`; of
            models that are given as such, theirs.

    Returns:
        uint8 (16 bits: uint16), [height, width] of a gray file, [height, width, 3] (RGB) of a
        colour file; as stored, not turned by its EXIF orientation.

    Raises:
        ValueError: if the file is no JPEG, or of a kind that can't be restored; if the model's
            file is none of ours; if an option is out of range.
        OSError: if it can't be read, or there are no such weights.
        ImportError: if the engine is not installed.
        TypeError: if the source is none of the above.
    """
    restorer = Restorer(
        model,
        strength=strength,
        project=project,
        bits=bits,
        detect=detect,
        assume_quality=assume_quality,
        grid=grid,
        size=size,
        ensemble=ensemble,
        engine=engine,
    )
    return restorer(jpeg.read(source)).pixels


@dataclasses.dataclass(frozen=True)
class Restoration:
    """A restored picture.

    Attributes:
        pixels: uint8 or uint16 [height, width] or [height, width, 3].
        model: the name of what restored it; None if it is as decoded.
        quality: standard quality that the luma table is nearest to.
        kept: how many luma coefficients the pixels keep; None if it is as decoded, if it was
            restored by an earlier save, and of luma that is subsampled.
        notes: what is worth knowing.
        earlier: the save that it was restored by, if that was not the file's own.
        chroma_kept: how many chroma coefficients the pixels keep, averaged over samples, of blocks
            that are whole; None of gray, of RGB, as decoded, and without such blocks.
    """

    pixels: np.ndarray
    model: str | None
    quality: int
    kept: coefficient_check.Count | None
    notes: tuple[str, ...]
    earlier: PriorCompression | None = None
    chroma_kept: coefficient_check.Count | None = None


class Restorer:
    """Restores one file after another.

    Args:
        model: as of `restore`.
        strength: as of `restore`.
        project: as of `restore`.
        bits: as of `restore`.
        detect: as of `restore`.
        assume_quality: as of `restore`.
        grid: as of `restore`.
        size: as of `restore`.
        ensemble: as of `restore`.
        engine: as of `restore`.
        chroma: what restores chroma: a weights file, a workdir, or what `dmcnn_jax.load` returned.
            None: the bundled weights.

    Raises:
        ValueError, OSError, ImportError: as of `restore`.
    """

    def __init__(
        self,
        model: str | os.PathLike | Model | None = None,
        *,
        strength: float = 1.0,
        project: bool = True,
        bits: int = 8,
        detect: bool = True,
        assume_quality: int | None = None,
        grid: tuple[int, int] | None = None,
        size: str = "auto",
        ensemble: bool = False,
        engine: str = "auto",
        chroma: str | os.PathLike | Model | None = None,
    ):
        if not 0 <= strength <= 1:
            raise ValueError(f"strength is {strength}; expected 0 (as decoded) to 1 (all the way)")
        if bits not in (8, 16):
            raise ValueError(f"bits is {bits}; expected 8 or 16")
        if assume_quality is not None and not 1 <= assume_quality <= 100:
            raise ValueError(f"assume_quality is {assume_quality}; expected 1 to 100")
        if grid is not None and not (len(grid) == 2 and all(0 <= offset <= 7 for offset in grid)):
            raise ValueError(f"grid is {grid}; expected two offsets from 0 to 7, columns and rows")
        if size not in SIZES:
            raise ValueError(f"size is {size!r}; expected one of {', '.join(SIZES)}")
        self.strength, self.project, self.bits = strength, project, bits
        self.ensemble, self.engine = ensemble, engine
        self.detect = detect or assume_quality is not None or grid is not None
        self.assume_quality, self.grid = assume_quality, grid
        self._models: dict[str, Model] = {}
        self._fixed: Model | None = model if isinstance(model, Model) else None
        if model is not None and self._fixed is None:
            self._fixed = load(model, engine)
        self.chroma = _load_chroma(chroma, engine)
        if self._fixed is not None and isinstance(self._fixed.module, ChromaNet):
            raise ValueError(
                f"the weights {self._fixed.name!r} restore chroma; expected some that restore luma"
            )
        if size == "auto":
            quick = jax.default_backend() != "cpu" or is_openvino(engine)
            size = "full" if quick else "fast"
        self.size = size
        if model is None and strength > 0:
            choose(jpeg.STANDARD_LUMA)  # fails, if there is nothing to choose from, here

    def __call__(
        self, file: jpeg.JpegFile, progress: Callable[[float], None] | None = None
    ) -> Restoration:
        """Restores a file.

        Args:
            file: what `jpeg.read` gave.
            progress: called now and then with the share of the work that was done since.

        Returns:
            The picture.
        """
        return self.render(self.restore_planes(file, progress))

    def restore_planes(
        self, file: jpeg.JpegFile, progress: Callable[[float], None] | None = None
    ) -> "Planes":
        """The first half of the work, the device's: planes."""
        # Files of RGB have three planes that are like luma; YCbCr has one, which comes first.
        lumas = file.components if file.color == "rgb" else file.components[:1]
        earlier, remarks = self._earlier(file)
        if self.strength == 0:
            choices = [Choice(None, "as decoded: strength 0")] * len(lumas)
        elif self._fixed is not None:
            choices = [Choice(self._fixed.name, "")] * len(lumas)
        else:
            tables = [earlier.table] if earlier else [c.table for c in lumas]
            choices = [choose(table, project=self.project, size=self.size) for table in tables]
        name = choices[0].name
        reasons = tuple(dict.fromkeys(c.reason for c in choices if c.reason))
        notes = (*file.notes, *remarks, *reasons) + (
            (f"damaged: {file.damage}",) if file.damage else ()
        )
        if any(component.subsampling != (1, 1) for component in lumas):
            what = "a plane of RGB" if file.color == "rgb" else "luma"
            notes += (f"{what} is subsampled: what the file says of it is not kept in the pixels",)
        if any(choice.name is None for choice in choices):
            return Planes(file, None, (), (), notes)
        restored = []
        colors = self._restores_chroma(file)
        share_of_luma = (1 - _CHROMA_WORK if colors else 1) / len(lumas)
        for component, choice in zip(lumas, choices, strict=True):
            plane = restore_plane(
                self._model(choice.name),
                requantize(component, earlier) if earlier else component.coefficients,
                earlier.table if earlier else component.table,
                project=self.project,
                strength=self.strength,
                ensemble=self.ensemble,
                progress=progress and (lambda share: progress(share * share_of_luma)),
            )
            plane *= 255
            if not earlier:
                size = component.height, component.width
                color_correction.keep_mean(plane, component, *size, project=self.project)
            restored.append(_cut_out(plane, component, earlier) if earlier else plane)
        if colors:
            chroma = self._chroma(file, restored[0], progress)
        else:
            chroma = [
                decoding.dequantized_plane(c, project=self.project)
                for c in file.components[len(lumas) :]
            ]
        self._keep_colors(file, restored, chroma, earlier)
        chroma = tuple(
            plane[: file.height, : file.width] if colors else plane[: c.height, : c.width]
            for plane, c in zip(chroma, file.components[len(lumas) :], strict=True)
        )
        return Planes(file, name, tuple(restored), chroma, notes, earlier)

    def render(self, planes: "Planes") -> Restoration:
        """The second half of the work, the host's: pixels."""
        file = planes.file
        quality = nearest_quality(file.components[0].table)
        if planes.model is None:
            pixels = decoding.decoded_picture(file)
            if self.bits == 16:
                pixels = pixels * np.uint16(257)
            return Restoration(pixels, None, quality, None, planes.notes)
        size = {"height": file.height, "width": file.width}
        options = {"bits": self.bits, "project": self.project and planes.earlier is None}
        if file.color == "rgb":
            channels = [
                rounding.finish(plane, (), (component,), **size, **options)
                for plane, component in zip(planes.luma, file.components, strict=True)
            ]
            pixels = np.stack([channel for channel, _ in channels], axis=-1)
            kept = sum((counted for _, counted in channels), coefficient_check.Count())
        else:
            pixels, kept = rounding.finish(
                planes.luma[0], planes.chroma, file.components, **size, **options
            )
        # Of subsampled planes, and of blocks that the border cuts, pixels don't say it.
        kept = None if planes.earlier or not kept.coefficients else kept
        chroma_kept = None
        if planes.chroma:
            chroma_kept = coefficient_check.chroma_kept(pixels, file.components, self.bits)
            chroma_kept = chroma_kept if chroma_kept.coefficients else None
        return Restoration(
            pixels, planes.model, quality, kept, planes.notes, planes.earlier, chroma_kept
        )

    def _earlier(self, file: jpeg.JpegFile) -> tuple[PriorCompression | None, tuple[str, ...]]:
        """An earlier save to restore by, and what to say of it."""
        luma = file.components[0]
        # Three planes of RGB, or a subsampled one, are no resaved photograph.
        if not self.detect or self.strength == 0:
            return None, ()
        if file.color == "rgb" or luma.subsampling != (1, 1):
            told = self.assume_quality is not None or self.grid is not None
            kind = "of RGB" if file.color == "rgb" else "with subsampled luma"
            remark = f"of a file {kind}, no earlier save is taken into account"
            return None, (remark,) if told else ()
        earlier = find_prior_compression(luma, quality=self.assume_quality, grid=self.grid)
        if earlier is None:
            where = f" on the grid at {self.grid[0]},{self.grid[1]}" if self.grid else ""
            return None, (f"no earlier save shows{where}",) if self.grid else ()
        found = "taken to have been" if self.assume_quality else "resaved:"
        return earlier, (
            f"{found} saved before at about quality {earlier.quality}, with blocks that begin at"
            f" {earlier.left},{earlier.top}; restored by that, without the guarantee",
        )

    def _restores_chroma(self, file: jpeg.JpegFile) -> bool:
        """Whether there is a network for a file's chroma, and it knows the sampling."""
        if self.chroma is None or file.color != "ycbcr":
            return False
        luma, *others = (component.subsampling for component in file.components)
        return luma == (1, 1) and others[0] == others[1] and others[0] in CHROMA_SUBSAMPLINGS

    def _chroma(
        self, file: jpeg.JpegFile, luma: np.ndarray, progress: Callable[[float], None] | None
    ) -> np.ndarray:
        """Cb and Cr of a network, float32 [2, …] at full size, whole blocks, levels 0 to 255."""
        components = file.components[1:]
        planes = restore_chroma(
            self.chroma,
            [c.coefficients for c in components],
            [c.table for c in components],
            luma,
            components[0].subsampling,
            project=self.project,
            strength=self.strength,
            progress=progress and (lambda share: progress(share * _CHROMA_WORK)),
        )
        for plane, component, movable in zip(planes, components, _colored(components), strict=True):
            options = {"project": self.project, "movable": movable}
            color_correction.keep_mean(plane, component, file.height, file.width, **options)
        return planes

    def _keep_colors(
        self,
        file: jpeg.JpegFile,
        luma: Sequence[np.ndarray],
        chroma: Sequence[np.ndarray],
        earlier: PriorCompression | None,
    ) -> None:
        """Keeps the picture's mean colour to the decoded file's; planes are changed in place."""
        size, reference = (file.height, file.width), decoding.decoded_mean(file)
        # On an earlier save's grid, luma keeps to other intervals than those of the file.
        project = [self.project and earlier is None]
        if file.color == "rgb":
            for plane, component, mean in zip(luma, file.components, reference, strict=True):
                color_correction.keep_colors(
                    [plane], [component], *size, mean[None], project=project
                )
            return
        project += [self.project] * len(chroma)
        movable = [None, *_colored(file.components[1:])]
        color_correction.keep_colors(
            [*luma, *chroma], file.components, *size, reference, project=project, movable=movable
        )

    def _model(self, name: str) -> Model:
        if self._fixed is not None:
            return self._fixed
        if name not in self._models:
            self._models[name] = load(name, self.engine)
        return self._models[name]


@dataclasses.dataclass(frozen=True)
class Planes:
    """Restored planes of a file, before they are made a picture.

    Attributes:
        file: where they come from.
        model: the name of what restored them; None if the picture is to be as decoded.
        luma: float32, levels 0 to 255, whole blocks: of the Y plane, or of R, G and B.
        chroma: float32, of Cb and Cr, at full size, or each at its own.
        notes: what is worth knowing.
        earlier: the save that luma was restored by, if that was not the file's own.
    """

    file: jpeg.JpegFile
    model: str | None
    luma: tuple[np.ndarray, ...]
    chroma: tuple[np.ndarray, ...]
    notes: tuple[str, ...]
    earlier: PriorCompression | None = None


def _load_chroma(source, engine) -> Model | None:
    """What restores chroma; None if nothing is named and no weights come with the package."""
    if source is None and not (BUNDLED / f"{CHROMA}.safetensors").exists():
        return None
    model = source if isinstance(source, Model) else load(source or CHROMA, engine)
    if not isinstance(model.module, ChromaNet):
        raise ValueError(f"the weights {model.name!r} do not restore chroma")
    return model


def _colored(components):
    """For each plane of chroma, which of its blocks may be moved: what has no colour gets none."""
    colored = [component.coefficients.any(axis=-1) for component in components]
    if len({blocks.shape for blocks in colored}) == 1:
        return [np.any(colored, axis=0)] * len(colored)
    return colored


def _cut_out(plane, component, earlier):
    """Of a plane on an earlier grid, the file's own blocks."""
    above, before = earlier.margins
    rows, columns, _ = component.coefficients.shape
    part = plane[above : above + component.height, before : before + component.width]
    pad = ((0, 8 * rows - component.height), (0, 8 * columns - component.width))
    return np.pad(part, pad, mode="edge")
