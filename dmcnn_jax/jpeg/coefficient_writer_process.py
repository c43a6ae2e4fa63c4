"""The process in which libjpeg codes coefficients. Run by path, not imported.

Arguments are pairs of a compiled library of jpeglib and the file that it writes. The first library
writes the coefficients from standard input to a sequential file; the second, mozjpeg's, converts
that file to a progressive one. Standard input holds a line of JSON, {"size": [height, width],
"blocks": [[rows, columns], ...], "factors": [[vertical, horizontal], ...]}, and then the
coefficients of each component, int16 [rows, columns, 64] in natural order. Exit status 0: the files
are written.
"""

import ctypes
import json
import os
import sys
from typing import Any


def main(arguments: list[str]) -> int:
    """Writes the coefficients on standard input, and returns the exit status."""
    header = json.loads(sys.stdin.buffer.readline())
    planes = []
    for rows, columns in header["blocks"]:
        content = sys.stdin.buffer.read(128 * rows * columns)
        planes.append((ctypes.c_short * (64 * rows * columns)).from_buffer_copy(content))
    source = None
    for library, target in zip(arguments[::2], arguments[1::2], strict=True):
        if not write(library, source, target, header, planes):
            return 1
        source = target
    return 0


def write(
    library: str,
    source: str | None,
    target: str,
    header: dict[str, Any],
    planes: list[ctypes.Array[ctypes.c_short]],
) -> bool:
    """Calls jpeglib's `write_jpeg_dct`; returns whether it succeeded.

    Args:
        library: the path of jpeglib's compiled libjpeg.
        source: a file whose parameters it copies; None for the library's defaults.
        target: the file that it writes.
        header: the line of JSON on standard input.
        planes: the components' coefficients.
    """
    write_jpeg_dct = ctypes.CDLL(library).write_jpeg_dct
    count = len(planes)
    blocks = [number for shape in header["blocks"] for number in shape]
    factors = [number for pair in header["factors"] for number in pair]
    overwrite, values = ctypes.c_uint(_OPTIMIZE_CODING), ctypes.c_uint(0xFFFFFFFF)
    return bool(
        write_jpeg_dct(
            None if source is None else ctypes.c_char_p(os.fsencode(source)),
            ctypes.c_char_p(os.fsencode(target)),
            *planes,
            *[None] * (4 - count),
            (ctypes.c_int * 2)(*header["size"]),
            (ctypes.c_int * (2 * count))(*blocks),
            (ctypes.c_int * (2 * count))(*factors),
            _GRAY if count == 1 else _YCBCR,
            count,
            None,  # quantisation tables don't change how coefficients are coded
            ctypes.c_short(-1),
            None,
            0,
            None,
            None,
            None,
            overwrite,
            values,
        )
    )


# libjpeg's colour spaces, and jpeglib's bit for Huffman tables made for the file.
_GRAY, _YCBCR = 1, 3
_OPTIMIZE_CODING = 1 << 6


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
