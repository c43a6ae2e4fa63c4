"""Reads and writes 16-bit TIFF files; Pillow keeps only the upper 8 bits of colours."""

import io
import shutil
import struct
import tempfile
import zlib
from typing import IO, Any, TypeGuard

import numpy as np
from PIL import ExifTags, Image, TiffTags
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COMPRESSION,
    FILLORDER,
    ICCPROFILE,
    IMAGELENGTH,
    IMAGEWIDTH,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    PREDICTOR,
    RESOLUTION_UNIT,
    ROWSPERSTRIP,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    STRIPBYTECOUNTS,
    STRIPOFFSETS,
    TILEBYTECOUNTS,
    TILELENGTH,
    TILEOFFSETS,
    TILEWIDTH,
    X_RESOLUTION,
    Y_RESOLUTION,
    ImageFileDirectory_v2,
    TiffImageFile,
)

from dmcnn_jax.images.metadata import to_exif
from dmcnn_jax.jpeg.metadata import Metadata
from dmcnn_jax.system.atomic_write import naming_errors

# Rows compressed at a time.
_ROWS = 256

# Values of tags: Adobe's deflate, differences to the pixel at the left, pixels per inch.
_DEFLATE, _DIFFERENCES, _INCH = 8, 2, 2
_GRAY, _RGB, _SEPARATED = 1, 2, 5

# Tags that hold a directory of their own.
_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop)


def is_tiff16(image: Image.Image) -> TypeGuard[TiffImageFile]:
    """Returns whether an opened picture is a TIFF file of 16-bit samples."""
    return isinstance(image, TiffImageFile) and set(image.tag_v2.get(BITSPERSAMPLE, ())) == {16}


def read_tiff16(data: bytes, tags: ImageFileDirectory_v2, name: str) -> np.ndarray:
    """Returns the pixels of a 16-bit TIFF file, unturned and without transparency.

    Pillow decodes 16-bit gray only. A row of RGB pixels is a row of gray ones three times as wide,
    so a second directory that describes the same data as gray is put at the end of the file. Pillow
    then decompresses the data. Differences are summed here, since they are between pixels, not
    samples.

    Args:
        data: the file.
        tags: its first directory.
        name: the file's name, for errors.

    Returns:
        uint16 [height, width] or [height, width, 3].

    Raises:
        ValueError: if the pixels are stored in a form that is not supported.
    """
    height, width = int(tags[IMAGELENGTH]), int(tags[IMAGEWIDTH])
    samples = int(tags.get(SAMPLESPERPIXEL, 1))
    for tag, supported in _SUPPORTED.items():
        value = tags.get(tag, supported[0])
        if any(each not in supported for each in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(
                f"{name}: a 16-bit TIFF file with {TiffTags.lookup(tag).name} {value}; expected"
                f" {' or '.join(map(str, supported))}: convert it to PNG of 16 bits"
            )
    with Image.open(io.BytesIO(_as_gray(data, tags, samples))) as image:
        pixels = np.asarray(image).astype(np.uint16).reshape(height, width, samples)
    if tags.get(PREDICTOR, 1) == _DIFFERENCES:
        tile = int(tags.get(TILEWIDTH, width))
        for left in range(0, width, tile):
            part = pixels[:, left : left + tile]
            np.cumsum(part, axis=1, dtype=np.uint16, out=part)
    return pixels[..., :3] if samples >= 3 else pixels[..., 0]


def write_tiff16(file: IO[bytes], pixels: np.ndarray, metadata: Metadata) -> None:
    """Writes a 16-bit TIFF file: its directory by Pillow, its pixels by zlib.

    Samples are stored as compressed differences from the pixel to the left, which all readers of
    compressed TIFF files support. Beyond 32 MiB, compressed data waits in a temporary file.

    Args:
        file: open for writing in binary.
        pixels: uint16 [height, width], [height, width, 3], or [height, width, 4] (CMYK).
        metadata: what to keep.

    Raises:
        ValueError: if the picture exceeds the 4 GB of a TIFF file.
    """
    height, width = pixels.shape[:2]
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    directory = _metadata_directory(metadata)
    directory[IMAGEWIDTH], directory[IMAGELENGTH] = width, height
    directory[BITSPERSAMPLE], directory[SAMPLESPERPIXEL] = (16,) * samples, samples
    directory[COMPRESSION], directory[PREDICTOR] = _DEFLATE, _DIFFERENCES
    directory[PHOTOMETRIC_INTERPRETATION] = {1: _GRAY, 3: _RGB, 4: _SEPARATED}[samples]
    directory[PLANAR_CONFIGURATION] = 1
    counts = []
    with tempfile.SpooledTemporaryFile(max_size=2**25) as strips:
        for top in range(0, height, _ROWS):
            part = pixels[top : top + _ROWS].reshape(-1, width, samples)
            part = np.diff(part, axis=1, prepend=np.uint16(0)).astype("<u2")
            data = zlib.compress(part.tobytes(), 4)
            with naming_errors(tempfile.gettempdir()):
                strips.write(data)
            counts.append(len(data))
        directory[ROWSPERSTRIP], directory[STRIPBYTECOUNTS] = _ROWS, tuple(counts)
        directory[STRIPOFFSETS] = tuple(int(end) for end in np.cumsum([0, *counts[:-1]]))
        # Pillow later adds the directory's own size to the offsets, which might then exceed 16
        # bits.
        directory.tagtype[STRIPBYTECOUNTS] = TiffTags.LONG
        directory.tagtype[STRIPOFFSETS] = TiffTags.LONG
        if sum(counts) > 2**32 - 2**24:
            raise ValueError("the picture is too large for a TIFF file of 16 bits")
        directory.save(file)
        strips.seek(0)
        shutil.copyfileobj(strips, file)


# Values that the reader supports. The first is the default of a missing tag.
_SUPPORTED: dict[int, tuple[int, ...]] = {
    PLANAR_CONFIGURATION: (1,),
    PREDICTOR: (1, _DIFFERENCES),
    SAMPLEFORMAT: (1,),
    FILLORDER: (1,),
    PHOTOMETRIC_INTERPRETATION: (_GRAY, _RGB),
}

# Tags that describe pixels as gray. Widths are multiplied by the number of samples.
_WIDTHS = (IMAGEWIDTH, TILEWIDTH)
_KEPT = (
    IMAGELENGTH,
    COMPRESSION,
    STRIPOFFSETS,
    ROWSPERSTRIP,
    STRIPBYTECOUNTS,
    TILELENGTH,
    TILEOFFSETS,
    TILEBYTECOUNTS,
)


def _as_gray(data: bytes, tags: ImageFileDirectory_v2, samples: int) -> bytes:
    """Returns the file with a directory that describes its samples as gray pixels."""
    numbers: dict[int, Any] = {
        BITSPERSAMPLE: 16,
        PHOTOMETRIC_INTERPRETATION: _GRAY,
        SAMPLESPERPIXEL: 1,
    }
    numbers |= {tag: tags[tag] for tag in _KEPT if tag in tags}
    numbers |= {tag: samples * tags[tag] for tag in _WIDTHS if tag in tags}
    order = "<" if tags.prefix == b"II" else ">"
    start = len(data) + len(data) % 2
    after = start + 2 + 12 * len(numbers) + 4
    entries, arrays = [], b""
    for tag, value in sorted(numbers.items()):
        values = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            arrays += packed
            packed = struct.pack(f"{order}I", after + len(arrays) - len(packed))
        entries.append(struct.pack(f"{order}HHI", tag, TiffTags.LONG, len(values)) + packed)
    header = tags.prefix + struct.pack(f"{order}HI", 42, start)
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    return b"".join([header, data[8:].ljust(start - 8, b"\0"), directory, arrays])


def _metadata_directory(metadata: Metadata) -> ImageFileDirectory_v2:
    """Returns a TIFF directory with a file's metadata, not yet with its pixels."""
    exif = to_exif(metadata)
    directory = ImageFileDirectory_v2(prefix=b"II")
    for tag in exif:
        directory[tag] = exif.get_ifd(tag) if tag in _DIRECTORIES else exif[tag]
    if metadata.resolution:
        directory[X_RESOLUTION], directory[Y_RESOLUTION] = metadata.resolution
        directory[RESOLUTION_UNIT] = _INCH
    if metadata.icc:
        directory[ICCPROFILE] = metadata.icc
        directory.tagtype[ICCPROFILE] = TiffTags.UNDEFINED
    return directory
