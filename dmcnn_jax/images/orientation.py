"""Turns pictures upright by their EXIF orientation, and resets the orientation."""

import dataclasses
import struct

import numpy as np

from dmcnn_jax.jpeg.metadata import Metadata


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns a picture turned upright.

    Args:
        pixels: [height, width] or [height, width, channels].
        orientation: EXIF's, 1 to 8.

    Returns:
        A view of the pixels; height and width are exchanged for 5 to 8.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    upside_down = orientation in (3, 4, 7, 8)
    mirrored = orientation in (2, 3, 6, 7)
    return pixels[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


def turn_back(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Inverts `turn`; returns a view of the pixels."""
    return turn(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def upright(metadata: Metadata) -> Metadata:
    """Returns the metadata for a picture turned upright.

    EXIF's orientation becomes 1; its sizes and the resolution are exchanged if the picture's sides
    are. Its thumbnail is removed, since it would be turned wrongly. XMP is unchanged
    (`xmp.set_upright`).
    """
    exchanged = metadata.orientation >= 5
    resolution = metadata.resolution
    return dataclasses.replace(
        metadata,
        orientation=1,
        exif=metadata.exif and _upright_exif(metadata.exif, exchanged=exchanged),
        resolution=resolution[::-1] if resolution and exchanged else resolution,
    )


_ORIENTATION, _EXIF, _WIDTH, _HEIGHT = 0x112, 0x8769, 0xA002, 0xA003
_SHORT = 3
_HEADER = len(b"Exif\0\0")


def has_thumbnail(exif: bytes) -> bool:
    """Returns whether EXIF data have a second directory, which describes a thumbnail."""
    try:
        at = _HEADER + _next_directory(exif)
        return any(exif[at : at + 4])
    except struct.error:
        return False


def _next_directory(exif: bytes) -> int:
    """Returns the position of the first EXIF directory's pointer to the second."""
    order = "<" if exif[_HEADER : _HEADER + 2] == b"II" else ">"
    (first,) = struct.unpack_from(f"{order}I", exif, _HEADER + 4)
    (count,) = struct.unpack_from(f"{order}H", exif, _HEADER + first)
    return first + 2 + 12 * count


def _upright_exif(exif: bytes, *, exchanged: bool) -> bytes:
    """Returns EXIF data, changed in place, so that all offsets remain valid."""
    data = bytearray(exif)
    order = "<" if data[_HEADER : _HEADER + 2] == b"II" else ">"

    def unpack(kind: str, at: int) -> int:
        return struct.unpack_from(order + kind, data, _HEADER + at)[0]

    def entries(start: int) -> dict[int, int]:
        """Returns the position of the type of each tag of a directory."""
        ends = start + 2 + 12 * unpack("H", start)
        return {unpack("H", at): at + 2 for at in range(start + 2, ends, 12)}

    try:
        first = unpack("I", 4)
        tags = entries(first)
        if _ORIENTATION in tags:
            kind = "HH" if unpack("H", tags[_ORIENTATION]) == _SHORT else "I"
            value = (1, 0)[: len(kind)]
            struct.pack_into(order + kind, data, _HEADER + tags[_ORIENTATION] + 6, *value)
        inner = entries(unpack("I", tags[_EXIF] + 6)) if _EXIF in tags else {}
        if exchanged and _WIDTH in inner and _HEIGHT in inner:
            # With their kinds and counts, which may differ.
            width, height = (_HEADER + inner[tag] for tag in (_WIDTH, _HEIGHT))
            data[width : width + 10], data[height : height + 10] = (
                data[height : height + 10],
                data[width : width + 10],
            )
        struct.pack_into("4x", data, _HEADER + _next_directory(exif))
    except struct.error:
        pass  # cut off: the preceding tags are set
    return bytes(data)
