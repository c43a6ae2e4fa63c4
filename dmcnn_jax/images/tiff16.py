"""Reads and writes 16-bit TIFF files, which Pillow does not write in colour."""

import os
import shutil
import tempfile
import zlib

import numpy as np
from PIL import TiffImagePlugin, TiffTags

from dmcnn_jax.images.metadata import (
    BITS,
    COMPRESSION,
    COUNTS,
    DEFLATE,
    DIFFERENCES,
    HEIGHT,
    ICC,
    INCH,
    OFFSETS,
    PHOTOMETRIC,
    PLANAR,
    PREDICTOR,
    ROWS,
    ROWS_PER_STRIP,
    SAMPLES,
    UNIT,
    WIDTH,
    X_RESOLUTION,
    Y_RESOLUTION,
    to_exif,
)


def write_tiff16(file, pixels, metadata):
    """TIFF of 16 bits, which Pillow can't write in colour: its directory by Pillow, strips by zlib.

    Each sample is the difference to that of the pixel at the left, which is what all readers of
    compressed TIFF files know.
    """
    height, width = pixels.shape[:2]
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    exif = to_exif(metadata)
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    for tag in exif:
        directory[tag] = exif.get_ifd(tag) if tag in _DIRECTORIES else exif[tag]
    directory[WIDTH], directory[HEIGHT] = width, height
    directory[BITS], directory[SAMPLES] = (16,) * samples, samples
    directory[COMPRESSION], directory[PREDICTOR] = DEFLATE, DIFFERENCES
    directory[PHOTOMETRIC], directory[PLANAR] = (2 if samples == 3 else 1), 1
    if metadata.resolution:
        directory[X_RESOLUTION], directory[Y_RESOLUTION] = metadata.resolution
        directory[UNIT] = INCH
    if metadata.icc:
        directory[ICC] = metadata.icc
        directory.tagtype[ICC] = TiffTags.UNDEFINED
    counts = []
    with tempfile.SpooledTemporaryFile(max_size=2**25) as strips:
        for top in range(0, height, ROWS):
            part = pixels[top : top + ROWS].reshape(-1, width, samples)
            part = np.diff(part, axis=1, prepend=np.uint16(0)).astype("<u2")
            data = zlib.compress(part.tobytes(), 4)
            strips.write(data)
            counts.append(len(data))
        directory[ROWS_PER_STRIP], directory[COUNTS] = ROWS, tuple(counts)
        directory[OFFSETS] = tuple(int(end) for end in np.cumsum([0, *counts[:-1]]))
        # Large files need the wide type from the start: what is added comes later.
        directory.tagtype[COUNTS] = directory.tagtype[OFFSETS] = TiffTags.LONG
        if sum(counts) > 2**32 - 2**24:
            raise ValueError("the picture is too large for a TIFF file of 16 bits")
        directory.save(file)
        strips.seek(0)
        shutil.copyfileobj(strips, file)


# Tags whose values are directories of their own: EXIF's, GPS's, and interoperability.
_DIRECTORIES = (0x8769, 0x8825, 0xA005)


def read_tiff16(tags, path):
    """Returns the pixels of a 16-bit TIFF file, uint16 [height, width] or [height, width, 3]."""
    height, width, samples = tags[HEIGHT], tags[WIDTH], tags.get(SAMPLES, 1)
    form = tags.get(COMPRESSION), tags.get(PREDICTOR), tags.get(PLANAR, 1), tags.prefix[:2]
    if form != (DEFLATE, DIFFERENCES, 1, b"II") or OFFSETS not in tags:
        raise ValueError(f"{os.fspath(path)}: a TIFF of 16 bits in another form than is written")
    strips = []
    with open(path, "rb") as file:
        for offset, count in zip(tags[OFFSETS], tags[COUNTS], strict=True):
            file.seek(offset)
            strips.append(zlib.decompress(file.read(count)))
    pixels = np.frombuffer(b"".join(strips), "<u2").reshape(height, width, samples)
    pixels = np.cumsum(pixels, axis=1, dtype=np.uint16)
    return pixels if samples == 3 else pixels[..., 0]
