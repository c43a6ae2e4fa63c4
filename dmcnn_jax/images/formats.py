"""Reads and writes image files, with the metadata of the JPEG file they come from."""

import contextlib
import dataclasses
import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin

from dmcnn_jax.images.metadata import BITS, XMP_KEYWORD, decode_comment, to_exif
from dmcnn_jax.images.png16 import read_png16, write_png16
from dmcnn_jax.images.tiff16 import read_tiff16, write_tiff16
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
"""Extensions that a picture can be written to."""


@dataclasses.dataclass(frozen=True)
class OutputFormat:
    """How pictures are written.

    Attributes:
        format: a value of `FORMATS`.
        quality: of JPEG (default 95) and WebP (None: without loss), 1 to 100.
    """

    format: str = "PNG"
    quality: int | None = None


def output_format(extension: str, quality: int | None = None, bits: int = 8) -> OutputFormat:
    """The style that an extension stands for.

    Raises:
        ValueError: for an extension that is none of `FORMATS`, or a quality or depth that the
            format does not have.
    """
    name = FORMATS.get(extension.lower())
    if name is None:
        raise ValueError(f"output type {extension!r}; expected one of: {', '.join(FORMATS)}")
    if bits == 16 and name not in ("PNG", "TIFF"):
        raise ValueError(f"16 bits in a {name} file, which has 8; use .png or .tif")
    if quality is not None and name not in ("JPEG", "WEBP"):
        raise ValueError(f"a quality for {name}, which has none; it is for .jpg and .webp")
    return OutputFormat(name, quality)


def write(
    target: str | os.PathLike | BinaryIO,
    pixels: np.ndarray,
    metadata: Metadata,
    style: OutputFormat,
) -> tuple[str, ...]:
    """Writes a picture, whole or not at all.

    Args:
        target: a path, which is written under a temporary name beside it and then renamed; or a
            file open for writing in binary.
        pixels: uint8 (16 bits, in PNG and TIFF: uint16) [height, width] or [height, width, 3].
        metadata: what to keep. Pixels stay as they lie in the file, and so does the EXIF tag that
            says how to turn them.
        style: of the file.

    Returns:
        Remarks on what could not be kept.

    Raises:
        OSError: if it can't be written.
        ValueError: if the picture is too large for the format.
    """
    if hasattr(target, "write"):
        # A pipe can't be gone back in.
        buffer = io.BytesIO()
        remarks = _save(buffer, pixels, metadata, style)
        target.write(buffer.getbuffer())
        return remarks
    with replacing(target) as file:
        return _save(file, pixels, metadata, style)


def _save(file, pixels, metadata, style):
    if pixels.dtype == np.uint16 and style.format == "PNG":
        write_png16(file, pixels, metadata)
        return ()
    try:
        if pixels.dtype == np.uint16:
            write_tiff16(file, pixels, metadata)
        else:
            Image.fromarray(pixels).save(file, **_options(metadata, style))
        lost = style.format == "WEBP" and metadata.comments
        return ("WebP has no place for comments",) if lost else ()
    except Exception as error:
        if isinstance(error, OSError):
            raise
        if metadata.exif is None:
            raise ValueError(f"{style.format} can't hold it: {error}") from error
    # EXIF that makes no sense, or too much of it: the rest may still be kept.
    file.seek(0)
    file.truncate()
    _save(file, pixels, dataclasses.replace(metadata, exif=None), style)
    return ("the EXIF data could not be kept",)


def _options(metadata, style):
    options = {"format": style.format}
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
        options["pnginfo"] = text
    elif style.format == "TIFF":
        options["exif"] = to_exif(metadata)
    elif metadata.xmp:
        options["xmp"] = metadata.xmp
    if style.format == "JPEG":
        # The picture is no longer subsampled, and shall not become so again.
        options |= {"quality": style.quality or 95, "subsampling": 0, "optimize": True}
        if metadata.comments:
            options["comment"] = b"\n".join(metadata.comments)[:65533]
    if style.format == "WEBP":
        lossless = style.quality is None
        options |= {"lossless": lossless, "quality": 50 if lossless else style.quality}
    return options


def read(path: str | os.PathLike) -> np.ndarray:
    """Pixels of a picture, as its file has them, unturned.

    Args:
        path: of the file.

    Returns:
        uint8 [height, width] or [height, width, 3]; uint16 for PNG files of 16 bits, and such TIFF
        files as are written here. Transparency is left out.

    Raises:
        OSError: if it can't be read.
        ValueError: if it is no picture.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(33)
            if head.startswith(b"\x89PNG\r\n\x1a\n") and head[24:26] in (b"\x10\x00", b"\x10\x02"):
                file.seek(0)
                return read_png16(file.read(), os.fspath(path))
        with opening(path) as image:
            if image.format == "TIFF" and image.tag_v2.get(BITS) in ((16,), (16, 16, 16)):
                return read_tiff16(image.tag_v2, path)
            # Pillow turns TIFF images, and those only, by their orientation.
            back = _TURNED_BACK.get(image.getexif().get(0x112)) if image.format == "TIFF" else None
            plain = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
            return np.asarray(plain if back is None else plain.transpose(back))
    except (zlib.error, struct.error, SyntaxError) as error:
        raise ValueError(f"{os.fspath(path)}: a damaged picture ({error})") from None


@contextlib.contextmanager
def opening(path: str | os.PathLike) -> Iterator[Image.Image]:
    """`Image.open`, of pictures of any size, as restoring makes them.

    Raises:
        OSError: if it can't be read.
        ValueError: if it is no picture.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(path) as image:
            yield image
    except Image.UnidentifiedImageError:
        raise ValueError(f"{os.fspath(path)}: not a picture") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


_TURNED_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
