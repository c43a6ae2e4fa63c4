"""The syntax of JPEG files, down to the entropy-coded data but not into it (ITU-T T.81, annex B).

A strict pass over the bytes precedes any decoder. It reads the file's contents, tables and scans,
and checks whether they can be complete; it refuses unsupported kinds by name; and it writes a plain
stream of checked parts only, for the decoder. A file that is malformed before its first scan is
refused. Later errors count as damage, since the image up to that point may be intact.
"""

import dataclasses
import re

import numpy as np

from dmcnn_jax.jpeg import marker_codes as codes
from dmcnn_jax.jpeg import scans
from dmcnn_jax.jpeg.errors import (
    JpegError,
    MalformedError,
    OversizedError,
    TooLargeError,
)
from dmcnn_jax.jpeg.file_kinds import describe_other
from dmcnn_jax.jpeg.frame import (
    ApplicationSegment,
    ColorModel,
    Frame,
    FrameComponent,
    Segments,
    before_scan,
    color_model,
    read_frame,
)
from dmcnn_jax.jpeg.table_segments import (
    HuffmanTables,
    read_huffman_tables,
    read_quantisation_tables,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """The contents of a file's markers.

    Attributes:
        height, width: of the image, in pixels.
        progressive: whether coefficients come a few bits at a time.
        components: one for gray, three for colour, four for inks.
        tables: the quantisation table of each component, int32 [8, 8], natural order.
        color: "gray", "ycbcr", "rgb", "cmyk" or "ycck".
        restart_interval: MCUs between restart markers in the first scan, 0 without.
        scans: the number of scans.
        segments: application data and comments, in the file's order.
        trailer: the bytes after the end marker; without one, those after the last complete segment
            of a complete image.
        stray: bytes between segments that belong to none.
        unread: bytes from the first invalid segment to the end, if the image is incomplete there.
        plain: a JPEG stream of the same coefficients, with checked parts only.
        damage: the missing or broken parts, as far as markers reveal them; None if there are none.
        notes: harmless oddities.
    """

    height: int
    width: int
    progressive: bool
    components: tuple[FrameComponent, ...]
    tables: tuple[np.ndarray, ...]
    color: ColorModel
    restart_interval: int
    scans: int
    segments: tuple[ApplicationSegment, ...]
    trailer: bytes
    stray: int
    unread: int
    plain: bytes
    damage: str | None
    notes: tuple[str, ...]

    @property
    def applications(self) -> Segments:
        """Markers and payloads of the segments before the first scan, in the file's order."""
        return before_scan(self.segments)


def parse(data: bytes, name: str, max_pixels: int) -> Stream:
    """Reads and checks the markers of a JPEG file.

    Takes time proportional to the number of bytes, whatever their values, and no memory
    proportional to the size that the header claims.

    Args:
        data: the file.
        name: the file's name, for errors.
        max_pixels: the largest width * height to accept.

    Raises:
        JpegError: the data is not a JPEG image, is of an unsupported kind, is larger than
            ``max_pixels``, or is malformed before the first scan.
    """
    parser = _Parser(data, max_pixels)
    try:
        parser.run()
        return parser.stream()
    except MalformedError as error:
        kind = TooLargeError if isinstance(error, OversizedError) else JpegError
        raise kind(f"{name}: {error}") from None


# Limits that no encoder reaches: a large colour profile takes dozens of segments, a progression a
# dozen scans. Each scan is a pass over the whole image, so many of them are an attack on readers;
# libjpeg-turbo's authors advise this limit against it.
_MAX_SEGMENTS = 20_000
_MAX_SCANS = 500

# A damaged file is decoded only if at least this share of it could be present, if all its codes
# were the shortest. They never are: a file below this share has lost all but a percent or two.
_MIN_SHARE = 0.1

_MARKER = re.compile(rb"\xff([\x01-\xfe])")


class _Parser:
    """One pass over the markers of one file."""

    def __init__(self, data: bytes, max_pixels: int) -> None:
        self.data = data
        self.max_pixels = max_pixels
        self.position = 0
        self.marker = codes.SOI  # the last marker read
        self.marker_start = 0
        self.unread = 0
        self.misstated = 0  # segments with an impossible length
        self.frame: Frame | None = None
        self.quantisation: dict[int, np.ndarray] = {}  # slot: int32 [8, 8]
        self.huffman: HuffmanTables = {}
        self.restart_interval = 0
        self.first_restart_interval = 0
        self.segments: list[ApplicationSegment] = []
        self.trailer = b""
        self.scans = 0
        self.share = 1.0  # largest possible share of the first scan
        self.parts = [b"\xff\xd8"]
        self.damage: str | None = None
        self.notes: list[str] = []
        self.stray: list[int] = []  # bytes in each piece between segments
        self.surplus_restarts = 0

    def run(self) -> None:
        """Reads all segments, up to the end of the image or the first damage."""
        other = describe_other(self.data[:16])
        if other:
            raise MalformedError(f"not a JPEG file but {other}; only JPEG files hold coefficients")
        self.position = 2
        for _ in range(_MAX_SEGMENTS):
            try:
                if not self._read_segment():
                    return
            except MalformedError as error:
                if not self.scans:
                    raise
                if self._is_complete() and self.marker != codes.SOS:
                    self.notes.append(f"after the image data: {error}")
                    self.trailer = self.trailer or self.data[self.marker_start :]
                else:
                    self.damage = self.damage or str(error)
                    self.unread = 0 if self.trailer else len(self.data) - self.marker_start
                return
        raise MalformedError(
            f"over {_MAX_SEGMENTS} marker segments; no JPEG encoder writes so many"
        )

    def stream(self) -> Stream:
        """Returns what was read.

        Raises:
            MalformedError: there is no image data, or too little of it.
        """
        frame = self.frame
        if frame is None or not self.scans:
            raise MalformedError("no image data: the file ends before its first scan")
        if self.share < _MIN_SHARE:
            raise MalformedError(
                f"{len(self.data)} bytes can't hold the {frame.width} x {frame.height} pixels that"
                " the header claims; the file is cut off or its header is wrong"
            )
        tables = tuple(self._quantisation_table(component) for component in frame.components)
        if not self.damage and not self._is_complete():
            self.damage = "the file ends before all of its scans" + (
                f" ({self.scans} of a progressive image)" if frame.progressive else ""
            )
        return Stream(
            height=frame.height,
            width=frame.width,
            progressive=frame.progressive,
            components=frame.components,
            tables=tables,
            color=color_model(frame.components, before_scan(self.segments)),
            restart_interval=self.first_restart_interval,
            scans=self.scans,
            segments=tuple(self.segments),
            trailer=self.trailer,
            stray=sum(self.stray),
            unread=self.unread,
            plain=b"".join([*self.parts, b"\xff\xd9"]),
            damage=self.damage,
            notes=(*self.notes, *self._counted_notes()),
        )

    def _read_segment(self) -> bool:
        """Reads the next marker and its segment; returns False at the end of the image."""
        found = _MARKER.search(self.data, self.position)
        if not found:
            if self.scans:
                # Some programs omit the end marker; decoding shows whether the data is complete.
                self.notes.append("the end-of-image marker is missing")
                return False
            raise MalformedError("the file ends within its header; it is cut off")
        stray = len(self.data[self.position : found.start()].rstrip(b"\xff"))
        if stray:
            self.stray.append(stray)
        marker = self.marker = found[1][0]
        self.marker_start = found.start()
        self.position = found.end()
        if marker == codes.EOI:
            self.trailer = self.data[self.position :]
            return False
        if marker == codes.SOI:
            self.trailer = self.data[found.start() :]
            raise MalformedError("a second image begins within the first")
        if marker in codes.WITHOUT_SEGMENT:
            return True  # libjpeg skips them here too
        if marker in codes.UNSUPPORTED and not self.scans:
            raise MalformedError(codes.UNSUPPORTED[marker])
        payload = self._payload(marker)
        if marker in codes.UNSUPPORTED or marker in codes.RESERVED:
            raise MalformedError(
                f"marker ff {marker:02x} at byte {found.start()} is not allowed there"
            )
        self._handle(marker, payload)
        return True

    def _is_complete(self) -> bool:
        """Returns whether scans have sent all bits of all coefficients."""
        return self.frame is not None and not any(any(c.sent) for c in self.frame.components)

    def _counted_notes(self) -> list[str]:
        """Returns a note for each kind of oddity that a file can have thousands of."""
        notes = []
        if self.stray:
            pieces = f" in {len(self.stray)} places" if len(self.stray) > 1 else ""
            notes.append(f"{_count(sum(self.stray), 'stray byte')} between segments{pieces}")
        if self.misstated:
            segments = _count(self.misstated, "metadata segment")
            notes.append(f"{segments} of an impossible length, read as empty")
        # One surplus marker at the end is common.
        if self.surplus_restarts > 1:
            notes.append(f"{self.surplus_restarts} surplus restart markers")
        return notes

    def _payload(self, marker: int) -> bytes:
        length = int.from_bytes(self.data[self.position : self.position + 2], "big")
        end = self.position + length
        if length < 2 and end <= len(self.data) - 2 and _is_ignored(marker):
            # libjpeg reads only the two bytes of the length, and skips no payload.
            self.misstated += 1
            self.position += 2
            return b""
        if length < 2 or end > len(self.data):
            cut = end > len(self.data) or self.position + 2 > len(self.data)
            raise MalformedError(
                f"the segment of marker ff {marker:02x} at byte {self.position - 2} "
                + ("runs past the end of the file" if cut else f"gives its length as {length}")
            )
        payload = self.data[self.position + 2 : end]
        self.position = end
        return payload

    def _handle(self, marker: int, payload: bytes) -> None:
        if marker in codes.SUPPORTED_FRAMES:
            if self.frame:
                raise MalformedError("two frame headers; expected one image in the file")
            if payload[1:3] == b"\0\0":
                payload = payload[:1] + self._number_of_lines() + payload[3:]
            self.frame = read_frame(
                payload,
                progressive=marker == codes.PROGRESSIVE,
                max_pixels=self.max_pixels,
            )
        elif marker == codes.DQT:
            self.quantisation |= read_quantisation_tables(payload)
        elif marker == codes.DHT:
            self.huffman |= read_huffman_tables(payload)
        elif marker == codes.DRI:
            if len(payload) != 2:
                raise MalformedError(f"the restart interval has {len(payload)} bytes; expected 2")
            self.restart_interval = int.from_bytes(payload, "big")
        elif marker == codes.SOS:
            self._read_scan(payload)
            return
        else:
            if codes.APP0 <= marker <= codes.APP15 or marker == codes.COM:
                start = self.position - len(payload)
                misstated = self.data[start - 2 : start] in (b"\0\0", b"\0\1")
                segment = ApplicationSegment(marker, payload, start, self.scans > 0, misstated)
                self.segments.append(segment)
            return
        self._copy(marker, payload)

    def _number_of_lines(self) -> bytes:
        """Returns the height, 2 bytes, from the DNL segment after the first scan (T.81, B.2.5).

        Raises:
            MalformedError: if there is none, or its height is 0.
        """
        position = self.position
        while found := _MARKER.search(self.data, position):
            marker, position = found[1][0], found.end()
            if marker == codes.SOS:
                end = codes.END_OF_SCAN.search(self.data, position)
                segment = self.data[end.start() : end.start() + 6] if end else b""
                if segment[:4] == bytes((0xFF, codes.DNL, 0, 4)) and any(segment[4:]):
                    self.notes.append("the height is given after the image data (DNL)")
                    return segment[4:]
                break
            if marker not in codes.WITHOUT_SEGMENT:
                position += int.from_bytes(self.data[position : position + 2], "big")
        raise MalformedError(
            "the header gives the height as 0, and no DNL segment after the first scan gives"
            " another; nothing can tell its height: get the file anew from its source"
        )

    def _read_scan(self, payload: bytes) -> None:
        frame = self.frame
        if frame is None:
            raise MalformedError("image data comes before the frame header")
        if self.scans == _MAX_SCANS:
            raise MalformedError(f"over {_MAX_SCANS} scans; no JPEG encoder writes so many")
        scan = scans.read_scan(payload, frame)
        scans.record_scan(scan, progressive=frame.progressive, huffman=self.huffman)
        for component, _, _ in scan.selected:
            component.table = self._quantisation_table(component)
        found = codes.END_OF_SCAN.search(self.data, self.position)
        end = found.start() if found else len(self.data)
        entropy = self.data[self.position : end].rstrip(b"\xff")
        self.position = end
        entropy, rest = scans.split_surplus_restarts(scan, frame, entropy, self.restart_interval)
        self.surplus_restarts += scans.count_restarts(rest)
        if scans.data_bytes(rest):
            self.stray.append(scans.data_bytes(rest))
        self._check_entropy(scan, frame, entropy)
        if not self.scans:
            self.first_restart_interval = self.restart_interval
        self.scans += 1
        progression = bytes((scan.first, scan.last, scan.high << 4 | scan.low))
        self._copy(codes.SOS, payload[:-3] + progression)
        self.parts.append(entropy)

    def _check_entropy(self, scan: scans.Scan, frame: Frame, entropy: bytes) -> None:
        """Compares the length of entropy-coded data, and its restart markers, with the blocks."""
        wrong = scans.restart_damage(scan, frame, entropy, self.restart_interval)
        self.damage = self.damage or wrong
        share = scans.available_share(scan, frame, entropy, self.huffman)
        if share < 1:
            if not self.scans:
                self.share = share
            self.damage = self.damage or (
                f"the data of scan {self.scans + 1} ends early: {scans.data_bytes(entropy)} bytes"
                f" for {scans.count_blocks(scan, frame)} blocks"
            )

    def _quantisation_table(self, component: FrameComponent) -> np.ndarray:
        """Returns the table of a component's first scan, or before that its current one."""
        if component.table is not None:
            return component.table
        try:
            return self.quantisation[component.table_index]
        except KeyError:
            raise MalformedError(f"quantisation table {component.table_index} is missing") from None

    def _copy(self, marker: int, payload: bytes) -> None:
        """Appends a checked segment to the plain stream."""
        self.parts.append(codes.write_segment(marker, payload))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


def _is_ignored(marker: int) -> bool:
    """Returns whether a segment can be ignored in decoding the image."""
    return codes.APP0 <= marker <= codes.APP15 or marker in (codes.COM, codes.DNL)
