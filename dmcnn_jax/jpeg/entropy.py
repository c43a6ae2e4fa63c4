"""From a JPEG stream to its quantised coefficients, by libjpeg at arm's length.

Entropy decoding is sequential and bit by bit, so it takes compiled code: jpeglib's libjpeg-turbo.
That code has no way to report warnings but to print them, and data that ends early or makes no
sense is a warning to it. And whatever is in a file, it must not take this process down. So it runs
in a process of its own, which is kept for the next file, where crashes, endless loops and printing
do no harm. It starts in 20 ms, and costs a copy of the coefficients through a pipe.
"""

import atexit
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np


class EntropyError(Exception):
    """libjpeg gave up, crashed or took too long. The message is what it said."""


def decode(
    stream: bytes, shapes: Sequence[tuple[int, int]], scans: int = 1
) -> tuple[list[np.ndarray], str]:
    """Quantised coefficients of a JPEG stream whose markers have been checked.

    Args:
        stream: a whole JPEG file. Its frame header must give the components the ``shapes``, since
            memory is set aside by them.
        shapes: rows and columns of blocks, for each component.
        scans: in the stream; what time it is given depends on it.

    Returns:
        int16 [rows, columns, 64] in natural order for each component, and the first warning that
        libjpeg had, empty if none. Where data is missing or makes no sense, coefficients are zero
        or arbitrary.

    Raises:
        EntropyError: there are no coefficients to be had.
    """
    global _worker
    handle, path = tempfile.mkstemp(suffix=".jpg", prefix="dmcnn-")
    try:
        with open(handle, "wb") as file:
            file.write(stream)
        with _lock:
            directory = os.path.dirname(path)
            # One from before a fork is the parent's, one elsewhere would not find the file, and one
            # that has died since the last file has nothing to do with this one.
            if _worker is None or not _worker.serves(directory):
                _worker = _Worker(directory)
            try:
                return _worker.decode(os.path.basename(path), shapes, scans)
            except BaseException:
                _worker.stop()
                _worker = None
                raise
    finally:
        os.unlink(path)


# What a decoder on a slow and busy machine may take: at first, and for each block in each scan.
# Two cores of 2020 take 0.3 microseconds.
_PATIENCE, _PATIENCE_PER_BLOCK = 60.0, 20e-6

# The newest libjpeg-turbo in jpeglib: the one that browsers' fuzzers have been at.
_LIBRARY = "cjpeglib_turbo210.*"


class _Worker:
    """The process, and the conversation with it."""

    def __init__(self, directory):
        self.directory = directory
        self.owner = os.getpid()
        script = Path(__file__).with_name("entropy_worker.py")
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script), str(_find_library())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=directory,
        )

    def serves(self, directory):
        mine = (self.owner, self.directory) == (os.getpid(), directory)
        return mine and self.process.poll() is None

    def decode(self, path, shapes, scans):
        blocks = [rows * columns for rows, columns in shapes]
        patience = _PATIENCE + _PATIENCE_PER_BLOCK * sum(blocks) * scans
        expired = threading.Event()

        def expire():
            expired.set()
            self.process.kill()

        timer = threading.Timer(patience, expire)
        timer.daemon = True
        timer.start()
        try:
            self.process.stdin.write(f"{' '.join(map(str, blocks))} {path}\n".encode())
            self.process.stdin.flush()
            success = self.receive(1)[0]
            length = int.from_bytes(self.receive(4), sys.byteorder)
            message = bytes(self.receive(length)).decode(errors="replace")
            message = "; ".join(line for line in message.splitlines() if line)
            if not success:
                raise EntropyError(message or "libjpeg can't read it")
            planes = [np.empty((*shape, 64), np.int16) for shape in shapes]
            for plane in planes:
                self.receive_into(memoryview(plane).cast("B"))
            return planes, message
        except (OSError, EOFError):
            if expired.is_set():
                raise EntropyError(f"libjpeg took over {patience:.0f} s") from None
            raise EntropyError(self.last_words()) from None
        finally:
            timer.cancel()

    def receive(self, size):
        buffer = bytearray(size)
        self.receive_into(memoryview(buffer))
        return buffer

    def receive_into(self, view):
        while view.nbytes:
            count = self.process.stdout.readinto1(view)
            if not count:
                raise EOFError
            view = view[count:]

    def last_words(self):
        status = self.process.wait()
        if status < 0:
            return f"libjpeg crashed ({signal.Signals(-status).name})"
        said = self.process.stderr.read().decode(errors="replace").strip().splitlines()
        return f"libjpeg's process ended with status {status}: {said[-1] if said else 'no reason'}"

    def stop(self):
        if self.owner != os.getpid():
            return
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):  # a request may still be in the buffer
                pipe.close()


def _find_library():
    package = importlib.util.find_spec("jpeglib")
    if package is not None:
        found = sorted(Path(package.origin).parent.glob(f"cjpeglib/{_LIBRARY}"))
        if found:
            return found[0]
    raise ImportError(
        f"reading JPEG files needs jpeglib with {_LIBRARY}; install it with `pip install jpeglib`"
    )


_lock = threading.Lock()
_worker: _Worker | None = None


def _renew_lock():
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    # In a forked process nobody is left to release it.
    os.register_at_fork(after_in_child=_renew_lock)


@atexit.register
def _stop():
    if _worker is not None:
        _worker.stop()
