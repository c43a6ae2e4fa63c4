"""Restoring JPEG files: `dmcnn_jax.restore("photo.jpg")`, and the command `dmcnn-restore`.

    python -m dmcnn_jax.restore photo.jpg folder/ -o cleaned/

Luma goes through a network. Chroma has none yet: it is what the middle of its intervals says,
brought to full size as libjpeg does. Of both planes, quantising with the file's own tables gives
the file's own coefficients back; the picture's whole pixels keep that as far as they can.
"""

import dataclasses
import inspect
import os
import sys
import types
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from dmcnn_jax import finish, inference, jpeg
from dmcnn_jax.choose import Choice, choose, nearest_quality
from dmcnn_jax.inference import Model
from dmcnn_jax.jpeg.files import Component


def restore(
    source: str | os.PathLike | bytes | BinaryIO,
    model: str | os.PathLike | Model | None = None,
    *,
    strength: float = 1.0,
    project: bool = True,
    bits: int = 8,
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

    Returns:
        uint8 (16 bits: uint16), [height, width] of a gray file, [height, width, 3] (RGB) of a
        colour file; as stored, not turned by its EXIF orientation.

    Raises:
        ValueError: if the file is no JPEG, or of a kind that can't be restored; if the model's
            file is none of ours; if an option is out of range.
        OSError: if it can't be read, or there are no such weights.
        TypeError: if the source is none of the above.
    """
    return Restorer(model, strength=strength, project=project, bits=bits)(jpeg.read(source)).pixels


@dataclasses.dataclass(frozen=True)
class Restoration:
    """A restored picture.

    Attributes:
        pixels: uint8 or uint16 [height, width] or [height, width, 3].
        model: the name of what restored it; None if it is as decoded.
        quality: standard quality that the luma table is nearest to.
        kept: how many luma coefficients the pixels keep; None if it is as decoded.
        notes: what is worth knowing.
    """

    pixels: np.ndarray
    model: str | None
    quality: int
    kept: finish.Count | None
    notes: tuple[str, ...]


class Restorer:
    """Restores one file after another.

    Args:
        model: as of `restore`.
        strength: as of `restore`.
        project: as of `restore`.
        bits: as of `restore`.

    Raises:
        ValueError, OSError: as of `restore`.
    """

    def __init__(
        self,
        model: str | os.PathLike | Model | None = None,
        *,
        strength: float = 1.0,
        project: bool = True,
        bits: int = 8,
    ):
        if not 0 <= strength <= 1:
            raise ValueError(f"strength is {strength}; expected 0 (as decoded) to 1 (all the way)")
        if bits not in (8, 16):
            raise ValueError(f"bits is {bits}; expected 8 or 16")
        self.strength, self.project, self.bits = strength, project, bits
        self._models: dict[str, Model] = {}
        self._fixed: Model | None = model if isinstance(model, Model) else None
        if model is not None and self._fixed is None:
            self._fixed = inference.load(model)
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
        return self.picture(self.planes(file, progress))

    def planes(
        self, file: jpeg.JpegFile, progress: Callable[[float], None] | None = None
    ) -> "Planes":
        """The first half of the work, the device's: planes."""
        # Files of RGB have three planes that are like luma; YCbCr has one, which comes first.
        lumas = file.components if file.color == "rgb" else file.components[:1]
        if self.strength == 0:
            choices = [Choice(None, "as decoded: strength 0")] * len(lumas)
        elif self._fixed is not None:
            choices = [Choice(self._fixed.name, "")] * len(lumas)
        else:
            choices = [choose(c.table, project=self.project) for c in lumas]
        name = choices[0].name
        reasons = tuple(dict.fromkeys(c.reason for c in choices if c.reason))
        notes = (*file.notes, *reasons) + ((f"damaged: {file.damage}",) if file.damage else ())
        if any(choice.name is None for choice in choices):
            return Planes(file, None, (), (), notes)
        restored = []
        for component, choice in zip(lumas, choices, strict=True):
            restored.append(
                inference.restore_plane(
                    self._model(choice.name),
                    component.coefficients,
                    component.table,
                    project=self.project,
                    strength=self.strength,
                    progress=progress and (lambda share: progress(share / len(lumas))),
                )
            )
            restored[-1] *= 255
        chroma = tuple(self._chroma(c) for c in file.components[len(lumas) :])
        return Planes(file, name, tuple(restored), chroma, notes)

    def picture(self, planes: "Planes") -> Restoration:
        """The second half of the work, the host's: pixels."""
        file = planes.file
        quality = nearest_quality(file.components[0].table)
        if planes.model is None:
            pixels = finish.decoded_picture(file)
            if self.bits == 16:
                pixels = pixels * np.uint16(257)
            return Restoration(pixels, None, quality, None, planes.notes)
        size = {"height": file.height, "width": file.width}
        options = {"bits": self.bits, "project": self.project}
        if file.color == "rgb":
            channels = [
                finish.finish(plane, (), (component,), **size, **options)
                for plane, component in zip(planes.luma, file.components, strict=True)
            ]
            pixels = np.stack([channel for channel, _ in channels], axis=-1)
            kept = sum((counted for _, counted in channels), finish.Count())
        else:
            pixels, kept = finish.finish(
                planes.luma[0], planes.chroma, file.components, **size, **options
            )
        return Restoration(pixels, planes.model, quality, kept, planes.notes)

    def _chroma(self, component: Component) -> np.ndarray:
        """A chroma plane, float32 at its own size, levels 0 to 255. A network would go here."""
        return finish.dequantized_plane(component, project=self.project)

    def _model(self, name: str) -> Model:
        if self._fixed is not None:
            return self._fixed
        if name not in self._models:
            self._models[name] = inference.load(name)
        return self._models[name]


@dataclasses.dataclass(frozen=True)
class Planes:
    """Restored planes of a file, before they are made a picture.

    Attributes:
        file: where they come from.
        model: the name of what restored them; None if the picture is to be as decoded.
        luma: float32, levels 0 to 255, whole blocks: of the Y plane, or of R, G and B.
        chroma: float32, of Cb and Cr, each at its own size.
        notes: what is worth knowing.
    """

    file: jpeg.JpegFile
    model: str | None
    luma: tuple[np.ndarray, ...]
    chroma: tuple[np.ndarray, ...]
    notes: tuple[str, ...]


def main(argv: list[str] | None = None) -> int:
    """The command `dmcnn-restore`; see `dmcnn_jax.command`."""
    from dmcnn_jax.command import main

    return main(argv)


class _Callable(types.ModuleType):
    """A module to call.

    `dmcnn_jax.restore` is a function of the package and, since `python -m dmcnn_jax.restore` is a
    command, a module of it. One name can't be both unless the module is what is called.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return restore(*args, **kwargs)

    __call__.__doc__ = restore.__doc__
    __signature__ = inspect.signature(restore)


if __name__ == "__main__":
    sys.exit(main())
sys.modules[__name__].__class__ = _Callable
