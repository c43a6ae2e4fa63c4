"""Renders restored planes as a picture or a JPEG file, and writes the result in a format."""

import os
from collections.abc import Callable
from typing import IO

from dmcnn_jax.images import formats
from dmcnn_jax.restoration.decoded_file import finish
from dmcnn_jax.restoration.jpeg_options import JpegOptions
from dmcnn_jax.restoration.restorer import Restorer
from dmcnn_jax.restoration.results import Outcome, Planes
from dmcnn_jax.restoration.verification import count_as_written

Target = str | os.PathLike[str] | IO[bytes]
Writer = Callable[[Target, bool], tuple[str, ...]]
"""A function that writes a result. It takes a path or a file open for writing in binary, and
whether an existing file is replaced; it returns the original's contents that the result doesn't
have."""


def make_result(
    restorer: Restorer, planes: Planes, style: formats.OutputFormat, jpeg_options: JpegOptions
) -> tuple[Outcome, Writer]:
    """Returns the result of restored planes, and a function that writes it.

    Args:
        restorer: the restorer of the planes.
        planes: result of its `restore_planes`.
        style: the format.
        jpeg_options: options of JPEG results that hold restored coefficients.

    Raises:
        ValueError: if a JPEG file can't be as small as `jpeg_options` require.
    """
    if style.holds_coefficients:
        restored = restorer.render_jpeg(planes, jpeg_options)

        def write_bytes(target: Target, overwrite: bool) -> tuple[str, ...]:
            formats.write_bytes(target, restored.data, overwrite=overwrite)
            return ()

        return restored, write_bytes
    picture = finish(planes.file, restorer.render(planes))
    if len(planes.file.components) < 4:
        picture = count_as_written(planes.file, picture, style)

    def write_pixels(target: Target, overwrite: bool) -> tuple[str, ...]:
        metadata = planes.file.metadata
        return formats.write(target, picture.pixels, metadata, style, overwrite=overwrite)

    return picture, write_pixels
