"""The process in which libjpeg decodes. Run by path, not imported.

Each line on standard input requests the coefficients of the JPEG stream that is now in the source
file, and gives the number of blocks of each component. The reply on standard output is a byte that
is 1 on success, the length and text of libjpeg's messages, and on success the coefficients, int16
[blocks, 64] for each component. The process ends when standard input does, even in the middle of a
file, since then its client has ended.
"""

import ctypes
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable


def main(library: str, source: str) -> None:
    """Answers requests until standard input ends.

    Args:
        library: the path of jpeglib's compiled libjpeg.
        source: the path of the file that the client writes each stream to.
    """
    # Ignored, since a terminal or a service manager signals the client too, which ends this
    # process.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    read = ctypes.CDLL(library).read_jpeg_dct
    # libjpeg prints its warnings to standard error, which becomes a pipe to this process. Python's
    # own messages go to the former standard error.
    sys.stderr = os.fdopen(os.dup(2), "w")
    messages, standard_error = os.pipe()
    os.dup2(standard_error, 2)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=receive, args=[requests], daemon=True).start()
    while True:
        sizes = [int(size) for size in requests.get().split()]
        answer(read, os.fsencode(source), sizes, messages)


def receive(requests: "queue.SimpleQueue[bytes]") -> None:
    """Queues requests, and ends the process when its client ends."""
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)


def answer(read: Callable[..., int], path: bytes, sizes: list[int], messages: int) -> None:
    """Decodes one file and writes the reply."""
    planes = [(ctypes.c_short * (64 * size))() for size in sizes]
    tables, slots = (ctypes.c_ushort * 256)(), (ctypes.c_short * 4)()
    success = read(ctypes.c_char_p(path), *planes, *[None] * (4 - len(planes)), tables, slots)
    text = drain(messages)
    output = sys.stdout.buffer
    output.write(bytes((success,)) + len(text).to_bytes(4, sys.byteorder) + text)
    if success:
        while planes:  # each array is freed as soon as it is sent
            output.write(memoryview(planes.pop(0)).cast("B"))
    output.flush()


def drain(messages: int) -> bytes:
    """Returns what libjpeg has printed since the last call."""
    os.write(2, b"\0")
    text = b""
    while not text.endswith(b"\0"):
        text += os.read(messages, 65536)
    return text[:-1]


if __name__ == "__main__":
    main(*sys.argv[1:])
