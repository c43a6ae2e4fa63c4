"""The syntax of JPEG files, down to the entropy-coded data but not into it (ITU-T T.81, annex B).

A strict pass over the bytes comes before any decoder sees them. It knows what the file holds, in
which tables and scans, and whether that can be all of it; it refuses by name what can't be
restored; and it writes a plain stream of its own, with nothing in it but what has been checked, for
the decoder. What is malformed before the first scan is refused. From there on it is damage: there
may still be an image up to that point.
"""

import dataclasses
import math
import re

import numpy as np


class JpegError(ValueError):
    """A JPEG file that can't be restored. The message is one line: file, reason, way out."""


@dataclasses.dataclass(eq=False)
class FrameComponent:
    """A colour component, as the frame header describes it.

    Attributes:
        id: the number that scans refer to it by, 0..255.
        horizontal, vertical: sampling factors, 1..4.
        table_index: where its quantisation table lies, 0..3.
        height, width: of its plane, in samples.
        rows, columns: of its blocks, ceil(height / 8) and ceil(width / 8).
        table: int32 [8, 8], natural order, as it was at the component's first scan.
        sent: for each coefficient in zigzag order, the lowest bit that scans have sent of it so
            far, -1 before the first. All zero in the end if the file is complete.
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


@dataclasses.dataclass(eq=False)
class Stream:
    """What the markers of a file say.

    Attributes:
        height, width: of the image, in pixels.
        progressive: whether coefficients come a few bits at a time.
        components: one for gray, three for colour.
        color: "gray", "ycbcr" or "rgb".
        restart_interval: MCUs between restart markers in the first scan, 0 without.
        scans: how many.
        applications: markers (0xE0..0xEF application data, 0xFE comment) and their payloads, up to
            the first scan, in the file's order.
        plain: a JPEG stream of the same coefficients, of checked parts and nothing else.
        damage: what is missing or broken, None if nothing is as far as markers tell.
        notes: oddities that cost nothing.
    """

    height: int
    width: int
    progressive: bool
    components: tuple[FrameComponent, ...]
    color: str
    restart_interval: int
    scans: int
    applications: list[tuple[int, bytes]]
    plain: bytes
    damage: str | None
    notes: tuple[str, ...]


def parse(data: bytes, name: str, max_pixels: int) -> Stream:
    """Reads and checks the markers of a JPEG file.

    Takes time in proportion to the bytes, whatever they are, and allocates nothing in proportion to
    the size that the file claims.

    Args:
        data: the file.
        name: what to call it in errors.
        max_pixels: the largest width * height to accept.

    Returns:
        What they say.

    Raises:
        JpegError: the data is no JPEG image, of an unsupported kind, larger than ``max_pixels``, or
            broken before the first scan.
    """
    parser = _Parser(data, max_pixels)
    try:
        parser.run()
        return parser.stream()
    except _MalformedError as error:
        raise JpegError(f"{name}: {error}") from None


class _MalformedError(Exception):
    """What is wrong, without the name of the file."""


# More than this no encoder writes: a large colour profile takes dozens of segments, a progression
# a dozen scans. Each scan is a pass over the whole image, so that they are a way to attack readers;
# libjpeg-turbo's authors advise the same limit against it.
_MAX_SEGMENTS = 20_000
_MAX_SCANS = 500

# libjpeg's limit on the sides of an image, and T.81's (B.2.3) on the blocks of an interleaved unit.
_MAX_SIDE = 65_500
_MAX_BLOCKS_IN_MCU = 10

# A damaged file is worth its memory if this share of it could be there, were all its codes the
# shortest. They are not: what comes to less than this has lost all but a percent or two.
_MIN_SHARE = 0.1

_SOI, _EOI, _SOS, _DQT, _DHT, _DRI = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD
_APP0, _APP14, _APP15, _COM = 0xE0, 0xEE, 0xEF, 0xFE

_SUPPORTED_FRAMES = {0xC0: "baseline", 0xC1: "extended sequential", 0xC2: "progressive"}
_LOSSLESSLY = "`jpegtran -optimize` turns it into a Huffman-coded file without loss"
_NO_COEFFICIENTS = "it has no quantised coefficients to restore from"
_UNSUPPORTED = {
    0xC3: f"lossless JPEG: {_NO_COEFFICIENTS}",
    0xC5: "hierarchical JPEG (differential sequential), which is not supported",
    0xC6: "hierarchical JPEG (differential progressive), which is not supported",
    0xC7: f"hierarchical lossless JPEG: {_NO_COEFFICIENTS}",
    0xC9: f"arithmetic-coded JPEG, which is not supported; {_LOSSLESSLY}",
    0xCA: f"arithmetic-coded progressive JPEG, which is not supported; {_LOSSLESSLY}",
    0xCB: f"arithmetic-coded lossless JPEG: {_NO_COEFFICIENTS}",
    0xCD: "arithmetic-coded hierarchical JPEG, which is not supported",
    0xCE: "arithmetic-coded hierarchical JPEG, which is not supported",
    0xCF: f"arithmetic-coded hierarchical lossless JPEG: {_NO_COEFFICIENTS}",
    0xDE: "hierarchical JPEG, which is not supported",
    0xDF: "hierarchical JPEG, which is not supported",
    0xF7: f"JPEG-LS: {_NO_COEFFICIENTS}",
}

# For extensions that never came. In no image, so where they are is no marker.
_RESERVED = frozenset([*range(0x02, 0xC0), 0xC8, *range(0xF0, 0xFE)])

# How files of other kinds begin, to say what was found instead of a JPEG.
_OTHER_KINDS = (
    (rb"\x89PNG\r\n\x1a\n", "a PNG image"),
    (rb"GIF8", "a GIF image"),
    (rb"RIFF....WEBP", "a WebP image"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "a TIFF or raw image"),
    (rb"BM", "a BMP image"),
    (rb"....ftyp(heic|heix|mif1|msf1|avif|avis)", "a HEIF or AVIF image"),
    (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL image"),
    (rb"%PDF", "a PDF document"),
    (rb"\s*<", "a text or web page"),
)

# Zigzag position to natural index (T.81, figure A.6): diagonals v + u, alternating in direction.
_ZIGZAG = np.array(
    sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8))
)

# In entropy-coded data 0xFF is followed by 0, or belongs to a restart marker. All else ends it. Any
# number of 0xFF may come before a marker: were they part of the patterns, a file full of them would
# take quadratic time.
_END_OF_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_MARKER = re.compile(rb"\xff([\x01-\xfe])")


def describe_other(head: bytes) -> str | None:
    """What a file that does not begin as a JPEG does seems to be.

    Args:
        head: its first bytes, at least 12 if there are so many.

    Returns:
        A few words, or None if it begins as a JPEG file.
    """
    if head[:2] == b"\xff\xd8":
        return None
    if not head:
        return "an empty file"
    for pattern, kind in _OTHER_KINDS:
        if re.match(pattern, head, re.DOTALL):
            return kind
    return f"a file that begins with {head[:4].hex(' ')}"


class _Parser:
    """One pass over the markers of one file."""

    def __init__(self, data, max_pixels):
        self.data = data
        self.max_pixels = max_pixels
        self.position = 0
        self.components = ()
        self.height = self.width = 0
        self.progressive = False
        self.quantisation = {}  # slot: int32 [8, 8]
        self.huffman = {}  # (class, slot): length of the shortest code, bits
        self.restart_interval = 0
        self.first_restart_interval = 0
        self.applications = []
        self.scans = 0
        self.share = 1.0  # at most so much of the first scan can be there
        self.parts = [b"\xff\xd8"]
        self.damage = None
        self.notes = []

    def run(self):
        other = describe_other(self.data[:16])
        if other:
            raise _MalformedError(f"not a JPEG file but {other}; only JPEG files hold coefficients")
        self.position = 2
        for _ in range(_MAX_SEGMENTS):
            try:
                if not self.step():
                    return
            except _MalformedError as error:
                if not self.scans:
                    raise
                self.damage = self.damage or str(error)
                return
        raise _MalformedError(
            f"over {_MAX_SEGMENTS} marker segments; no JPEG encoder writes so many"
        )

    def stream(self):
        if not self.scans:
            raise _MalformedError("no image data: the file ends before its first scan")
        if self.share < _MIN_SHARE:
            raise _MalformedError(
                f"{len(self.data)} bytes can't hold the {self.width} x {self.height} pixels that"
                " the header claims; the file is cut off or its header is wrong"
            )
        for component in self.components:
            if component.table is None:
                component.table = self.quantisation_table(component)
        if not self.damage and any(any(component.sent) for component in self.components):
            self.damage = "the file ends before all its scans have come" + (
                f" ({self.scans} of a progressive image)" if self.progressive else ""
            )
        return Stream(
            height=self.height,
            width=self.width,
            progressive=self.progressive,
            components=self.components,
            color=self.color(),
            restart_interval=self.first_restart_interval,
            scans=self.scans,
            applications=self.applications,
            plain=b"".join([*self.parts, b"\xff\xd9"]),
            damage=self.damage,
            notes=tuple(self.notes),
        )

    def step(self):
        """Reads the next marker and its segment; False at the end of the image."""
        found = _MARKER.search(self.data, self.position)
        if not found:
            if self.scans:
                # Some writers leave the marker out; whether the data is whole shows in decoding.
                self.notes.append("the end-of-image marker is missing")
                return False
            raise _MalformedError("the file ends within its header; it is cut off")
        stray = len(self.data[self.position : found.start()].rstrip(b"\xff"))
        if stray:
            self.notes.append(f"{stray} stray bytes between segments")
        marker, self.position = found[1][0], found.end()
        if marker == _EOI:
            return False
        if marker == _SOI:
            raise _MalformedError("a second image begins within the first")
        if 0xD0 <= marker <= 0xD7 or marker == 0x01:
            return True  # these have no length; libjpeg passes over them here too
        if marker in _UNSUPPORTED and not self.scans:
            raise _MalformedError(_UNSUPPORTED[marker])
        payload = self.segment(marker)
        if marker in _SUPPORTED_FRAMES:
            self.frame(marker, payload)
        elif marker == _DQT:
            self.quantisation_tables(payload)
        elif marker == _DHT:
            self.huffman_tables(payload)
        elif marker == _DRI:
            self.restarts(payload)
        elif marker == _SOS:
            self.scan(payload)
        elif marker in _UNSUPPORTED or marker in _RESERVED:
            raise _MalformedError(
                f"marker ff {marker:02x} at byte {found.start()} has no place there"
            )
        elif (_APP0 <= marker <= _APP15 or marker == _COM) and not self.scans:
            self.applications.append((marker, payload))
        return True

    def segment(self, marker):
        length = int.from_bytes(self.data[self.position : self.position + 2], "big")
        end = self.position + length
        if length < 2 or end > len(self.data):
            cut = end > len(self.data) or self.position + 2 > len(self.data)
            raise _MalformedError(
                f"the segment of marker ff {marker:02x} at byte {self.position - 2} "
                + ("runs past the end of the file" if cut else f"gives its length as {length}")
            )
        payload = self.data[self.position + 2 : end]
        self.position = end
        return payload

    def copy(self, marker, payload):
        self.parts += [bytes((0xFF, marker)), (len(payload) + 2).to_bytes(2, "big"), payload]

    def frame(self, marker, payload):
        if self.components:
            raise _MalformedError("two frame headers; expected one image in the file")
        if len(payload) < 6:
            raise _MalformedError(f"the frame header has {len(payload)} bytes; expected at least 9")
        precision, count = payload[0], payload[5]
        self.height = int.from_bytes(payload[1:3], "big")
        self.width = int.from_bytes(payload[3:5], "big")
        self.progressive = marker == 0xC2
        if precision != 8:
            raise _MalformedError(f"{precision} bits a sample; only 8-bit JPEG is supported")
        if count == 4:
            raise _MalformedError(
                f"four components ({self.four_components()}); only gray and three-component colour"
                " are supported"
            )
        if count not in (1, 3):
            raise _MalformedError(f"{count} components; expected 1 (gray) or 3 (colour)")
        if len(payload) != 6 + 3 * count:
            raise _MalformedError(
                f"the frame header has {len(payload)} bytes; expected {6 + 3 * count} for {count}"
                " components"
            )
        self.check_size()
        self.components = self.frame_components(payload[6:])
        self.copy(marker, payload)

    def check_size(self):
        if not self.height:
            raise _MalformedError(
                "the header leaves the height open (DNL), which is not supported; `jpegtran` or an"
                " editor that reads it can write it anew"
            )
        if not self.width:
            raise _MalformedError("the header gives the width as 0")
        if max(self.height, self.width) > _MAX_SIDE:
            raise _MalformedError(
                f"{self.width} x {self.height} pixels; libjpeg reads sides up to {_MAX_SIDE}"
            )
        if self.height * self.width > self.max_pixels:
            raise _MalformedError(
                f"{self.width} x {self.height} pixels exceed the limit of {self.max_pixels}; raise"
                " max_pixels if the file is to be trusted"
            )

    def frame_components(self, payload):
        components = [
            FrameComponent(number, factors >> 4, factors & 15, table_index)
            for number, factors, table_index in zip(*[iter(payload)] * 3, strict=True)
        ]
        for c in components:
            if not (1 <= c.horizontal <= 4 and 1 <= c.vertical <= 4):
                raise _MalformedError(
                    f"sampling factors {c.horizontal} x {c.vertical}; expected 1 to 4 each"
                )
            if c.table_index > 3:
                raise _MalformedError(f"quantisation table {c.table_index}; expected 0 to 3")
        if len({c.id for c in components}) < len(components):
            raise _MalformedError("two components of the same number")
        across = max(c.horizontal for c in components)
        down = max(c.vertical for c in components)
        for c in components:
            if across % c.horizontal or down % c.vertical:
                raise _MalformedError(
                    f"sampling factors {c.horizontal} x {c.vertical} beside {across} x {down}: a"
                    " plane smaller by a fraction, which libjpeg can't decode either"
                )
            c.height = -(-self.height * c.vertical // down)
            c.width = -(-self.width * c.horizontal // across)
            c.rows, c.columns = -(-c.height // 8), -(-c.width // 8)
        return tuple(components)

    def quantisation_tables(self, payload):
        rest = payload
        while rest:
            precision, slot = rest[0] >> 4, rest[0] & 15
            size = 128 if precision else 64
            if precision > 1 or slot > 3 or len(rest) < 1 + size:
                raise _MalformedError("a quantisation table segment is malformed")
            steps = np.frombuffer(rest[1 : 1 + size], ">u2" if precision else "u1")
            if not steps.all():
                raise _MalformedError(
                    f"quantisation table {slot} has a zero step; expected 1 to"
                    f" {65535 if precision else 255}"
                )
            table = np.empty(64, np.int32)
            table[_ZIGZAG] = steps
            table.flags.writeable = False
            self.quantisation[slot] = table.reshape(8, 8)
            rest = rest[1 + size :]
        self.copy(_DQT, payload)

    def quantisation_table(self, component):
        try:
            return self.quantisation[component.table_index]
        except KeyError:
            raise _MalformedError(
                f"quantisation table {component.table_index} is missing"
            ) from None

    def huffman_tables(self, payload):
        rest = payload
        while rest:
            kind, slot = rest[0] >> 4, rest[0] & 15
            counts = rest[1:17]
            symbols = rest[17 : 17 + sum(counts)]
            if kind > 1 or slot > 3 or len(counts) < 16 or len(symbols) < sum(counts):
                raise _MalformedError("a Huffman table segment is malformed")
            code = 0
            for length, count in enumerate(counts, 1):
                code = 2 * code + count
                if count and code >= 1 << length:
                    raise _MalformedError("a Huffman table has more codes than fit")
            if len(symbols) > 256 or (kind == 0 and max(symbols, default=0) > 15):
                raise _MalformedError("a Huffman table has symbols that mean nothing")
            self.huffman[kind, slot] = next((i for i, count in enumerate(counts, 1) if count), 1)
            rest = rest[17 + len(symbols) :]
        self.copy(_DHT, payload)

    def restarts(self, payload):
        if len(payload) != 2:
            raise _MalformedError(f"the restart interval has {len(payload)} bytes; expected 2")
        self.restart_interval = int.from_bytes(payload, "big")
        self.copy(_DRI, payload)

    def scan(self, payload):
        if not self.components:
            raise _MalformedError("image data comes before the frame header")
        if self.scans == _MAX_SCANS:
            raise _MalformedError(f"over {_MAX_SCANS} scans; no JPEG encoder writes so many")
        count = payload[0] if payload else 0
        if not 1 <= count <= 4 or len(payload) != 4 + 2 * count:
            raise _MalformedError("a scan header is malformed")
        by_id = {c.id: c for c in self.components}
        selected = []
        for number, slots in zip(payload[1 : 1 + 2 * count : 2], payload[2::2], strict=False):
            if number not in by_id:
                raise _MalformedError(f"a scan names component {number}, which the image has not")
            selected.append((by_id.pop(number), slots >> 4, slots & 15))
        if count > 1 and (
            sum(c.horizontal * c.vertical for c, _, _ in selected) > _MAX_BLOCKS_IN_MCU
        ):
            raise _MalformedError(f"a scan interleaves over {_MAX_BLOCKS_IN_MCU} blocks")
        first, last, high, low = payload[-3], payload[-2], payload[-1] >> 4, payload[-1] & 15
        if self.progressive:
            self.progress(selected, first, last, high, low)
        else:
            first, last, high, low = 0, 63, 0, 0  # often wrong, and no decoder looks
            self.sequence(selected)
        for component, _, _ in selected:
            if component.table is None:
                component.table = self.quantisation_table(component)

        found = _END_OF_SCAN.search(self.data, self.position)
        end = found.start() if found else len(self.data)
        entropy = self.data[self.position : end].rstrip(b"\xff")
        self.position = end
        self.check_entropy(selected, first, high, entropy)
        if not self.scans:
            self.first_restart_interval = self.restart_interval
        self.scans += 1
        self.copy(_SOS, payload[:-3] + bytes((first, last, high << 4 | low)))
        self.parts.append(entropy)

    def sequence(self, selected):
        for component, dc, ac in selected:
            if component.sent[0] == 0:
                raise _MalformedError(f"component {component.id} comes twice")
            component.sent = [0] * 64
            # Frames of motion JPEG leave the tables out that T.81 gives as typical.
            if (
                dc > 3
                or ac > 3
                or any(
                    slot > 1 and (kind, slot) not in self.huffman
                    for kind, slot in ((0, dc), (1, ac))
                )
            ):
                raise _MalformedError(f"a Huffman table ({dc} or {ac}) is missing")

    def progress(self, selected, first, last, high, low):
        """Annex G: each coefficient's bits come once, highest first, DC before AC."""
        scan = f"a progressive scan ({first} to {last}, bits {high} to {low})"
        if not (
            (first == last == 0 or (1 <= first <= last <= 63 and len(selected) == 1))
            and low <= 13
            and (high == 0 or low == high - 1)
        ):
            raise _MalformedError(f"{scan} is impossible")
        for component, dc, ac in selected:
            if first and component.sent[0] < 0:
                raise _MalformedError(
                    f"{scan} comes before the DC scan of component {component.id}"
                )
            if any(bit != (high or -1) for bit in component.sent[first : last + 1]):
                raise _MalformedError(f"{scan} does not continue those before it")
            component.sent[first : last + 1] = [low] * (last + 1 - first)
            table = (1, ac) if first else (0, dc)
            if table not in self.huffman and (first or not high):
                raise _MalformedError(f"Huffman table {table[1]} is missing")

    def check_entropy(self, selected, first, high, entropy):
        """Compares the length of entropy-coded data, and its restart markers, with the blocks."""
        if len(selected) == 1:
            component, _, _ = selected[0]
            units, blocks = component.rows * component.columns, 1
        else:
            across = max(c.horizontal for c in self.components)
            down = max(c.vertical for c in self.components)
            units = -(-self.width // (8 * across)) * -(-self.height // (8 * down))
            blocks = sum(c.horizontal * c.vertical for c, _, _ in selected)

        intervals = 1
        if self.restart_interval:
            intervals = -(-units // self.restart_interval)
        markers = b"".join(_RESTART.findall(entropy))
        # One more, after the last interval, does no harm.
        expected = (bytes(range(0xD0, 0xD8)) * (intervals // 8 + 1))[:intervals]
        if len(markers) < intervals - 1 or not expected.startswith(markers):
            self.damage = self.damage or (
                f"{len(markers)} restart markers, not {intervals - 1} in their order"
                if self.restart_interval
                else "restart markers where none were announced"
            )

        bits = 0.0  # at least so many
        for component, dc, ac in selected:
            of_component = units * (
                1 if len(selected) == 1 else component.horizontal * component.vertical
            )
            if not self.progressive:
                # The typical tables' shortest codes have 2 bits.
                lengths = self.huffman.get((0, dc), 2) + self.huffman.get((1, ac), 2)
                bits += of_component * lengths
            elif first == 0:
                bits += of_component * (1 if high else self.huffman[0, dc])
            else:
                # One code can end the band in up to 32767 blocks.
                bits += math.ceil(of_component / 32767) * self.huffman[1, ac]
        available = 8 * (len(entropy) - 2 * len(markers))
        if available < bits:
            if not self.scans:
                self.share = available / bits
            self.damage = self.damage or (
                f"the data of scan {self.scans + 1} ends early: {available // 8} bytes for"
                f" {units * blocks} blocks"
            )

    def color(self):
        """What the components are, by libjpeg's rules."""
        if len(self.components) == 1:
            return "gray"
        if any(m == _APP0 and p[:5] == b"JFIF\0" and len(p) >= 14 for m, p in self.applications):
            return "ycbcr"
        transform = self.adobe_transform()
        if transform is not None:
            return "ycbcr" if transform else "rgb"
        return "rgb" if bytes(c.id for c in self.components) == b"RGB" else "ycbcr"

    def adobe_transform(self):
        transform = None
        for marker, payload in self.applications:
            if marker == _APP14 and payload[:5] == b"Adobe" and len(payload) >= 12:
                transform = payload[11]
        return transform

    def four_components(self):
        return "YCCK" if self.adobe_transform() == 2 else "CMYK"
