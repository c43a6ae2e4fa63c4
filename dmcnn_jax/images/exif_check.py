"""Checks that Pillow can read EXIF data, since hostile data make programs fail."""

import dataclasses
import io

from PIL import Image, ImageOps
from PIL.ExifTags import Base

from dmcnn_jax.jpeg.metadata import Metadata


def check_exif(exif: bytes) -> None:
    """Checks, on a tiny picture, that Pillow reads and turns a file with EXIF data.

    Args:
        exif: EXIF data with their header.

    Raises:
        ValueError: if it fails.
    """
    file = io.BytesIO()
    Image.new("L", (2, 1)).save(file, "PNG", exif=exif)
    try:
        with Image.open(file) as image:
            image.load()
            ImageOps.exif_transpose(image)
    # Pillow doesn't document its errors, which are of many types.
    except Exception as error:
        raise ValueError(f"Pillow can't read them: {error}") from error


def reduce_exif(metadata: Metadata) -> Metadata:
    """Returns metadata with EXIF data reduced to the orientation; removed if already reduced."""
    tag = Image.Exif()
    tag[Base.Orientation] = metadata.orientation
    data = tag.tobytes()
    least = data if data.startswith(b"Exif\0\0") else b"Exif\0\0" + data
    upright = metadata.orientation == 1
    exif = None if upright or metadata.exif == least else least
    return dataclasses.replace(metadata, exif=exif)
