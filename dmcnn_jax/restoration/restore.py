"""Restores one file by one call: `dmcnn_jax.restore("photo.jpg")`."""

import os
from typing import BinaryIO

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.images.orientation import turn
from dmcnn_jax.inference.model import Model
from dmcnn_jax.restoration.decoded_file import finish, read_source
from dmcnn_jax.restoration.jpeg_options import JpegOptions
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer


def restore(
    source: str | os.PathLike | bytes | BinaryIO,
    model: str | os.PathLike | Model | None = None,
    *,
    strength: float = 1.0,
    project: bool = True,
    bits: int = 8,
    detect: bool = True,
    assume_quality: int | None = None,
    prior_grid: tuple[int, int] | None = None,
    size: str = "auto",
    ensemble: bool = False,
    engine: str = "auto",
    trial: bool = True,
    upright: bool = False,
) -> np.ndarray:
    """Restores a JPEG file, or a picture that was decoded from one and stored without loss.

    All keyword arguments except `upright` are fields of `dmcnn_jax.RestoreOptions`, which explains
    them.

    Args:
        source: a path, the file's bytes, or a file open for reading in binary. An image that is
            already decoded can be restored from a PNG, lossless WebP, BMP or TIFF file, if its
            coefficients can be recovered (`restoration.decoded_file`).
        model: a bundled name, a weights file, a workdir, or what `dmcnn_jax.load` returned. None:
            the bundled model trained for quantisation tables like the file's; a plane that none was
            trained for is returned as decoded.
        strength: blend between the decoded picture (0) and the restored one (1).
        project: whether to project planes onto the file's quantisation intervals.
        bits: bits per sample of the result, 8 or 16.
        detect: whether to look for an earlier, coarser save and restore with its table.
        assume_quality: the quality of the earlier save, if known, 1 to 100.
        prior_grid: where the blocks of the earlier save begin, if known: columns and rows, 0 to 7.
        size: size of the bundled model: "fast", "full" or "auto".
        ensemble: whether to average over the eight rotations and reflections of the picture.
        engine: library that computes the layers, one of `inference.model.ENGINES`.
        trial: whether to restore parts of the picture first, to see whether the bundled models
            improve it.
        upright: whether to turn the picture by its EXIF orientation, which an array can't carry. If
            False, pixels are as stored.

    Returns:
        uint8 (uint16 for 16 bits): [height, width] for a grayscale file, [height, width, 3] (RGB)
        for a colour file, [height, width, 4] (CMYK, 0 is no ink) for CMYK and YCCK.

    Raises:
        ValueError: if the file is not a JPEG file, or of a kind that can't be restored; if the
            weights are not of this package; if an option is out of range.
        OSError: if the file can't be read, or there are no such weights.
        ImportError: if the engine is not installed.
        TypeError: if the source is of another type.
    """
    options = RestoreOptions(
        strength=strength,
        project=project,
        bits=bits,
        detect=detect,
        assume_quality=assume_quality,
        prior_grid=prior_grid,
        size=size,
        ensemble=ensemble,
        engine=engine,
        trial=trial,
    )
    file = read_source(source)
    pixels = finish(file, Restorer(model, options)(file)).pixels
    return np.ascontiguousarray(turn(pixels, file.metadata.orientation)) if upright else pixels


def restore_jpeg(
    source: str | os.PathLike | bytes | BinaryIO,
    model: str | os.PathLike | Model | None = None,
    options: RestoreOptions = RestoreOptions(),  # noqa: B008 - frozen, so it can be shared
    jpeg_options: JpegOptions = JpegOptions(),  # noqa: B008
) -> bytes:
    """Restores a JPEG file to another JPEG file.

    Each coefficient of the result lies in the interval that the file's coefficient allows, so that
    compressing the result with the file's tables yields the file's coefficients. The file's other
    contents (EXIF, colour profile, gain map, video) are kept.

    Args:
        source: a path, the file's bytes, or a file open for reading in binary. Copies of its
            pixels, which `restore` accepts, are not enough.
        model: as in `restore`.
        options: how it is restored.
        jpeg_options: the loss allowed to rounding, and the sampling of chroma.

    Returns:
        The bytes of a JPEG file of the same size, colours and orientation. If nothing was restored,
        the bytes of the source.

    Raises:
        ValueError: as in `restore`, or if the file can't be as small as `jpeg_options` require.
        OSError: if the file can't be read, or there are no such weights.
        ImportError: if the engine is not installed.
        TypeError: if the source is of another type.
    """
    restorer = Restorer(model, options)
    planes = restorer.restore_planes(jpeg.read(source, whole=True))
    return restorer.render_jpeg(planes, jpeg_options).data
