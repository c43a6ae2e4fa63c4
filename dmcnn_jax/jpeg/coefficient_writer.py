"""Writes quantised coefficients as a JPEG stream; libjpeg does the entropy coding.

jpeglib's libjpeg codes the scans, with optimised Huffman tables, in a separate process, because
libjpeg ends its process when it fails. The frame header, quantisation tables and component numbers
are written here, so that the components of any JPEG file can be written, even those that jpeglib
has no names for.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dmcnn_jax.jpeg import entropy
from dmcnn_jax.jpeg import marker_codes as codes
from dmcnn_jax.jpeg.file_layout import divide
from dmcnn_jax.jpeg.memory_file import MemoryFile
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.jpeg.tables import ZIGZAG

MAX_BASELINE_STEP = 255
"""The largest quantisation step in a baseline file, whose tables have 8 bits."""

MAX_MAGNITUDE = 1023
"""The largest magnitude of an AC coefficient in a file of 8 bits per sample (T.81, table F.2)."""

MAX_DIFFERENCE = 2047
"""The largest difference of DC coefficients of successive blocks in such a file (table F.1)."""


def write_coefficients(
    components: Sequence[Component], height: int, width: int, *, progressive: bool = False
) -> bytes:
    """Writes coefficients as a JPEG stream without application segments.

    Args:
        components: one, three or four, with numbers, coefficients, tables and sampling factors.
            Blocks that pad interleaved units are added.
        height: of the picture, pixels.
        width: of the picture, pixels.
        progressive: whether the scans are progressive, in the order for which mozjpeg finds the
            smallest size; otherwise they are sequential.

    Returns:
        A JPEG stream: baseline if it is sequential and no step exceeds 255.

    Raises:
        ValueError: if a coefficient is larger than the format allows, or libjpeg fails.
    """
    for component in components:
        largest = int(np.abs(component.coefficients[..., 1:].astype(np.int32)).max(initial=0))
        if largest > MAX_MAGNITUDE:
            raise ValueError(
                f"a coefficient of {largest}; JPEG files of 8 bits a sample hold up to"
                f" {MAX_MAGNITUDE}"
            )
    if _fits_one_scan(components):
        groups, sizes = [list(components)], [(height, width)]
    else:
        groups, sizes = [[c] for c in components], [(c.height, c.width) for c in components]
    scans = [
        part
        for group, size in zip(groups, sizes, strict=True)
        for part in _code_scans(group, *size, progressive=progressive)
    ]
    tables = _number_tables(components)
    return b"".join(
        [
            b"\xff\xd8",
            *(
                codes.write_segment(codes.DQT, _table_payload(slot, table))
                for table, slot in tables.items()
            ),
            _frame_header(components, height, width, tables, progressive=progressive),
            *scans,
            b"\xff\xd9",
        ]
    )


# Blocks that libjpeg can interleave in one unit (T.81, B.2.3, allows 10).
_MAX_UNIT = 10

_SEQUENTIAL, _PROGRESSIVE = "cjpeglib_turbo210.*", "cjpeglib_mozjpeg403.*"


def _fits_one_scan(components: Sequence[Component]) -> bool:
    """Returns whether libjpeg can code the components together."""
    blocks = sum(c.vertical * c.horizontal for c in components)
    return len(components) == 1 or (len(components) == 3 and blocks <= _MAX_UNIT)


def _code_scans(
    components: Sequence[Component], height: int, width: int, *, progressive: bool
) -> Iterator[bytes]:
    """Yields the Huffman tables and scans of components, in the order of a file.

    Args:
        components: one, or three that are interleaved.
        height: of the picture, pixels.
        width: of the picture, pixels.
        progressive: as in `write_coefficients`.
    """
    numbers = bytes(c.id for c in components)
    alone = len(components) == 1
    header = {
        "size": (height, width),
        "blocks": [c.coefficients.shape[:2] for c in components],
        "factors": [(1, 1) if alone else (c.vertical, c.horizontal) for c in components],
    }
    planes = [np.ascontiguousarray(c.coefficients, np.int16).data.cast("B") for c in components]
    stream = _run_libjpeg(b"".join([json.dumps(header).encode(), b"\n", *planes]), progressive)
    for piece in divide(stream):
        content = stream[piece.start : piece.end]
        if piece.marker == codes.SOS:
            selected = bytearray(content)
            for index in range(content[4]):
                # libjpeg counts components from 1.
                selected[5 + 2 * index] = numbers[content[5 + 2 * index] - 1]
            yield bytes(selected)
        elif piece.marker == codes.DHT or piece.kind == "data":
            yield content


def _run_libjpeg(request: bytes, progressive: bool) -> bytes:
    """Returns the JPEG stream that libjpeg writes for a request to `coefficient_writer_process`.

    Raises:
        ValueError: if it fails.
        OSError: if the process can't be started.
        ImportError: if jpeglib isn't installed.
    """
    libraries = [entropy.find_library(_SEQUENTIAL)]
    if progressive:
        libraries.append(entropy.find_library(_PROGRESSIVE))
    files = [MemoryFile() for _ in libraries]
    script = Path(__file__).with_name("coefficient_writer_process.py")
    command = [sys.executable, "-I", "-S", str(script)]
    for library, file in zip(libraries, files, strict=True):
        command += [str(library), file.path]
    limit = entropy.TIME_LIMIT + entropy.SECONDS_PER_BYTE * len(request)
    try:
        done = subprocess.run(
            command,
            input=request,
            capture_output=True,
            timeout=limit,
            check=False,
            pass_fds=[d for file in files for d in file.descriptors],
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            reason = said[-1] if said else f"its process ended with status {done.returncode}"
            raise ValueError(f"libjpeg can't write the coefficients: {reason}")
        return files[-1].read()
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"libjpeg can't write the coefficients: it took over {limit:.0f} s"
        ) from None
    finally:
        for file in files:
            file.close()


def _number_tables(components: Sequence[Component]) -> dict[bytes, int]:
    """Returns the slots of the tables; keys are their entries in zigzag order, uint16 as bytes."""
    tables: dict[bytes, int] = {}
    for component in components:
        tables.setdefault(_entries(component), len(tables))
    return tables


def _entries(component: Component) -> bytes:
    return component.table.reshape(64)[ZIGZAG].astype(">u2").tobytes()


def _table_payload(slot: int, entries: bytes) -> bytes:
    """Returns the payload of a DQT segment; entries have 8 bits if these suffice (B.2.4.1)."""
    if any(entries[::2]):
        return bytes((0x10 | slot,)) + entries
    return bytes((slot,)) + entries[1::2]


def _frame_header(
    components: Sequence[Component],
    height: int,
    width: int,
    tables: dict[bytes, int],
    *,
    progressive: bool,
) -> bytes:
    """Returns a frame header (T.81, B.2.2)."""
    wide = max(int(c.table.max()) for c in components) > MAX_BASELINE_STEP
    marker = codes.EXTENDED_SEQUENTIAL if wide else codes.BASELINE
    payload = b"\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big")
    payload += bytes((len(components),))
    for c in components:
        payload += bytes((c.id, c.horizontal << 4 | c.vertical, tables[_entries(c)]))
    return codes.write_segment(codes.PROGRESSIVE if progressive else marker, payload)
