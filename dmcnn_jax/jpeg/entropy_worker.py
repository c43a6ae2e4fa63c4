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
        answer(read, path, [int(size) for size in sizes], messages)


def answer(read, path, sizes, messages):
    """Decodes one file and writes the reply."""
    planes = [(ctypes.c_short * (64 * size))() for size in sizes]
    tables, slots = (ctypes.c_ushort * 256)(), (ctypes.c_short * 4)()
    success = read(ctypes.c_char_p(path), *planes, *[None] * (4 - len(planes)), tables, slots)
    text = drain(messages)
    output = sys.stdout.buffer
    output.write(bytes((success,)) + len(text).to_bytes(4, sys.byteorder) + text)
    if success:
        while planes:  # each is freed as soon as it is sent
            output.write(memoryview(planes.pop(0)).cast("B"))
    output.flush()


def drain(messages):
    """What has gone to standard error since the last call."""
    os.write(2, b"\0")
    text = b""
    while not text.endswith(b"\0"):
        text += os.read(messages, 65536)
    return text[:-1]


if __name__ == "__main__":
    main(sys.argv[1])
