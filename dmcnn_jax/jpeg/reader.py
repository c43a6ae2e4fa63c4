"""Reading JPEG files: what is in them, before anything is made of it.

``read`` takes a file apart into quantised coefficients, tables, sampling and metadata. A file is
read whole or refused with the reason, in a ``JpegError`` of one line:

- Baseline, extended sequential and progressive files, of 8 bits, Huffman-coded, with one component
  or three, are read, at any size and sampling by whole factors, with or without restart markers.
- CMYK, 12 bits, arithmetic coding, lossless and hierarchical files are refused by name.
- Truncated and damaged files are refused, unless ``allow_truncated``. libjpeg itself decodes them
  with gray where data is missing and only mutters. Files that lack nothing but the end marker are
  whole. Damage that leaves a valid file, such as other bits in place of some, nobody can see.
- Sizes that the header claims are checked against a limit, and against the length of the data,
  before memory is set aside for them.
"""

import dataclasses
import os
import re
from typing import BinaryIO, Literal

import numpy as np

from dmcnn_jax.jpeg import codec, entropy, markers
from dmcnn_jax.jpeg import metadata as metadata_
from dmcnn_jax.jpeg.markers import JpegError
from dmcnn_jax.jpeg.metadata import Metadata

MAX_PIXELS = 200_000_000
"""The default limit on width * height: as large as photographs get, 1.2 GB of coefficients."""


@dataclasses.dataclass(frozen=True, eq=False)
class Component:
    """One colour component of a JPEG file.

    Attributes:
        id: the number that the file gives it.
        coefficients: int16 [ceil(height / 8), ceil(width / 8), 64], natural order, read-only. Edge
            blocks are whole. Blocks beyond these, which a file holds to fill up interleaved units,
            are left out, as libjpeg does.
        table: int32 [8, 8], quantisation steps from 1 to 65535, natural order, read-only.
        vertical, horizontal: sampling factors as in the file, 1..4.
        subsampling: image rows and columns to a sample of this plane: (2, 2) for chroma of 4:2:0.
        height, width: of the plane in samples, ceil(image height / subsampling), without what
            only fills up blocks.
    """

    id: int
    coefficients: np.ndarray
    table: np.ndarray
    vertical: int
    horizontal: int
    subsampling: tuple[int, int]
    height: int
    width: int


@dataclasses.dataclass(frozen=True, eq=False)
class JpegFile:
    """A JPEG file, taken apart.

    Attributes:
        name: what to call it in messages: its path, or ``<bytes>`` and the like.
        height, width: of the image in pixels, as stored, before EXIF orientation.
        color: "gray" (one component), "ycbcr" or "rgb" (three), by libjpeg's rules: JFIF's marker,
            then Adobe's, then the numbers of the components.
        components: one or three.
        progressive: whether coefficients came in several scans.
        restart_interval: MCUs between restart markers in the first scan, 0 without.
        metadata: EXIF, colour profile and the like.
        damage: what is missing or broken, None for a whole file.
        notes: oddities that cost nothing or only metadata, for a report.
    """

    name: str
    height: int
    width: int
    color: Literal["gray", "ycbcr", "rgb"]
    components: tuple[Component, ...]
    progressive: bool
    restart_interval: int
    metadata: Metadata
    damage: str | None
    notes: tuple[str, ...]

    @property
    def truncated(self) -> bool:
        """Whether some of the image is missing or damaged."""
        return self.damage is not None


def read(
    source: str | os.PathLike | bytes | BinaryIO,
    *,
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
    name: str | None = None,
) -> JpegFile:
    """Reads a JPEG file, without decoding it to pixels.

    Args:
        source: a path, the file's bytes, or a file open for reading in binary.
        max_pixels: the largest width * height to accept.
        allow_truncated: whether to read truncated and damaged files as far as they go. Blocks that
            did not come have zero coefficients.
        name: what to call the file in messages, instead of its path.

    Returns:
        The file's contents.

    Raises:
        JpegError: the file is not a JPEG file, of a kind that can't be restored, malformed,
            truncated, or larger than ``max_pixels``. One line, with the file's name.
        OSError: the file can't be opened or read.
        TypeError: the source is none of the above, such as an image already decoded.
    """
    data, name = _load(source, name)
    stream = markers.parse(data, name, max_pixels)
    if stream.damage and not allow_truncated:
        raise _damaged(name, stream.damage)
    shapes = [(c.rows, c.columns) for c in stream.components]
    try:
        planes, warning = entropy.decode(stream.plain, shapes, stream.scans)
    except entropy.EntropyError as error:
        raise JpegError(f"{name}: damaged: {error}") from None
    padding = _PADDING.fullmatch(warning)
    if padding and int(padding[1]) <= _MAX_PADDING:
        warning, notes = "", (f"{padding[1]} stray bytes after the image data",)
    else:
        notes = ()
    if warning and not allow_truncated:
        raise _damaged(name, warning)
    metadata, remarks = metadata_.collect(stream.applications)
    for plane in planes:
        plane.flags.writeable = False
    down = max(c.vertical for c in stream.components)
    across = max(c.horizontal for c in stream.components)
    return JpegFile(
        name=name,
        height=stream.height,
        width=stream.width,
        color=stream.color,
        components=tuple(
            Component(
                id=c.id,
                coefficients=plane,
                table=c.table,
                vertical=c.vertical,
                horizontal=c.horizontal,
                subsampling=(down // c.vertical, across // c.horizontal),
                height=c.height,
                width=c.width,
            )
            for c, plane in zip(stream.components, planes, strict=True)
        ),
        progressive=stream.progressive,
        restart_interval=stream.restart_interval,
        metadata=metadata,
        damage=stream.damage or warning or None,
        notes=(*stream.notes, *notes, *remarks),
    )


def decode_planes(file: JpegFile) -> tuple[np.ndarray, ...]:
    """The planes that libjpeg decodes, before it brings chroma to full size.

    Args:
        file: as ``read`` gives it.

    Returns:
        uint8 [height, width] for each component.
    """
    return tuple(_decode_plane(component) for component in file.components)


# Some cameras leave a few bytes between the image data and the end marker. More is a sign that
# decoding lost its way and ended too soon.
_PADDING = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
_MAX_PADDING = 16

# Blocks decoded at a time, so that images of all sizes share one compiled function.
_CHUNK = 2048


def _load(source, name):
    if isinstance(source, bytes | bytearray | memoryview):
        data, default = bytes(source), "<bytes>"
    elif isinstance(source, str | os.PathLike):
        default = os.fspath(source)
        with open(source, "rb") as file:
            data = _load_file(file)
    elif callable(getattr(source, "read", None)):
        default = getattr(source, "name", None)
        default = default if isinstance(default, str) else "<file>"
        data = _load_file(source)
    else:
        raise TypeError(
            f"source is {type(source).__name__}; expected a path, bytes or a binary file of a JPEG"
            " (an image already decoded has lost its coefficients: pass the file itself)"
        )
    name = os.fsdecode(default) if name is None else name
    return data, printable(name)


def printable(name: str) -> str:
    """A name for messages, which are lines for terminals: names may hold anything."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def _load_file(file):
    head = file.read(16)
    if not isinstance(head, bytes):
        raise TypeError(f"source gives {type(head).__name__}; expected a file open in binary mode")
    # What is no JPEG file is not worth reading to its end, if it has one.
    return head if markers.describe_other(head) else head + file.read()


def _damaged(name, damage):
    reason = damage.removeprefix("Corrupt JPEG data: ")
    return JpegError(
        f"{name}: truncated or damaged: {reason}; allow_truncated=True reads what is there"
    )


def _decode_plane(component):
    rows, columns, _ = component.coefficients.shape
    blocks = component.coefficients.reshape(-1, 64)
    pixels = np.empty((len(blocks), 8, 8), np.uint8)
    for start in range(0, len(blocks), _CHUNK):
        chunk = blocks[start : start + _CHUNK]
        padded = np.zeros((_CHUNK, 1, 64), np.int16)
        padded[: len(chunk), 0] = chunk
        decoded = np.asarray(codec.decode(padded, component.table))  # [8 * _CHUNK, 8]
        pixels[start : start + len(chunk)] = decoded.reshape(_CHUNK, 8, 8)[: len(chunk)]
    plane = pixels.reshape(rows, columns, 8, 8).swapaxes(1, 2).reshape(8 * rows, 8 * columns)
    return plane[: component.height, : component.width]
