"""Writing pictures with what their files said of them: EXIF, colour profile, XMP, resolution."""

import contextlib
import dataclasses
import io
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin, TiffTags

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
class Style:
    """How pictures are written.

    Attributes:
        format: a value of `FORMATS`.
        quality: of JPEG (default 95) and WebP (None: without loss), 1 to 100.
    """

    format: str = "PNG"
    quality: int | None = None


def style_of(extension: str, quality: int | None = None, bits: int = 8) -> Style:
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
    return Style(name, quality)


def write(
    target: str | os.PathLike | BinaryIO, pixels: np.ndarray, metadata: Metadata, style: Style
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
        _save_png16(file, pixels, metadata)
        return ()
    try:
        if pixels.dtype == np.uint16:
            _save_tiff16(file, pixels, metadata)
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
            text.add_itxt("Comment", _text(comment))
        if metadata.xmp:
            text.add_itxt(_XMP_KEYWORD, metadata.xmp.decode(errors="replace"))
        options["pnginfo"] = text
    elif style.format == "TIFF":
        options["exif"] = _exif(metadata)
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


def _exif(metadata):
    exif = Image.Exif()
    exif.load(metadata.exif or b"")
    for tag in _STORAGE.intersection(exif):
        del exif[tag]
    if metadata.xmp:
        exif[_XMP] = metadata.xmp
    if metadata.comments:
        exif.setdefault(_DESCRIPTION, _text(b"\n".join(metadata.comments)))
    return exif


def _text(comment):
    """A comment in a JPEG file has no particular encoding."""
    try:
        return comment.decode()
    except UnicodeDecodeError:
        return comment.decode("latin-1")


_XMP_KEYWORD = "XML:com.adobe.xmp"

# Rows of a 16-bit picture compressed at a time.
_ROWS = 256


def _save_png16(file, pixels, metadata):
    """PNG of 16 bits, which Pillow can't write in colour: the chunks by Pillow, the rest by zlib.

    PNG (ISO/IEC 15948) holds rows of big-endian samples, each with the number of the filter that
    made it easier to compress: the difference to the pixel at the left, or to the one above.
    """
    height, width = pixels.shape[:2]
    color_type = 2 if pixels.ndim == 3 else 0

    def chunk(kind, data):
        PngImagePlugin.putchunk(file, kind, data)

    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">2I5B", width, height, 16, color_type, 0, 0, 0))
    if metadata.icc:
        chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc))
    if metadata.resolution:
        per_metre = (round(dots / 0.0254) for dots in metadata.resolution)
        chunk(b"pHYs", struct.pack(">2IB", *per_metre, 1))
    if metadata.exif:
        chunk(b"eXIf", metadata.exif[6:])
    for comment in metadata.comments:
        chunk(b"iTXt", b"Comment\0\0\0\0\0" + _text(comment).encode())
    if metadata.xmp:
        chunk(b"iTXt", _XMP_KEYWORD.encode() + b"\0\0\0\0\0" + metadata.xmp)
    size = 6 if pixels.ndim == 3 else 2  # bytes to a pixel
    above = np.zeros(width * size, np.uint8)
    compressor = zlib.compressobj(4, strategy=zlib.Z_FILTERED)
    for top in range(0, height, _ROWS):
        part = np.ascontiguousarray(pixels[top : top + _ROWS], ">u2")
        rows = part.view(np.uint8).reshape(len(part), -1)
        left = np.concatenate([np.zeros((len(rows), size), np.uint8), rows[:, :-size]], axis=1)
        up = np.concatenate([above[None], rows[:-1]])
        filtered = np.stack([rows - left, rows - up])
        # The usual guess at which compresses better: the smaller sum of signed differences.
        cost = np.abs(filtered.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
        choice = cost.argmin(axis=0)
        best = np.where(choice[:, None] == 0, filtered[0], filtered[1])
        lines = np.concatenate([(choice + 1).astype(np.uint8)[:, None], best], axis=1)
        above = rows[-1]
        if data := compressor.compress(lines.tobytes()):
            chunk(b"IDAT", data)
    chunk(b"IDAT", compressor.flush())
    chunk(b"IEND", b"")


# Tags of TIFF 6.0, and of its supplements on XMP and colour profiles.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS = 256, 257, 258, 259, 262, 273
_SAMPLES, _ROWS_PER_STRIP, _COUNTS, _X_RESOLUTION, _Y_RESOLUTION = 277, 278, 279, 282, 283
_PLANAR, _UNIT, _PREDICTOR, _XMP, _ICC, _DESCRIPTION = 284, 296, 317, 700, 34675, 270
_DEFLATE, _DIFFERENCES, _INCH = 8, 2, 2

# All tags of TIFF 6.0 that say how pixels are stored. In EXIF data they are of another file.
_STORAGE = frozenset(
    {254, 255, 262, 263, 264, 265, 266, 273, 284, 290, 291, 292, 293, 297, 301, 330, 332, 347}
    | {*range(256, 260), *range(277, 282), *range(317, 326), *range(338, 344), *range(512, 522)}
    | {*range(529, 533)}
)


def _save_tiff16(file, pixels, metadata):
    """TIFF of 16 bits, which Pillow can't write in colour: its directory by Pillow, strips by zlib.

    Each sample is the difference to that of the pixel at the left, which is what all readers of
    compressed TIFF files know.
    """
    height, width = pixels.shape[:2]
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    exif = _exif(metadata)
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    for tag in exif:
        directory[tag] = exif.get_ifd(tag) if tag in _DIRECTORIES else exif[tag]
    directory[_WIDTH], directory[_HEIGHT] = width, height
    directory[_BITS], directory[_SAMPLES] = (16,) * samples, samples
    directory[_COMPRESSION], directory[_PREDICTOR] = _DEFLATE, _DIFFERENCES
    directory[_PHOTOMETRIC], directory[_PLANAR] = (2 if samples == 3 else 1), 1
    if metadata.resolution:
        directory[_X_RESOLUTION], directory[_Y_RESOLUTION] = metadata.resolution
        directory[_UNIT] = _INCH
    if metadata.icc:
        directory[_ICC] = metadata.icc
        directory.tagtype[_ICC] = TiffTags.UNDEFINED
    counts = []
    with tempfile.SpooledTemporaryFile(max_size=2**25) as strips:
        for top in range(0, height, _ROWS):
            part = pixels[top : top + _ROWS].reshape(-1, width, samples)
            part = np.diff(part, axis=1, prepend=np.uint16(0)).astype("<u2")
            data = zlib.compress(part.tobytes(), 4)
            strips.write(data)
            counts.append(len(data))
        directory[_ROWS_PER_STRIP], directory[_COUNTS] = _ROWS, tuple(counts)
        directory[_OFFSETS] = tuple(int(end) for end in np.cumsum([0, *counts[:-1]]))
        # Large files need the wide type from the start: what is added comes later.
        directory.tagtype[_COUNTS] = directory.tagtype[_OFFSETS] = TiffTags.LONG
        if sum(counts) > 2**32 - 2**24:
            raise ValueError("the picture is too large for a TIFF file of 16 bits")
        directory.save(file)
        strips.seek(0)
        shutil.copyfileobj(strips, file)


# Tags whose values are directories of their own: EXIF's, GPS's, and interoperability.
_DIRECTORIES = (0x8769, 0x8825, 0xA005)


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
                return _read_png16(file.read(), os.fspath(path))
        with opening(path) as image:
            if image.format == "TIFF" and image.tag_v2.get(_BITS) in ((16,), (16, 16, 16)):
                return _read_tiff16(image.tag_v2, path)
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


def _read_tiff16(tags, path):
    height, width, samples = tags[_HEIGHT], tags[_WIDTH], tags.get(_SAMPLES, 1)
    form = tags.get(_COMPRESSION), tags.get(_PREDICTOR), tags.get(_PLANAR, 1), tags.prefix[:2]
    if form != (_DEFLATE, _DIFFERENCES, 1, b"II") or _OFFSETS not in tags:
        raise ValueError(f"{os.fspath(path)}: a TIFF of 16 bits in another form than is written")
    strips = []
    with open(path, "rb") as file:
        for offset, count in zip(tags[_OFFSETS], tags[_COUNTS], strict=True):
            file.seek(offset)
            strips.append(zlib.decompress(file.read(count)))
    pixels = np.frombuffer(b"".join(strips), "<u2").reshape(height, width, samples)
    pixels = np.cumsum(pixels, axis=1, dtype=np.uint16)
    return pixels if samples == 3 else pixels[..., 0]


def _read_png16(data, name):
    width, height, _, color_type, _, _, interlaced = struct.unpack_from(">2I5B", data, 16)
    if interlaced:
        raise ValueError(f"{name}: an interlaced PNG of 16 bits, which is not supported")
    size = 6 if color_type == 2 else 2
    stream, position = [], 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IDAT":
            stream.append(data[position + 8 : position + 8 + length])
        position += 12 + length
    try:
        lines = np.frombuffer(zlib.decompress(b"".join(stream)), np.uint8)
        lines = lines.reshape(height, 1 + width * size)
    except (zlib.error, ValueError) as error:
        raise ValueError(f"{name}: a damaged PNG file ({error})") from None
    rows = np.zeros((height + 1, width, size), np.uint8)
    for y, line in enumerate(lines):
        rows[y + 1] = _unfilter(line[0], line[1:].reshape(width, size), rows[y])
    pixels = rows[1:].reshape(height, -1).view(">u2").astype(np.uint16)
    return pixels.reshape((height, width, 3) if color_type == 2 else (height, width))


def _unfilter(kind, line, above):
    """A row of a PNG file: uint8 [width, bytes to a pixel]."""
    if kind == 0:
        return line
    if kind == 1:
        return np.cumsum(line, axis=0, dtype=np.uint8)
    if kind == 2:
        return line + above
    row = np.zeros((len(line) + 1, line.shape[1]), int)
    up = np.concatenate([np.zeros((1, line.shape[1]), int), above])
    for x in range(1, len(row)):
        left, corner = row[x - 1], up[x - 1]
        if kind == 3:
            guess = (left + up[x]) // 2
        else:
            to_left, to_up = np.abs(up[x] - corner), np.abs(left - corner)
            to_corner = np.abs(left + up[x] - 2 * corner)
            nearer_up = np.where(to_up <= to_corner, up[x], corner)
            guess = np.where((to_left <= to_up) & (to_left <= to_corner), left, nearer_up)
        row[x] = (line[x - 1] + guess) % 256
    return row[1:].astype(np.uint8)
