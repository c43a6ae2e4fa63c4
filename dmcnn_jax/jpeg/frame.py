"""Frame headers of JPEG files: size, components, sampling (T.81, B.2.2), and the colour model."""

import dataclasses
from collections.abc import Iterable
from typing import Literal

import numpy as np

from dmcnn_jax.jpeg.errors import MalformedError, OversizedError
from dmcnn_jax.jpeg.marker_codes import APP0, APP14

ColorModel = Literal["gray", "ycbcr", "rgb", "cmyk", "ycck"]

# Application data (0xE0..0xEF) and comments (0xFE) in the file's order: markers and payloads.
Segments = list[tuple[int, bytes]]


@dataclasses.dataclass(frozen=True)
class ApplicationSegment:
    """A segment of application data or a comment, and its position in the file.

    Attributes:
        marker: 0xE0..0xEF application data, 0xFE comment.
        payload: the bytes after the length.
        start: position of the payload in the file.
        after_scan: whether it comes after the first scan.
        misstated: whether its length was impossible, so that the payload was read as empty.
    """

    marker: int
    payload: bytes
    start: int
    after_scan: bool = False
    misstated: bool = False


MAX_SIDE = 65_500
"""libjpeg's limit on the sides of an image, in pixels."""

ANY_SIZE = MAX_SIDE**2
"""The limit on pixels for files whose size is already checked."""


@dataclasses.dataclass(eq=False)
class FrameComponent:
    """A colour component, as the frame header describes it.

    Attributes:
        id: the number by which scans refer to it, 0..255.
        horizontal, vertical: sampling factors, 1..4.
        table_index: the slot of its quantisation table, 0..3.
        height, width: of its plane, in samples.
        rows, columns: of its blocks, ceil(height / 8) and ceil(width / 8).
        table: int32 [8, 8], natural order, as defined at the component's first scan; None before.
        sent: for each coefficient in zigzag order, the lowest bit that scans have sent so far, -1
            before the first. All zero at the end of a complete file.
    """

    id: int
    horizontal: int
    vertical: int
    table_index: int
    height: int = 0
    width: int = 0
    rows: int = 0
    columns: int = 0
    table: np.ndarray | None = None
    sent: list[int] = dataclasses.field(default_factory=lambda: [-1] * 64)


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """A frame header.

    Attributes:
        height, width: of the image, in pixels.
        progressive: whether coefficients come a few bits at a time.
        components: one for gray, three for colour, four for inks.
    """

    height: int
    width: int
    progressive: bool
    components: tuple[FrameComponent, ...]

    @property
    def max_horizontal(self) -> int:
        """The largest horizontal sampling factor, which components at full width have."""
        return max(c.horizontal for c in self.components)

    @property
    def max_vertical(self) -> int:
        """The largest vertical sampling factor, which components at full height have."""
        return max(c.vertical for c in self.components)


def read_frame(payload: bytes, *, progressive: bool, max_pixels: int) -> Frame:
    """Reads and checks a frame header.

    Args:
        payload: of the frame's segment.
        progressive: whether its marker says so.
        max_pixels: the largest width * height to accept.

    Raises:
        MalformedError: the header is malformed, or of an unsupported kind or size.
    """
    if len(payload) < 6:
        raise MalformedError(f"the frame header has {len(payload)} bytes; expected at least 9")
    precision, count = payload[0], payload[5]
    height = int.from_bytes(payload[1:3], "big")
    width = int.from_bytes(payload[3:5], "big")
    if precision != 8:
        raise MalformedError(f"{precision} bits a sample; only 8-bit JPEG is supported")
    if count not in (1, 3, 4):
        raise MalformedError(f"{count} components; expected 1 (gray), 3 (colour) or 4 (CMYK)")
    if len(payload) != 6 + 3 * count:
        raise MalformedError(
            f"the frame header has {len(payload)} bytes; expected {6 + 3 * count} for {count}"
            " components"
        )
    _check_size(height, width, max_pixels)
    frame = Frame(height, width, progressive, _read_components(payload[6:]))
    _set_sizes(frame)
    return frame


def color_model(components: tuple[FrameComponent, ...], segments: Segments) -> ColorModel:
    """Returns the colour model of the components, by libjpeg's rules."""
    if len(components) == 1:
        return "gray"
    if len(components) == 4:
        return "ycck" if _adobe_transform(segments) else "cmyk"
    if any(m == APP0 and p[:5] == b"JFIF\0" and len(p) >= 14 for m, p in segments):
        return "ycbcr"
    transform = _adobe_transform(segments)
    if transform is not None:
        return "ycbcr" if transform else "rgb"
    return "rgb" if bytes(c.id for c in components) == b"RGB" else "ycbcr"


def before_scan(segments: Iterable[ApplicationSegment]) -> Segments:
    """Returns markers and payloads of the segments before the first scan."""
    return [(each.marker, each.payload) for each in segments if not each.after_scan]


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if not width:
        raise MalformedError("the header gives the width as 0")
    if max(height, width) > MAX_SIDE:
        raise MalformedError(f"{width} x {height} pixels; libjpeg reads sides up to {MAX_SIDE}")
    if height * width > max_pixels:
        raise OversizedError(
            f"{width} x {height} pixels exceed the limit of {max_pixels}; raise"
            " max_pixels if you trust the file"
        )


def _read_components(payload: bytes) -> tuple[FrameComponent, ...]:
    components = tuple(
        FrameComponent(number, factors >> 4, factors & 15, table_index)
        for number, factors, table_index in zip(*[iter(payload)] * 3, strict=True)
    )
    for c in components:
        if not (1 <= c.horizontal <= 4 and 1 <= c.vertical <= 4):
            raise MalformedError(
                f"sampling factors {c.horizontal} x {c.vertical}; expected 1 to 4 each"
            )
        if c.table_index > 3:
            raise MalformedError(f"quantisation table {c.table_index}; expected 0 to 3")
    if len({c.id for c in components}) < len(components):
        raise MalformedError("two components of the same number")
    return components


def _set_sizes(frame: Frame) -> None:
    across, down = frame.max_horizontal, frame.max_vertical
    for c in frame.components:
        if across % c.horizontal or down % c.vertical:
            raise MalformedError(
                f"sampling factors {c.horizontal} x {c.vertical} beside {across} x {down}: a"
                " plane smaller by a fraction, which libjpeg can't decode either"
            )
        c.height = -(-frame.height * c.vertical // down)
        c.width = -(-frame.width * c.horizontal // across)
        c.rows, c.columns = -(-c.height // 8), -(-c.width // 8)


def _adobe_transform(segments: Segments) -> int | None:
    """Returns the colour transform in the last Adobe segment: 0 none, 1 YCbCr, 2 YCCK."""
    transform = None
    for marker, payload in segments:
        if marker == APP14 and payload[:5] == b"Adobe" and len(payload) >= 12:
            transform = payload[11]
    return transform
