"""Reads pictures decoded from JPEG files, from files that store their pixels without loss.

`read_source` returns a JPEG file, or the coefficients that `decoded_pixels` recovers from a PNG,
lossless WebP, BMP or TIFF file. These are restored like a JPEG file, on their own block grid, and
`finish` crops the result to the picture. Some blocks' pixels are not reproduced by decoding the
recovered coefficients (a caption drawn over the picture, a border cut by cropping); such blocks are
left unchanged.
"""

import dataclasses
import io
import os
import re
from typing import IO, BinaryIO

import numpy as np
from PIL import ExifTags, Image

from dmcnn_jax import jpeg
from dmcnn_jax.images import formats
from dmcnn_jax.images.orientation import turn_back
from dmcnn_jax.jpeg.errors import TooLargeError
from dmcnn_jax.jpeg.file_kinds import describe_other
from dmcnn_jax.jpeg.metadata import Metadata
from dmcnn_jax.restoration.decoded_pixels import NotDecodedError, Recovery, recover
from dmcnn_jax.restoration.results import Restoration
from dmcnn_jax.system.printable import printable
from dmcnn_jax.system.progress import Progress

# The first bytes of files that may hold a JPEG file's pixels.
_LOSSLESS = re.compile(rb"\x89PNG\r\n\x1a\n|RIFF....WEBP|BM|II\*\0|MM\0\*", re.DOTALL)

# The formats by Pillow's names. Other formats with the same first bytes, such as raw files, are
# refused.
_FORMATS = ("PNG", "WEBP", "BMP", "TIFF")

# TIFF tags of raw files: previews in other directories, and DNG's version.
_RAW_TAGS = (330, 50706)

_OPAQUE_MODES = {"L": "L", "RGB": "RGB", "LA": "L", "RGBA": "RGB"}

_ALPHA = "its alpha channel, opaque everywhere, is left out"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DecodedFile(jpeg.JpegFile):
    """A JPEG file recovered from pixels.

    Its size includes the margins, and its metadata are those of the file that stores the pixels.

    Attributes:
        pixels: the given pixels: uint8 [height, width] or [height, width, 3].
        recovery: the coefficients, and which blocks they reproduce.
    """

    pixels: np.ndarray
    recovery: Recovery


def read_source(
    source: str | os.PathLike | bytes | BinaryIO,
    *,
    max_pixels: int = jpeg.MAX_PIXELS,
    allow_truncated: bool = False,
    whole: bool = False,
    name: str | None = None,
    progress: Progress | None = None,
) -> jpeg.JpegFile:
    """Reads a JPEG file, or recovers one from a picture that was decoded from it.

    Args:
        source: a path, the file's bytes, or a file open for reading in binary. From a pipe, only
            JPEG files are read.
        max_pixels: the largest width * height to accept.
        allow_truncated: as in `jpeg.read`.
        whole: as in `jpeg.read`.
        name: the file's name in messages, instead of its path.
        progress: called at intervals, with 0.

    Returns:
        The JPEG file; a `DecodedFile` if it was recovered.

    Raises:
        ValueError: if it is neither, with the reason, as in `jpeg.read`; a TooLargeError if it has
            too many pixels.
        OSError: if the file can't be read.
    """
    data = _read_lossless(source)
    if data is None:
        return jpeg.read(
            source,
            max_pixels=max_pixels,
            allow_truncated=allow_truncated,
            whole=whole,
            name=name,
            progress=progress,
        )
    if name is None:
        name = os.fsdecode(source) if isinstance(source, str | os.PathLike) else "<bytes>"
    shown = printable(name)
    try:
        pixels, metadata, kind, has_alpha = _load(data, max_pixels)
        recovery = recover(pixels, progress)
    except _TooManyPixelsError as error:
        raise TooLargeError(f"{shown}: {error}") from None
    except (NotDecodedError, _UnsuitableError) as error:
        other = describe_other(data[:16])
        raise ValueError(f"{shown}: not a JPEG file but {other}; {error}") from None
    above, before = recovery.margins
    return DecodedFile(
        name=shown,
        height=pixels.shape[0] + above,
        width=pixels.shape[1] + before,
        color="gray" if pixels.ndim == 2 else "ycbcr",
        components=recovery.components,
        progressive=False,
        restart_interval=0,
        metadata=metadata,
        damage=None,
        notes=(_describe(recovery, kind), *([_ALPHA] if has_alpha else [])),
        pixels=pixels,
        recovery=recovery,
    )


def is_lossless(head: bytes) -> bool:
    """Returns whether a file may store the pixels of a JPEG file without loss.

    Args:
        head: its first bytes, at least 12 if it is that long.
    """
    return bool(_LOSSLESS.match(head))


def finish(file: jpeg.JpegFile, restoration: Restoration) -> Restoration:
    """Returns the restoration of the given picture: `restoration` itself for a JPEG file.

    The restoration of a recovered file is cropped to the picture, and blocks that were not
    reproduced are left as given. Its coefficients are an estimate, so none are counted as kept.

    Args:
        file: what `read_source` returned.
        restoration: of the file.
    """
    if not isinstance(file, DecodedFile):
        return restoration
    above, before = file.recovery.margins
    pixels = restoration.pixels[above:, before:].copy()
    trusted = file.recovery.trusted.repeat(8, axis=0).repeat(8, axis=1)
    kept = ~trusted[above : above + len(pixels), before : before + pixels.shape[1]]
    given = file.pixels.astype(pixels.dtype) * (257 if pixels.dtype == np.uint16 else 1)
    pixels[kept] = given[kept]
    return dataclasses.replace(restoration, pixels=pixels, luma_tally=None, chroma_tally=None)


class _UnsuitableError(ValueError):
    """A file that can't hold the unchanged pixels of a JPEG file."""


class _TooManyPixelsError(_UnsuitableError):
    """A picture with more pixels than accepted."""


def _read_lossless(source: str | os.PathLike | bytes | IO[bytes]) -> bytes | None:
    """Returns the content of a file in a lossless format; None for any other file."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source) if is_lossless(bytes(source[:16])) else None
    if isinstance(source, str | os.PathLike):
        if not os.path.isfile(source):  # reading from a pipe would empty it
            return None
        with open(source, "rb") as file:
            head = file.read(16)
            return head + file.read() if is_lossless(head) else None
    if not (hasattr(source, "seekable") and source.seekable()):
        return None
    start = source.tell()
    head = source.read(16)
    if isinstance(head, bytes) and is_lossless(head):
        return head + source.read()
    source.seek(start)
    return None


def _load(data: bytes, max_pixels: int) -> tuple[np.ndarray, Metadata, str, bool]:
    """Returns a file's pixels as stored, its metadata, its format, and whether it has alpha.

    Raises:
        _UnsuitableError: if the pixels can't be those of a JPEG file.
    """
    try:
        with formats.opening(io.BytesIO(data)) as image:
            _check(image, data, max_pixels)
            metadata = _metadata(image)
            image.load()
            plain = np.asarray(image.convert(_OPAQUE_MODES[image.mode]))
            # Pixels without alpha may still have a transparent colour, in PNG.
            has_alpha = image.mode in ("LA", "RGBA") or "transparency" in image.info
            if has_alpha and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
                raise _UnsuitableError(
                    "it has transparent pixels; expected an opaque picture: remove its alpha"
                    " channel first"
                )
            kind = image.format or ""
    except _UnsuitableError:
        raise
    except MemoryError:
        raise _UnsuitableError("a picture too large for the memory, or damaged") from None
    except Exception as error:  # Pillow's decoders raise many kinds
        raise _UnsuitableError(f"a damaged picture ({error})") from None
    if kind == "TIFF":  # Pillow has turned the picture upright
        plain = turn_back(plain, metadata.orientation)
    return np.ascontiguousarray(plain), metadata, {"WEBP": "WebP"}.get(kind, kind), has_alpha


def _check(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Raises an `_UnsuitableError` unless the file stores whole pixels of one still picture."""
    width, height = image.size
    if image.format not in _FORMATS or any(
        tag in getattr(image, "tag_v2", {}) for tag in _RAW_TAGS
    ):
        raise _UnsuitableError("a raw image, or one of another kind; expected a JPEG file")
    if width * height > max_pixels:
        raise _TooManyPixelsError(
            f"{width} x {height} pixels; expected at most {max_pixels}, or a larger max_pixels"
        )
    if getattr(image, "n_frames", 1) > 1:
        raise _UnsuitableError("several pictures in one file; expected one")
    if image.format == "WEBP" and b"VP8L" not in data:
        raise _UnsuitableError("a WebP file compressed with loss, which hides an earlier JPEG")
    if image.mode not in _OPAQUE_MODES:
        kind = {"P": "a palette", "1": "two levels"}.get(image.mode, f"pixels of {image.mode}")
        raise _UnsuitableError(f"{kind}; expected 8 bits of gray or of R, G and B")
    if data[:4] == b"\x89PNG" and data[24] == 16:
        raise _UnsuitableError("16 bits a sample; a decoded JPEG file has 8")


def _metadata(image: Image.Image) -> Metadata:
    """Returns the metadata of a picture's file."""
    exif = image.getexif()
    content = image.info.get("exif") if image.format != "TIFF" else None
    if content is not None:
        content = b"Exif\0\0" + bytes(content).removeprefix(b"Exif\0\0")
    orientation = exif.get(ExifTags.Base.Orientation, 1)
    xmp, dpi = image.info.get("xmp"), image.info.get("dpi")
    return Metadata(
        exif=content,
        orientation=orientation if orientation in range(1, 9) else 1,
        icc=image.info.get("icc_profile"),
        xmp=xmp if isinstance(xmp, bytes) else None,
        resolution=(float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 0 else None,
    )


def _describe(recovery: Recovery, kind: str) -> str:
    """Returns a note on the recovered file, for a report."""
    above, before = recovery.margins
    changed = 1 - recovery.trusted.mean()
    left = f"; {changed:.1%} of its blocks differ and are left unchanged" if changed else ""
    unknown = sum(int((~table.known).sum()) for table in recovery.tables)
    guess = (
        f"; {unknown} steps that no coefficient reveals follow the standard table"
        if unknown
        else ""
    )
    return (
        f"{kind} of a JPEG at about quality {recovery.quality}, grid ({-before % 8}, {-above % 8});"
        f" {recovery.exact:.2%} of its pixels are reproduced exactly{left}{guess}"
    )
