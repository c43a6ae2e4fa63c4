"""JPEG files of every kind, for tests: a plain encoder of coefficients, and mutations.

The encoder follows ITU-T T.81 and shares nothing with the package or libjpeg, so that what it was
given is what a reader has to find. It takes fixed Huffman tables that have every symbol, and its
time: it is for small images.
"""

import dataclasses
import io
import struct

import numpy as np
from PIL import Image

# Zigzag position -> natural index 8 * row + column, walked as in T.81, figure A.6.
ZIGZAG = []
_row = _column = 0
for _ in range(64):
    ZIGZAG.append(8 * _row + _column)
    if (_row + _column) % 2 == 0:  # going up and right
        if _column == 7:
            _row += 1
        elif _row == 0:
            _column += 1
        else:
            _row, _column = _row - 1, _column + 1
    else:
        if _row == 7:
            _column += 1
        elif _column == 0:
            _row += 1
        else:
            _row, _column = _row + 1, _column - 1

# DC: 16 symbols of 5 bits. AC: 254 of 8 bits and 2 of 9, which leaves the code of all ones free.
DC_TABLE = bytes([0, 0, 0, 0, 16] + [0] * 11) + bytes(range(16))
AC_TABLE = bytes([0] * 7 + [254, 2] + [0] * 7) + bytes(range(256))


@dataclasses.dataclass
class Plane:
    """A component to be written.

    Attributes:
        coefficients: integers [rows, columns, 64], natural order.
        table: quantisation table [8, 8].
        vertical, horizontal: sampling factors.
    """

    coefficients: np.ndarray
    table: np.ndarray
    vertical: int = 1
    horizontal: int = 1


@dataclasses.dataclass
class Scan:
    """Which components, which coefficients (zigzag positions), which bits."""

    components: tuple[int, ...]
    first: int = 0
    last: int = 63
    high: int = 0
    low: int = 0


def full_progression(count, interleaved=True):
    """Scans of spectral selection and successive approximation, refinements included."""
    everything = [tuple(range(count))] if interleaved else [(i,) for i in range(count)]
    scans = [Scan(c, 0, 0, 0, 1) for c in everything]
    for i in range(count):
        scans += [Scan((i,), 1, 5, 0, 2), Scan((i,), 6, 63, 0, 2)]
    scans += [Scan((i,), 1, 63, 2, 1) for i in range(count)]
    scans += [Scan(c, 0, 0, 1, 0) for c in everything]
    scans += [Scan((i,), 1, 63, 1, 0) for i in range(count)]
    return scans


def planes(rng, height, width, factors, table_limit=100, spread=20):
    """Random components of an image.

    Args:
        rng: random generator.
        height: of the image.
        width: of the image.
        factors: (vertical, horizontal) for each component.
        table_limit: quantisation steps are from 1 to this.
        spread: how large coefficients are.

    Returns:
        A list of Plane.
    """
    down, across = max(v for v, _ in factors), max(h for _, h in factors)
    made = []
    for v, h in factors:
        rows, columns = -(-height * v // (8 * down)), -(-width * h // (8 * across))
        # Laplacian, and mostly zero, as coefficients are.
        values = rng.laplace(0, spread / (1 + np.arange(64)), (rows, columns, 64))
        coefficients = np.empty((rows, columns, 64), int)
        coefficients[..., ZIGZAG] = np.clip(np.rint(values), -1023, 1023)
        made.append(Plane(coefficients, rng.integers(1, table_limit + 1, (8, 8)), v, h))
    return made


def write(
    height,
    width,
    components,
    scans=None,
    *,
    ids=(1, 2, 3, 4),
    restart=0,
    segments=b"",
    frame=None,
    precision=8,
    huffman=True,
):
    """Writes a JPEG file.

    Args:
        height: of the image.
        width: of the image.
        components: list of Plane; the coefficients cover the image.
        scans: list of Scan with a spectral range for a progressive file, or of tuples of component
            indices for a sequential one; by default sequential, interleaved.
        ids: numbers of the components.
        restart: MCUs between restart markers, 0 for none.
        segments: more segments, ready made, put in after the start of the image.
        frame: the number of the frame marker, by default 0xC0 or 0xC2 as the scans are.
        precision: what the frame header claims.
        huffman: whether to write the Huffman tables.

    Returns:
        The file's bytes.
    """
    scans = scans or [tuple(range(len(components)))]
    progressive = isinstance(scans[0], Scan)
    frame = frame or (0xC2 if progressive else 0xC0)
    out = [b"\xff\xd8", segments]
    slots = []
    for c in components:
        tables = [t.tolist() for t, _ in slots]
        if c.table.tolist() not in tables:
            slots.append((c.table, len(slots)))
    slot_of = [[t.tolist() for t, _ in slots].index(c.table.tolist()) for c in components]
    for table, slot in slots:
        wide = table.max() > 255
        steps = table.reshape(64)[ZIGZAG]
        out.append(
            segment(
                0xDB,
                bytes([wide << 4 | slot]) + steps.astype(">u2" if wide else "u1").tobytes(),
            )
        )
    out.append(
        segment(
            frame,
            struct.pack(">BHHB", precision, height, width, len(components))
            + b"".join(
                bytes([i, c.horizontal << 4 | c.vertical, slot])
                for i, c, slot in zip(ids, components, slot_of, strict=False)
            ),
        )
    )
    if huffman:
        out.append(segment(0xC4, b"\x00" + DC_TABLE + b"\x10" + AC_TABLE))
    if restart:
        out.append(segment(0xDD, struct.pack(">H", restart)))
    for scan in scans:
        scan = scan if progressive else Scan(scan)
        header = bytes([len(scan.components)])
        header += b"".join(bytes([ids[i], 0x00]) for i in scan.components)
        header += bytes([scan.first, scan.last, scan.high << 4 | scan.low])
        out.append(segment(0xDA, header))
        out.append(_entropy(height, width, components, scan, restart, progressive))
    return b"".join([*out, b"\xff\xd9"])


def segment(marker, payload):
    """A marker segment: the marker, its length, its payload."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def jfif(unit=0, x=1, y=1):
    """JFIF's marker segment."""
    return segment(0xE0, b"JFIF\0\x01\x02" + struct.pack(">BHH", unit, x, y) + b"\0\0")


def adobe(transform):
    """Adobe's marker segment."""
    return segment(0xEE, b"Adobe" + bytes([0, 100, 0, 0, 0, 0, transform]))


def segments_of(data):
    """Splits a well-formed file: a list of (marker, all bytes up to the next marker)."""
    found, position = [(0xD8, data[:2])], 2
    while data[position + 1] != 0xD9:
        marker = data[position + 1]
        end = position + 2 + struct.unpack_from(">H", data, position + 2)[0]
        if marker == 0xDA:
            while not (
                data[end] == 0xFF and data[end + 1] not in b"\0\xd0\xd1\xd2\xd3\xd4\xd5\xd6\xd7"
            ):
                end += 1
        found.append((marker, data[position:end]))
        position = end
    return [*found, (0xD9, data[position : position + 2])]


def pillow(pixels, mode=None, **options):
    """A JPEG file as Pillow writes it.

    Args:
        pixels: uint8 [H, W] or [H, W, 3].
        mode: converted to this before.
        **options: of Pillow's JPEG writer.

    Returns:
        The file's bytes.
    """
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def mutate(rng, data):
    """A file with something wrong, or perhaps not: bytes changed, cut, moved, repeated."""
    out = bytearray(data)
    where = rng.integers
    header = data.index(b"\xff\xda") + 12
    kind = where(9)
    if kind == 0:  # bytes of the header
        for _ in range(where(1, 5)):
            out[where(2, header)] = where(256)
    elif kind == 1:  # bytes anywhere
        for _ in range(where(1, 16)):
            out[where(2, len(out))] = where(256)
    elif kind == 2:  # single bits
        for _ in range(where(1, 4)):
            out[where(2, len(out))] ^= 1 << where(8)
    elif kind == 3:  # truncated
        del out[where(0, len(out)) :]
    elif kind == 4:  # a piece lost, or moved, or repeated
        start = where(2, len(out))
        piece = out[start : start + where(1, 200)]
        if where(3):
            del out[start : start + len(piece)]
        if where(2):
            target = where(2, len(out) + 1)
            out[target:target] = piece
    elif kind == 5:  # segments lost, moved, repeated
        parts = [part for _, part in segments_of(data)]
        index = where(1, len(parts))
        part = parts.pop(index) if where(2) else parts[index]
        if where(2):
            parts.insert(where(1, len(parts) + 1), part)
        out = bytearray(b"".join(parts))
    elif kind == 6:  # absurd sizes
        frame = max(data.find(b"\xff\xc0\0"), data.find(b"\xff\xc2\0"))
        sides = where(0, 65536, 2) if where(2) else rng.choice([0, 1, 8, 9, 64, 65500, 65535], 2)
        out[frame + 5 : frame + 9] = struct.pack(">HH", *(int(side) for side in sides))
    elif kind == 7:  # zeros or ones: tables, or holes in the data
        start = where(2, len(out))
        size = min(int(where(1, 80)), len(out) - start)
        out[start : start + size] = bytes([rng.choice([0, 255])]) * size
    else:  # markers where there were none
        for _ in range(where(1, 4)):
            start = where(2, len(out) - 1)
            out[start : start + 2] = bytes([0xFF, where(0xC0, 0xFF)])
    return bytes(out)


def _entropy(height, width, components, scan, restart, progressive):
    """The entropy-coded data of a scan (annexes F and G), with restart markers."""
    down = max(c.vertical for c in components)
    across = max(c.horizontal for c in components)
    units = []  # lists of (component, zigzag coefficients)
    if len(scan.components) == 1:
        (i,) = scan.components
        units = [[(i, block[ZIGZAG])] for row in components[i].coefficients for block in row]
    else:
        for y in range(-(-height // (8 * down))):
            for x in range(-(-width // (8 * across))):
                unit = []
                for i in scan.components:
                    c = components[i]
                    for v in range(c.vertical):
                        for h in range(c.horizontal):
                            row, column = y * c.vertical + v, x * c.horizontal + h
                            inside = row < len(c.coefficients) and column < c.coefficients.shape[1]
                            block = c.coefficients[row, column][ZIGZAG] if inside else [0] * 64
                            unit.append((i, block))
                units.append(unit)
    step = restart or len(units)
    out = []
    for number, start in enumerate(range(0, len(units), step)):
        if number:
            out.append(bytes([0xFF, 0xD0 + (number - 1) % 8]))
        bits = _Bits()
        if not progressive:
            _sequential(bits, units[start : start + step])
        elif scan.first == 0:
            _dc(bits, units[start : start + step], scan)
        elif scan.high == 0:
            _ac_first(bits, units[start : start + step], scan)
        else:
            _ac_refine(bits, units[start : start + step], scan)
        out.append(bits.tobytes())
    return b"".join(out)


class _Bits:
    def __init__(self):
        self.text = []

    def put(self, value, size):
        if size:
            self.text.append(format(value, f"0{size}b"))

    def dc(self, symbol):
        self.put(symbol, 5)

    def ac(self, symbol):
        self.put(*((symbol, 8) if symbol < 254 else (508 + symbol - 254, 9)))

    def signed(self, value, size):
        """F.1.2.1: negative values as their one's complement."""
        self.put(value if value > 0 else value + (1 << size) - 1, size)

    def tobytes(self):
        text = "".join(self.text)
        text += "1" * (-len(text) % 8)
        raw = bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
        return raw.replace(b"\xff", b"\xff\0")


def _sequential(bits, units):
    last = {}
    for i, block in (each for unit in units for each in unit):
        difference = int(block[0]) - last.get(i, 0)
        last[i] = int(block[0])
        size = abs(difference).bit_length()
        bits.dc(size)
        bits.signed(difference, size)
        run = 0
        for value in map(int, block[1:]):
            if not value:
                run += 1
                continue
            while run > 15:
                bits.ac(0xF0)
                run -= 16
            size = abs(value).bit_length()
            bits.ac(run << 4 | size)
            bits.signed(value, size)
            run = 0
        if run:
            bits.ac(0)


def _dc(bits, units, scan):
    last = {}
    for i, block in (each for unit in units for each in unit):
        value = int(block[0]) >> scan.low  # arithmetic shift, G.1.2.1
        if scan.high:
            bits.put(value & 1, 1)
            continue
        difference = value - last.get(i, 0)
        last[i] = value
        size = abs(difference).bit_length()
        bits.dc(size)
        bits.signed(difference, size)


def _end_of_bands(bits, count):
    if count:
        size = count.bit_length() - 1
        bits.ac(size << 4)
        bits.put(count - (1 << size), size)


def _ac_first(bits, units, scan):
    ended = 0  # blocks of which nothing is left
    for ((_, block),) in units:
        run = 0
        for value in map(int, block[scan.first : scan.last + 1]):
            shifted = abs(value) >> scan.low  # towards zero, G.1.2.2
            if not shifted:
                run += 1
                continue
            _end_of_bands(bits, ended)
            ended = 0
            while run > 15:
                bits.ac(0xF0)
                run -= 16
            size = shifted.bit_length()
            bits.ac(run << 4 | size)
            bits.signed(shifted if value > 0 else -shifted, size)
            run = 0
        ended += run > 0
        if ended == 0x7FFF:
            _end_of_bands(bits, ended)
            ended = 0
    _end_of_bands(bits, ended)


def _ac_refine(bits, units, scan):
    """G.1.2.3, with each block's band ended for itself."""
    for ((_, block),) in units:
        values = [int(value) for value in block[scan.first : scan.last + 1]]
        sizes = [abs(value) >> scan.low for value in values]
        new = [k for k, size in enumerate(sizes) if size == 1]
        end = new[-1] + 1 if new else 0
        run, corrections = 0, []

        def flush(symbol, extra, pending):
            bits.ac(symbol)
            for bit in extra + pending:
                bits.put(bit, 1)

        for k in range(end):
            if sizes[k] > 1:
                corrections.append(sizes[k] & 1)
            elif sizes[k] == 1:
                flush(run << 4 | 1, [int(values[k] > 0)], corrections)
                run, corrections = 0, []
            elif run == 15:
                flush(0xF0, [], corrections)
                run, corrections = 0, []
            else:
                run += 1
        rest = [size & 1 for size in sizes[end:] if size > 1]
        if end < len(values):
            flush(0x00, [], rest)
