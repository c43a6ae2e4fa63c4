"""Entropy decoding by libjpeg, in a process of its own. Run by path, not imported.

For each line on standard input (numbers of blocks of each component, name of a file in the working
directory) one reply goes to standard output: a byte that is 1 on success, the length of what
libjpeg said and its text, and on success the coefficients, int16 [blocks, 64] a component.
Ends when standard input does.
"""

import ctypes
import os
import signal
import sys


def main(library):
    """Serves until standard input ends.

    Args:
        library: path of jpeglib's compiled libjpeg.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    read = ctypes.CDLL(library).read_jpeg_dct
    # libjpeg's warnings go to standard error, and nowhere else. Python's go where it was.
    sys.stderr = os.fdopen(os.dup(2), "w")
    messages, standard_error = os.pipe()
    os.dup2(standard_error, 2)
    for line in sys.stdin.buffer:
        *sizes, path = line.split()
        planes = [(ctypes.c_short * (64 * int(size)))() for size in sizes]
        tables = (ctypes.c_ushort * 256)()
        slots = (ctypes.c_short * 4)()
        arguments = planes + [None] * (4 - len(planes))
        success = read(ctypes.c_char_p(path), *arguments, tables, slots)
        text = drain(messages)
        output = sys.stdout.buffer
        output.write(bytes((success,)) + len(text).to_bytes(4, sys.byteorder) + text)
        if success:
            for plane in planes:
                output.write(memoryview(plane).cast("B"))
        output.flush()
        del planes, arguments


def drain(messages):
    """What has gone to standard error since the last call."""
    os.write(2, b"\0")
    text = b""
    while not text.endswith(b"\0"):
        text += os.read(messages, 65536)
    return text[:-1]


if __name__ == "__main__":
    main(sys.argv[1])
