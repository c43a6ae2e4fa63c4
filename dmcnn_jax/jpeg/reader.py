"""Reads JPEG files: quantised coefficients, tables, sampling and metadata.

A file is read completely, or refused by a ``JpegError`` with the reason in one line:

- Baseline, extended sequential and progressive files of 8 bits, Huffman-coded, with one component,
  three or four, are read, at any size and sampling by whole factors, with or without restart
  markers.
- 12-bit, arithmetic-coded, lossless and hierarchical files are refused by name.
- Truncated and damaged files are refused, unless ``allow_truncated``. libjpeg itself decodes them,
  with gray where data is missing, and only prints a warning. Damage that leaves a valid file, such
  as flipped bits, can't be detected.
- Files with all blocks of the image count as complete, as in libjpeg; a note names their oddities:
  bytes between segments or before the end marker, surplus restart markers, metadata segments of an
  impossible length, no end marker. A height that follows the image data (DNL) is read.
- Sizes that the header claims are checked against a limit, and against the length of the data,
  before memory is allocated for them.
"""

import dataclasses
import os
import re
from typing import IO

import numpy as np

from dmcnn_jax.jpeg import codec, entropy, markers
from dmcnn_jax.jpeg.attachments import end_of_picture
from dmcnn_jax.jpeg.certificate import Certificate, find_certificate
from dmcnn_jax.jpeg.errors import JpegError
from dmcnn_jax.jpeg.file_kinds import describe_other
from dmcnn_jax.jpeg.frame import ColorModel
from dmcnn_jax.jpeg.metadata import Metadata, collect
from dmcnn_jax.system.printable import printable
from dmcnn_jax.system.progress import Progress

MAX_PIXELS = 200_000_000
"""The default limit on width * height: larger than photographs are; 1.2 GB of coefficients."""

MAX_WHOLE = 2**29
"""The largest file that is read whole, in bytes, which bounds the memory of writing a JPEG file."""


@dataclasses.dataclass(frozen=True, eq=False)
class Component:
    """One colour component of a JPEG file.

    Attributes:
        id: its number in the file.
        coefficients: int16 [ceil(height / 8), ceil(width / 8), 64], natural order, read-only. Edge
            blocks are whole. Blocks beyond these, which only pad interleaved units, are left out,
            as in libjpeg.
        table: int32 [8, 8], quantisation steps from 1 to 65535, natural order, read-only.
        vertical, horizontal: sampling factors as in the file, 1..4.
        subsampling: image rows and columns for each sample of this plane: (2, 2) for the chroma of
            4:2:0, (1, 1) for a plane at full size.
        height, width: of the plane in samples, ceil(image size / subsampling), without padding to
            whole blocks.
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
    """The contents of a JPEG file.

    Attributes:
        name: its name in messages: a path, ``<bytes>`` or ``<file>``.
        height, width: of the image in pixels, as stored, before EXIF orientation.
        color: "gray" (one component), "ycbcr" or "rgb" (three), "cmyk" or "ycck" (four), by
            libjpeg's rules: JFIF's marker, then Adobe's, then the numbers of the components.
        components: one, three or four.
        progressive: whether coefficients came in several scans.
        restart_interval: MCUs between restart markers in the first scan, 0 without.
        metadata: EXIF, colour profile and so on.
        damage: the missing or broken parts; None for a complete file.
        notes: oddities that affect nothing but metadata, for a report.
        data: the file itself, or its beginning.
        certificate: the file's record of its restoration, if `dmcnn_jax` restored it and the
            picture is unchanged since; else None.
        unread: the number of bytes after `data`; in a pipe, 1 if there are any.
    """

    name: str
    height: int
    width: int
    color: ColorModel
    components: tuple[Component, ...]
    progressive: bool
    restart_interval: int
    metadata: Metadata
    damage: str | None
    notes: tuple[str, ...]
    data: bytes = b""
    certificate: Certificate | None = None
    unread: int = 0

    @property
    def truncated(self) -> bool:
        """Whether some of the image is missing or damaged."""
        return self.damage is not None


def read(
    source: str | os.PathLike | bytes | IO[bytes],
    *,
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
    whole: bool = False,
    name: str | None = None,
    progress: Progress | None = None,
) -> JpegFile:
    """Reads a JPEG file, without decoding it to pixels.

    Args:
        source: a path, the file's bytes, or a file open for reading in binary.
        max_pixels: the largest width * height to accept.
        allow_truncated: whether to read truncated and damaged files as far as possible. Missing
            blocks have zero coefficients.
        whole: whether all of the file is read, which JPEG results keep. If False, only 16 MiB after
            the picture are read of files over 32 MiB.
        name: the file's name in messages, instead of its path.
        progress: called with 0 at intervals, in another thread; an exception that it raises ends
            the reading, and is raised here.

    Raises:
        JpegError: the file is not a JPEG file, is of a kind that can't be restored, malformed,
            truncated, larger than ``max_pixels``, or too large to be read whole. The message is
            one line with the file's name.
        OSError: the file can't be opened or read.
        TypeError: the source is none of the above, such as an image already decoded.
    """
    data, unread, name = _load(source, name, whole)
    if whole and unread:
        raise JpegError(
            f"{name}: over {MAX_WHOLE >> 20} MiB, too large to keep all of it in a JPEG result;"
            " other formats need only its beginning"
        )
    stream = markers.parse(data, name, max_pixels)
    if stream.damage and not allow_truncated:
        raise _damaged(name, stream.damage)
    shapes = [(c.rows, c.columns) for c in stream.components]
    try:
        planes, warning = entropy.decode(stream.plain, shapes, stream.scans, progress)
    except entropy.EntropyError as error:
        raise JpegError(f"{name}: damaged: {error}") from None
    notes = stream.notes
    if padding := _PADDING.fullmatch(warning):
        warning = ""
        notes += (_describe_padding(stream.plain, int(padding[1])),)
    if warning and not allow_truncated:
        raise _damaged(name, warning)
    metadata, remarks = collect(stream.applications, stream.trailer, unread)
    return JpegFile(
        name=name,
        height=stream.height,
        width=stream.width,
        color=stream.color,
        components=_components(stream, planes),
        progressive=stream.progressive,
        restart_interval=stream.restart_interval,
        metadata=metadata,
        damage=stream.damage or warning or None,
        notes=(*notes, *remarks),
        data=data,
        certificate=find_certificate(stream.applications, stream.plain),
        unread=unread,
    )


def decode_planes(file: JpegFile) -> tuple[np.ndarray, ...]:
    """Decodes the planes of a file as libjpeg does, without upsampling chroma.

    Args:
        file: what ``read`` returned.

    Returns:
        uint8 [height, width] for each component.
    """
    return tuple(decode_plane(component) for component in file.components)


# When libjpeg gives this warning, it has decoded all blocks without an earlier warning.
_PADDING = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")

# Some cameras leave a few bytes between the image data and the end marker; some programs write
# thousands of one value. Any other bytes may be the rest of data that was decoded wrongly.
_MAX_VARIED_PADDING = 16

# Blocks decoded at a time: images of all sizes share one compiled function.
_CHUNK = 2048


# Unless they are read whole, files over this size are read to the image's end and this much more.
_WHOLE, _TRAILER = 2**25, 2**24


def _load(
    source: str | os.PathLike | bytes | IO[bytes], name: str | None, whole: bool
) -> tuple[bytes, int, str]:
    """Returns a source's bytes, the number of unread bytes, and a printable name for messages."""
    default: str | bytes
    unread = 0
    if isinstance(source, bytes | bytearray | memoryview):
        data, default = bytes(source), "<bytes>"
    elif isinstance(source, str | os.PathLike):
        default = os.fspath(source)
        with open(source, "rb") as file:
            data, unread = _load_file(file, whole)
    elif callable(getattr(source, "read", None)):
        own_name = getattr(source, "name", None)
        default = own_name if isinstance(own_name, str) else "<file>"
        data, unread = _load_file(source, whole)
    else:
        raise TypeError(
            f"source is {type(source).__name__}; expected a path, bytes or a binary file of a JPEG"
            " (an image already decoded has lost its coefficients: pass the file itself)"
        )
    return data, unread, printable(os.fsdecode(default) if name is None else name)


def _load_file(file: IO[bytes], whole: bool) -> tuple[bytes, int]:
    """Reads a file, or the relevant part of it; also returns `JpegFile.unread`."""
    head = file.read(16)
    if not isinstance(head, bytes):
        raise TypeError(f"source gives {type(head).__name__}; expected a file open in binary mode")
    # Only JPEG files are read to the end, since others may be endless.
    if describe_other(head):
        return head, 0
    data, wanted = head, _WHOLE
    while len(data) < wanted:
        more = file.read(wanted - len(data))
        if not more:
            return data, 0
        data += more
        if len(data) < wanted:
            continue
        if whole:
            wanted = min(2 * len(data), MAX_WHOLE)
        else:
            end = end_of_picture(data)
            wanted = end + _TRAILER if end < len(data) else 2 * len(data)
    return data, _count_unread(file)


def _count_unread(file: IO[bytes]) -> int:
    """Returns the number of bytes after a file's position, or 1 for any in a pipe."""
    if not file.seekable():
        return len(file.read(1))
    here = file.tell()
    return file.seek(0, os.SEEK_END) - here


def _damaged(name: str, damage: str) -> JpegError:
    reason = damage.removeprefix("Corrupt JPEG data: ")
    return JpegError(
        f"{name}: truncated or damaged: {reason}; allow_truncated=True reads the intact part"
    )


def _describe_padding(plain: bytes, size: int) -> str:
    """Returns a note on the bytes between a file's image data and its end marker.

    Args:
        plain: the checked stream.
        size: the number of these bytes.
    """
    # libjpeg has already read a few of them.
    note = f"at least {size} stray byte{'s' if size > 1 else ''} after the image data"
    if size > _MAX_VARIED_PADDING and len(set(plain[-2 - size : -2])) > 1:
        note += "; if the picture looks broken, the file is damaged"
    return note


def _components(stream: markers.Stream, planes: list[np.ndarray]) -> tuple[Component, ...]:
    down = max(c.vertical for c in stream.components)
    across = max(c.horizontal for c in stream.components)
    for plane in planes:
        plane.flags.writeable = False
    return tuple(
        Component(
            id=c.id,
            coefficients=plane,
            table=table,
            vertical=c.vertical,
            horizontal=c.horizontal,
            subsampling=(down // c.vertical, across // c.horizontal),
            height=c.height,
            width=c.width,
        )
        for c, table, plane in zip(stream.components, stream.tables, planes, strict=True)
    )


def decode_plane(component: Component) -> np.ndarray:
    """Decodes a plane as libjpeg does: uint8 [height, width] of the component."""
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
