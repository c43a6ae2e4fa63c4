"""Makes what is written of restored planes: a picture's file, or a JPEG file of coefficients."""

import os
from collections.abc import Callable
from typing import IO

from dmcnn_jax.images import formats
from dmcnn_jax.restoration.jpeg_options import JpegOptions
from dmcnn_jax.restoration.restorer import Restorer
from dmcnn_jax.restoration.results import Outcome, Planes
from dmcnn_jax.restoration.verification import count_as_written

Target = str | os.PathLike[str] | IO[bytes]
"""Where a file is written: a path, or a file open for writing in binary."""

Writer = Callable[[Target, bool], tuple[str, ...]]
"""Writes a file to a target; takes whether a file of that name is replaced, and returns what the
JPEG file held and this one doesn't."""


def make_output(
    restorer: Restorer, planes: Planes, style: formats.OutputFormat, jpeg_options: JpegOptions
) -> tuple[Outcome, Writer]:
    """Returns what was made of restored planes, and a function that writes it.

    Args:
        restorer: which restored the planes.
        planes: what `Restorer.restore_planes` returned.
        style: the format of the file.
        jpeg_options: of JPEG files that hold coefficients.

    Raises:
        ValueError: if the file can't be as small as `jpeg_options` say.
    """
    if style.holds_coefficients:
        restored = restorer.render_jpeg(planes, jpeg_options)

        def write_bytes(target: Target, overwrite: bool) -> tuple[str, ...]:
            formats.write_bytes(target, restored.data, overwrite=overwrite)
            return ()

        return restored, write_bytes
    picture = restorer.render(planes)
    if len(planes.file.components) < 4:
        picture = count_as_written(planes.file, picture, style)

    def write_pixels(target: Target, overwrite: bool) -> tuple[str, ...]:
        metadata = planes.file.metadata
        return formats.write(target, picture.pixels, metadata, style, overwrite=overwrite)

    return picture, write_pixels
