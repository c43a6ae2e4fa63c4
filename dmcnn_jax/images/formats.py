"""Reads and writes image files, with the metadata of the JPEG file they come from."""

import contextlib
import dataclasses
import io
import os
import struct
import threading
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from dmcnn_jax.images.exif_check import check_exif, reduce_exif
from dmcnn_jax.images.metadata import (
    IPTC_KEYWORD,
    XMP_KEYWORD,
    decode_comment,
    has_description,
    jpeg_segments,
    png_profile,
    prepare,
    to_exif,
)
from dmcnn_jax.images.orientation import turn, turn_back
from dmcnn_jax.images.png16 import is_png16, read_png16, write_png16
from dmcnn_jax.images.tiff16 import is_tiff16, read_tiff16, write_tiff16
from dmcnn_jax.jpeg.metadata import Metadata
from dmcnn_jax.system.atomic_write import replacing

FORMATS = {
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
}
"""Extensions of writable formats, and Pillow's names for these formats."""


CMYK_FORMATS = ("TIFF", "JPEG")
"""Formats that can hold CMYK pictures."""


@dataclasses.dataclass(frozen=True)
class OutputFormat:
    """The file format of a written picture.

    Attributes:
        format: a value of `FORMATS`.
        quality: of JPEG (None: 95, if pixels are written) and WebP (None: lossless), 1 to 100.
        upright: whether pixels are turned as EXIF's orientation says, and the orientation reset.
    """

    format: str = "PNG"
    quality: int | None = None
    upright: bool = False

    @property
    def lossy(self) -> bool:
        """Whether writing changes pixels."""
        return self.format == "JPEG" or (self.format == "WEBP" and self.quality is not None)

    @property
    def holds_coefficients(self) -> bool:
        """Whether it is JPEG without a quality: restored coefficients are written, not pixels."""
        return self.format == "JPEG" and self.quality is None


def output_format(
    extension: str, quality: int | None = None, bits: int = 8, *, upright: bool = False
) -> OutputFormat:
    """Returns the format of an extension.

    Args:
        extension: with its dot, in any case.
        quality: of JPEG and WebP, 1 to 100.
        bits: of a sample, 8 or 16.
        upright: whether pictures are turned upright.

    Raises:
        ValueError: if the extension is none of `FORMATS`, or the format has no quality or no 16
            bits.
    """
    name = FORMATS.get(extension.lower())
    if name is None:
        raise ValueError(f"output type is {extension!r}; expected one of: {', '.join(FORMATS)}")
    if bits == 16 and name not in ("PNG", "TIFF"):
        raise ValueError(f"bits is 16, but {name} files have 8 bits; use .png or .tif")
    if quality is not None and name not in ("JPEG", "WEBP"):
        raise ValueError(f"a quality for {name} has no effect; expected one for .jpg or .webp")
    return OutputFormat(name, quality, upright)


def write(
    target: str | os.PathLike | IO[bytes],
    pixels: np.ndarray,
    metadata: Metadata,
    style: OutputFormat,
    *,
    overwrite: bool = True,
) -> tuple[str, ...]:
    """Writes a picture, whole or not at all.

    Args:
        target: a path, which is written under a temporary name beside it and then renamed; or a
            file open for writing in binary.
        pixels: uint8, or for PNG and TIFF uint16, [height, width], [height, width, 3], or for TIFF
            and JPEG [height, width, 4] (CMYK, 0 is no ink).
        metadata: metadata to keep. Unless the style is upright, pixels are stored unturned, with
            the EXIF orientation tag unchanged.
        style: the format.
        overwrite: whether a file of this name is replaced.

    Returns:
        Contents of the JPEG file that this one doesn't have, in a few words each.

    Raises:
        FileExistsError: if there is such a file and it must stay.
        OSError: if the file can't be written.
        ValueError: if the picture is too large for the format, or the format can't hold CMYK.
    """
    if pixels.shape[2:] == (4,) and style.format not in CMYK_FORMATS:
        raise ValueError(f"{style.format} files can't hold CMYK (four inks); expected .tif or .jpg")
    if style.upright:
        pixels = turn(pixels, metadata.orientation)
    gray = pixels.ndim == 2
    metadata, dropped = prepare(metadata, style.format, upright=style.upright, gray=gray)
    if isinstance(target, str | os.PathLike):
        with replacing(target, overwrite=overwrite) as file:
            return (*dropped, *_save(file, pixels, metadata, style))
    # Some formats need to seek back, which a pipe can't.
    buffer = io.BytesIO()
    dropped += _save(buffer, pixels, metadata, style)
    target.write(buffer.getbuffer())
    return tuple(dropped)


def pixels_as_written(pixels: np.ndarray, metadata: Metadata, style: OutputFormat) -> np.ndarray:
    """Returns the pixels, unturned, that a reader gets from the file that `write` writes.

    Args:
        pixels: uint8 [height, width] or [height, width, 3]; of any kind for lossless formats, whose
            pixels are returned unchanged.
        metadata: of the file; only its orientation matters.
        style: the format.
    """
    if not style.lossy:
        return pixels
    orientation = metadata.orientation if style.upright else 1
    buffer = io.BytesIO()
    _as_image(turn(pixels, orientation)).save(buffer, **_options(Metadata(), style))
    with _any_size(), Image.open(buffer) as image:
        written = np.asarray(image.convert("RGB" if pixels.ndim == 3 else "L"))
    return turn_back(written, orientation)


def write_bytes(
    target: str | os.PathLike | IO[bytes], data: bytes, *, overwrite: bool = True
) -> None:
    """Writes a file, whole or not at all, to a path or to a file open for writing in binary.

    Args:
        target: as in `write`.
        data: the content.
        overwrite: whether a file of this name is replaced.

    Raises:
        FileExistsError: if there is such a file and it must stay.
        OSError: if the file can't be written.
    """
    if isinstance(target, str | os.PathLike):
        with replacing(target, overwrite=overwrite) as file:
            file.write(data)
    else:
        target.write(data)


def read(path: str | os.PathLike) -> np.ndarray:
    """Reads the pixels of a picture as its file stores them, unturned.

    Args:
        path: the file.

    Returns:
        uint8 [height, width] or [height, width, 3]; uint16 for PNG and TIFF files of 16 bits.
        Transparency is left out.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it is not a picture, or is damaged.
    """
    name = os.fsdecode(path)
    try:
        with open(path, "rb") as file:
            if is_png16(file.read(33)):
                file.seek(0)
                with _any_size():
                    return read_png16(file.read(), name)
        with opening(path) as image:
            if is_tiff16(image):
                with open(path, "rb") as file:
                    return read_tiff16(file.read(), image.tag_v2, name)
            # Pillow turns only TIFF images by their orientation.
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            back = _TURNED_BACK.get(orientation) if image.format == "TIFF" else None
            plain = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
            return np.asarray(plain if back is None else plain.transpose(back))
    except MemoryError:
        raise ValueError(f"{name}: a picture too large for the memory, or damaged") from None
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        struct.error,
        SyntaxError,
    ) as error:
        # Errors of the file system have an errno; Pillow's have none, and don't name the file.
        if getattr(error, "errno", None) is not None or str(error).startswith(f"{name}: "):
            raise
        raise ValueError(f"{name}: a damaged picture ({error})") from None


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Returns the width and height of a picture, in either order, without decoding it.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it is not a picture.
    """
    with opening(path) as image:
        return image.size


def read_orientation(path: str | os.PathLike) -> int | None:
    """Returns the EXIF orientation of a picture, None if it has none.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it is not a picture.
    """
    with opening(path) as image:
        return image.getexif().get(ExifTags.Base.Orientation)


@contextlib.contextmanager
def opening(path: str | os.PathLike | IO[bytes]) -> Iterator[Image.Image]:
    """Opens a picture of any size: `Image.open` without Pillow's limit on pixels.

    Args:
        path: of the file, or a file open for reading in binary.

    Raises:
        OSError: if the file can't be read.
        ValueError: if it is not a picture.
    """
    with _any_size():
        name = f"{os.fspath(path)}: " if isinstance(path, str | os.PathLike) else ""
        try:
            image = Image.open(path)
        except Image.UnidentifiedImageError:
            raise ValueError(f"{name}not a picture") from None
        except ValueError as error:
            raise ValueError(f"{name}{error}") from None
        with image:
            yield image


def _save(
    file: IO[bytes], pixels: np.ndarray, metadata: Metadata, style: OutputFormat
) -> tuple[str, ...]:
    """Writes a picture to a seekable file; returns what could not be kept."""
    try:
        if metadata.exif and style.format != "TIFF":  # which holds those tags that Pillow has read
            check_exif(metadata.exif)
        _encode(file, pixels, metadata, style)
    except OSError:
        raise
    except Exception as error:
        if metadata.exif is None:
            raise ValueError(f"{style.format} can't hold the picture: {error}") from error
        # Malformed or oversized EXIF data is the usual reason: the rest may still be kept.
        file.seek(0)
        file.truncate()
        reduced = reduce_exif(metadata)
        _save(file, pixels, reduced, style)
        rest = " but for the orientation" if reduced.exif else ""
        return (f"EXIF data{rest} ({style.format} can't hold them: {error})",)
    if style.format == "TIFF" and metadata.comments and has_description(metadata):
        return ("comments (TIFF has one description, which EXIF fills)",)
    return ()


def _encode(file: IO[bytes], pixels: np.ndarray, metadata: Metadata, style: OutputFormat) -> None:
    if pixels.dtype == np.uint8:
        _as_image(pixels).save(file, **_options(metadata, style))
    elif style.format == "PNG":
        header = io.BytesIO()
        Image.new("RGB", (1, 1)).save(header, **_options(metadata, style))
        write_png16(file, pixels, header.getvalue())
    else:
        write_tiff16(file, pixels, metadata)


def _as_image(pixels: np.ndarray) -> Image.Image:
    """Returns a Pillow image of uint8 pixels; four channels are CMYK, which Pillow can't guess."""
    if pixels.shape[2:] == (4,):
        return Image.frombytes("CMYK", pixels.shape[1::-1], pixels.tobytes())
    return Image.fromarray(pixels)


def _options(metadata: Metadata, style: OutputFormat) -> dict[str, Any]:
    """Returns the arguments of Pillow's `save`."""
    options: dict[str, Any] = {"format": style.format}
    if metadata.exif:
        options["exif"] = metadata.exif
    if metadata.icc:
        options["icc_profile"] = metadata.icc
    if metadata.resolution:
        options["dpi"] = metadata.resolution
    if style.format == "PNG":
        options["compress_level"] = 4
        text = PngImagePlugin.PngInfo()
        for comment in metadata.comments:
            text.add_itxt("Comment", decode_comment(comment))
        if metadata.xmp:
            text.add_itxt(XMP_KEYWORD, metadata.xmp.decode(errors="replace"))
        if metadata.photoshop:
            text.add_text(IPTC_KEYWORD, png_profile(metadata.photoshop), zip=True)
        options["pnginfo"] = text
    elif style.format == "TIFF":
        options["exif"] = to_exif(metadata)
    elif style.format == "WEBP" and metadata.xmp:
        options["xmp"] = metadata.xmp
    if style.format == "JPEG":
        options["extra"] = jpeg_segments(metadata)
        # Chroma was brought to full size, and must not be subsampled again.
        options |= {"quality": style.quality or 95, "subsampling": 0, "optimize": True}
        if metadata.comments:
            options["comment"] = b"\n".join(metadata.comments)[:65533]
    if style.format == "WEBP":
        lossless = style.quality is None
        options |= {"lossless": lossless, "quality": 50 if lossless else style.quality}
    return options


@contextlib.contextmanager
def _any_size() -> Iterator[None]:
    """Lifts Pillow's limits on pixels and, in PNG files, on the size of a colour profile.

    They are back when the last thread has left such a block.
    """
    global _blocks, _limits
    with _counting:
        if not _blocks:
            _limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, _MAX_PROFILE
        _blocks += 1
    try:
        yield
    finally:
        with _counting:
            _blocks -= 1
            if not _blocks:
                Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = _limits


# A JPEG file can hold larger profiles than Pillow reads from PNG files, in 255 segments.
_MAX_PROFILE = 255 * 2**16
_counting = threading.Lock()
_blocks, _limits = 0, (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK)


# What undoes each EXIF orientation.
_TURNED_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
