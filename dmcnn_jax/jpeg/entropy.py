"""Decodes JPEG streams to quantised coefficients, by libjpeg in a process of its own.

Entropy decoding is sequential, bit by bit, so it needs compiled code: jpeglib's libjpeg-turbo. That
code only prints its warnings, and data that ends early or is invalid causes no more than a warning.
No file may crash this process, either. So libjpeg runs in a separate process, where crashes,
endless loops and printing do no harm. The process is reused for the next file, starts in 20 ms, and
costs two copies: of the stream in memory, and of the coefficients through a pipe.
"""

import atexit
import contextlib
import importlib.util
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from dmcnn_jax.jpeg.memory_file import MemoryFile
from dmcnn_jax.system.progress import Progress, check


class EntropyError(Exception):
    """A failure of libjpeg: it gave up, crashed or took too long. The message is libjpeg's."""


def decode(
    stream: bytes,
    shapes: Sequence[tuple[int, int]],
    scans: int = 1,
    progress: Progress | None = None,
) -> tuple[list[np.ndarray], str]:
    """Decodes the quantised coefficients of a JPEG stream whose markers have been checked.

    Args:
        stream: a whole JPEG file. Its frame header must give the components the ``shapes``, by
            which memory is allocated.
        shapes: rows and columns of blocks, for each component.
        scans: the number of scans in the stream, which sets the time limit.
        progress: called with 0 a few times a second, in another thread; an exception that it raises
            ends libjpeg's process, and is raised here.

    Returns:
        int16 [rows, columns, 64] in natural order for each component, and libjpeg's first warning,
        empty if there was none. If data is missing or invalid, its coefficients are zero or
        arbitrary.

    Raises:
        EntropyError: libjpeg could not decode the stream.
        OSError: there is no space for a copy of the stream, or libjpeg's process can't be started.
    """
    global worker
    limit = _time_limit(sum(rows * columns for rows, columns in shapes), scans, len(stream))
    with _lock:
        # A worker from before a fork belongs to the parent. If a worker has died since its last
        # file, this file is not the cause.
        if worker is None or not worker.is_usable():
            worker = _Worker()
        try:
            with _ended_by(progress, worker):
                return worker.decode(stream, shapes, limit)
        except BaseException:
            worker.stop()
            worker = None
            raise


@contextlib.contextmanager
def _ended_by(progress: Progress | None, worker: "_Worker") -> Iterator[None]:
    """Ends a worker's process if a callback raises an error during the block, and raises that."""
    if progress is None:
        yield
        return
    finished = threading.Event()
    raised: list[BaseException] = []

    def watch() -> None:
        while not finished.wait(_CHECK_INTERVAL):
            try:
                check(progress)
            except BaseException as error:
                raised.append(error)
                worker.process.kill()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except EntropyError:
        if not raised:
            raise
    finally:
        finished.set()
        watcher.join()
    if raised:
        raise raised[0]


# Seconds between calls of `progress`.
_CHECK_INTERVAL = 0.2


def abandon() -> None:
    """Makes a decoding in another thread fail, because its result is no longer needed."""
    if worker is not None and worker.owner == os.getpid():
        worker.process.kill()


# The time limit in seconds: a minimum, and times per block, per block and scan, and per byte. On
# two busy cores of 2020, libjpeg and the pipe took at most 1.5 us per block, 30 ns per block in
# each nearly empty scan, and 120 ns per byte. The limit is four times that: 200 s for 196
# megapixels in 442 scans (38 s measured), 23 s for a photograph of 12 megapixels (0.3 to 1.2 s).
TIME_LIMIT = 20.0
SECONDS_PER_BLOCK, SECONDS_PER_BLOCK_AND_SCAN, SECONDS_PER_BYTE = 6e-6, 0.12e-6, 0.5e-6

# The newest libjpeg-turbo in jpeglib, which browsers' fuzzers have tested.
_LIBRARY = "cjpeglib_turbo210.*"


def _time_limit(blocks: int, scans: int, size: int) -> float:
    """Returns libjpeg's time limit, in seconds, for numbers of blocks, scans and bytes."""
    per_block = SECONDS_PER_BLOCK + SECONDS_PER_BLOCK_AND_SCAN * scans
    return TIME_LIMIT + per_block * blocks + SECONDS_PER_BYTE * size


class _Worker:
    """The decoding process, and the protocol of its pipes."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        script = Path(__file__).with_name("entropy_worker.py")
        command = [sys.executable, "-I", "-S", str(script), str(find_library(_LIBRARY))]
        self.source = MemoryFile()
        try:
            self.process = subprocess.Popen(
                [*command, self.source.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=script.parent,
                pass_fds=self.source.descriptors,
            )
        except OSError:
            self.source.close()
            raise
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.requests, self.errors = self.process.stdin, self.process.stderr
        self.replies = cast(io.BufferedReader, self.process.stdout)

    def is_usable(self) -> bool:
        """Returns whether the worker is alive and belongs to this process."""
        return self.owner == os.getpid() and self.process.poll() is None

    def decode(
        self, stream: bytes, shapes: Sequence[tuple[int, int]], limit: float
    ) -> tuple[list[np.ndarray], str]:
        """Decodes a stream in a limited time: coefficients and warning."""
        self.source.write(stream)
        blocks = [rows * columns for rows, columns in shapes]
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self.process.kill()

        timer = threading.Timer(limit, expire)
        timer.daemon = True
        timer.start()
        try:
            self.requests.write(f"{' '.join(map(str, blocks))}\n".encode())
            self.requests.flush()
            reply = self.receive_reply(shapes)
            self.source.clear()
            return reply
        except (OSError, EOFError):
            if expired.is_set():
                raise EntropyError(f"libjpeg took over {limit:.0f} s") from None
            raise EntropyError(self.last_words()) from None
        finally:
            timer.cancel()

    def receive_reply(self, shapes: Sequence[tuple[int, int]]) -> tuple[list[np.ndarray], str]:
        success = self.receive(1)[0]
        length = int.from_bytes(self.receive(4), sys.byteorder)
        message = bytes(self.receive(length)).decode(errors="replace")
        message = "; ".join(line for line in message.splitlines() if line)
        if not success:
            raise EntropyError(message or "libjpeg can't read it")
        planes = [np.empty((*shape, 64), np.int16) for shape in shapes]
        for plane in planes:
            self.receive_into(plane.data.cast("B"))
        return planes, message

    def receive(self, size: int) -> bytearray:
        buffer = bytearray(size)
        self.receive_into(memoryview(buffer))
        return buffer

    def receive_into(self, view: memoryview) -> None:
        while view.nbytes:
            count = self.replies.readinto1(view)
            if not count:
                raise EOFError
            view = view[count:]

    def last_words(self) -> str:
        """Returns why the process ended."""
        status = self.process.wait()
        if status < 0:
            return f"libjpeg crashed ({signal.Signals(-status).name})"
        said = self.errors.read().decode(errors="replace").strip().splitlines()
        return f"libjpeg's process ended with status {status}: {said[-1] if said else 'no reason'}"

    def stop(self) -> None:
        """Ends the process, unless it is the parent's."""
        if self.owner != os.getpid():
            return
        self.process.kill()
        self.process.wait()
        for pipe in (self.requests, self.replies, self.errors):
            with contextlib.suppress(OSError):  # a request may still be in the buffer
                pipe.close()
        self.source.close()


def find_library(pattern: str) -> Path:
    """Returns the path of a compiled libjpeg in jpeglib.

    Args:
        pattern: of its file's name.

    Raises:
        ImportError: if jpeglib isn't installed, or has none of that name.
    """
    package = importlib.util.find_spec("jpeglib")
    if package is not None and package.origin is not None:
        found = sorted(Path(package.origin).parent.glob(f"cjpeglib/{pattern}"))
        if found:
            return found[0]
    raise ImportError(
        f"JPEG files need jpeglib with {pattern}; install it with `pip install jpeglib`"
    )


_lock = threading.Lock()
worker: _Worker | None = None


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    # In a forked process, the thread that would release it does not exist.
    os.register_at_fork(after_in_child=_renew_lock)


@atexit.register
def _stop() -> None:
    if worker is not None:
        worker.stop()
