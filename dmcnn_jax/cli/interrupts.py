"""Makes signals end a command cleanly, by a KeyboardInterrupt in the main thread."""

import contextlib
import gc
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence

from dmcnn_jax.cli.exit_signals import end_process, heeded_signals
from dmcnn_jax.cli.process import INTERRUPTED, USER_ERRORS, run_command


def run_main(
    name: str,
    body: Callable[[], int | None],
    argv: Sequence[str] | None,
    *,
    interrupted: str = "interrupted",
    errors: tuple[type[Exception], ...] = USER_ERRORS,
) -> int:
    """Runs a command's body, which a signal can end cleanly at any moment.

    Slow imports belong in the body, so that an interrupt during them shows no traceback either.

    Args:
        name: of the command.
        body: as in `run_command`; it parses the arguments too.
        argv: as passed to the command's `main`; None: the process ends after the command.
        interrupted: message after an interrupt.
        errors: types of errors that are reported as one line; others are raised.

    Returns:
        The exit status, as `run_command` does.
    """
    with signals_as_interrupt(f"{name}: {interrupted}", keep=argv is None):
        status = run_command(name, body, interrupted=interrupted, errors=errors)
    if status == INTERRUPTED and argv is None:
        # A normal exit waits for threads; JAX's interrupted search for TPUs takes a minute.
        os._exit(status)
    return status


@contextlib.contextmanager
def signals_as_interrupt(last_words: str, *, keep: bool = False) -> Iterator[None]:
    """Raises KeyboardInterrupt in the main thread on SIGINT, SIGTERM and SIGHUP in the block.

    A further signal ends the process at once, with status 130; half-written files are removed.
    Ignored signals stay ignored, so that nohup works.

    Args:
        last_words: a line for standard error if a further signal comes inside the block.
        keep: whether signals after the block end the process at once, for a process with no work
            left. Otherwise the previous handlers are restored.
    """
    handler = _RetryingInterrupt(last_words)
    previous = {number: signal.signal(number, handler) for number in heeded_signals()}
    try:
        yield
    finally:
        handler.stop()
        if not keep:
            for number, before in previous.items():
                signal.signal(number, before)


class _RetryingInterrupt:
    """A signal handler that raises KeyboardInterrupt repeatedly, until it is not dropped.

    Python drops exceptions raised inside a garbage collector callback, and JAX installs a slow one.
    NumPy prints the traceback of a KeyboardInterrupt raised during its import. A signal that
    arrives during a callback or an import is therefore sent again every 50 ms. Sending it once
    would not be enough: a signal that arrives just before the main thread starts to wait for a lock
    does not wake it.
    """

    def __init__(self, last_words: str) -> None:
        self._depth = _delaying_frames(sys._getframe())  # > 0 if an import runs the command
        self._last_words = last_words
        self._stopped = threading.Event()  # set once KeyboardInterrupt has been raised
        self._sender: threading.Thread | None = None

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        if self._stopped.is_set():
            end_process(self._last_words)
        if _delaying_frames(frame) > self._depth:
            if self._sender is None:
                self._sender = threading.Thread(target=self._resend, args=(number,), daemon=True)
                self._sender.start()
            return
        self._stopped.set()
        raise KeyboardInterrupt

    def stop(self) -> None:
        """Stops resending the signal; a further signal ends the process silently."""
        self._stopped.set()
        self._last_words = ""

    def _resend(self, number: int) -> None:
        main = threading.main_thread().ident
        assert main is not None  # it has started: this thread was started from it
        while not self._stopped.wait(0.05):
            signal.pthread_kill(main, number)


def _delaying_frames(frame: types.FrameType | None) -> int:
    """Returns how many frames, among a frame and its callers, import modules or collect garbage."""
    callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    count = 0
    while frame is not None:
        code = frame.f_code
        count += code in callbacks or code.co_filename == "<frozen importlib._bootstrap>"
        frame = frame.f_back
    return count
