"""The options of restoring an archive: fixed in its plan, and the same for all files."""

import dataclasses
import hashlib
import os
from typing import Any

import jax

from dmcnn_jax.images import formats
from dmcnn_jax.inference.model import is_openvino
from dmcnn_jax.inference.weights import find_weights
from dmcnn_jax.restoration.jpeg_options import JpegOptions
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.system.bundled import BUNDLED


@dataclasses.dataclass(frozen=True)
class ArchiveOptions:
    """Options of restoring an archive; they are options of `dmcnn-restore` too.

    Attributes:
        restore: how pictures are restored. Size and engine are never "auto", since machines would
            choose differently.
        jpeg: options of JPEG results that hold restored coefficients.
        extension: of results, with its dot.
        quality: of WebP, and of JPEG files whose pixels are compressed anew.
        upright: whether pixels are turned upright.
        weights: the model that restores luma, as in `Restorer`.
        max_pixels: the largest width * height of a picture.
        allow_truncated: whether damaged files are restored as far as they can be read.
        cores: number of cores of each worker. The last bits of OpenVINO's results depend on its
            number of threads.
    """

    restore: RestoreOptions = dataclasses.field(default_factory=RestoreOptions)
    jpeg: JpegOptions = dataclasses.field(default_factory=JpegOptions)
    extension: str = ".png"
    quality: int | None = None
    upright: bool = False
    weights: str | None = None
    max_pixels: int = 200_000_000
    allow_truncated: bool = False
    cores: int = 1

    def style(self, extension: str | None = None) -> formats.OutputFormat:
        """Returns the format of files, by default for this archive's extension.

        Raises:
            ValueError: if the options don't fit the format.
        """
        quality = self.quality if extension is None else None
        return formats.output_format(
            extension or self.extension, quality, self.restore.bits, upright=self.upright
        )

    def check(self) -> None:
        """Raises a ValueError if options contradict each other."""
        style = self.style()
        if style.holds_coefficients and self.upright:
            raise ValueError(
                "--upright turns pixels, but JPEG files hold restored coefficients; add --quality"
                " to compress the pixels anew"
            )
        if not style.holds_coefficients and self.jpeg != JpegOptions():
            raise ValueError(
                "--budget and --subsampling are for JPEG files of restored coefficients; write"
                " these with --format jpg, without --quality"
            )

    def to_json(self) -> dict[str, Any]:
        """Returns the options as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ArchiveOptions":
        """Returns the options from the values that `to_json` returned."""
        restore = dict(values["restore"])
        if restore["prior_grid"] is not None:
            restore["prior_grid"] = tuple(restore["prior_grid"])
        parts = {"restore": RestoreOptions(**restore), "jpeg": JpegOptions(**values["jpeg"])}
        return cls(**{**values, **parts})


def resolve(options: ArchiveOptions) -> ArchiveOptions:
    """Returns options that mean the same on every machine and in every folder.

    Size and engine "auto" become those that this machine chooses, and weights that are not bundled
    become the absolute path of their file.

    Raises:
        FileNotFoundError: if there are no such weights.
    """
    engine, size, weights = options.restore.engine, options.restore.size, options.weights
    if engine == "auto":
        engine = "openvino" if is_openvino("auto") else "jax"
    if size == "auto":
        quick = jax.default_backend() != "cpu" or is_openvino(engine)
        size = "full" if quick else "fast"
    if weights is not None and (found := find_weights(weights)).parent != BUNDLED:
        weights = os.path.abspath(found)
    restore = dataclasses.replace(options.restore, engine=engine, size=size)
    return dataclasses.replace(options, restore=restore, weights=weights)


def weights_digest(options: ArchiveOptions) -> str:
    """Returns a digest of the weights that these options use on this machine: SHA-256, hexadecimal.

    Raises:
        OSError: if a weights file that the options name can't be read.
    """
    digest = hashlib.sha256()
    paths = sorted(BUNDLED.glob("*.safetensors"))
    if options.weights is not None and (found := find_weights(options.weights)) not in paths:
        paths.append(found)
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
