"""Makes SIGTERM end a command as Ctrl-C does: by a KeyboardInterrupt in the main thread."""

import contextlib
import gc
import signal
import threading
import types
from collections.abc import Iterator


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Raises KeyboardInterrupt on SIGTERM inside the block; for the main thread.

    The previous handler is restored at the end.
    """
    handler = _RetryingInterrupt()
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        handler.stop()
        signal.signal(signal.SIGTERM, previous)


class _RetryingInterrupt:
    """A signal handler that raises KeyboardInterrupt, again and again until it is not dropped.

    Python drops exceptions raised inside a garbage collector callback, and JAX installs a slow one.
    A signal that arrives during a callback is therefore sent again every 50 ms. Sending it once
    would not be enough: a signal that arrives just before the main thread starts to wait for a lock
    does not wake it.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._sender: threading.Thread | None = None

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
        while frame is not None:
            if frame.f_code in callbacks:
                if self._sender is None:
                    self._sender = threading.Thread(target=self._resend, args=(number,))
                    self._sender.daemon = True
                    self._sender.start()
                return
            frame = frame.f_back
        self.stop()
        raise KeyboardInterrupt

    def stop(self) -> None:
        """Stops sending the signal again."""
        self._stopped.set()

    def _resend(self, number: int) -> None:
        main = threading.main_thread().ident
        assert main is not None  # it has started: this thread was started from it
        while not self._stopped.wait(0.05):
            signal.pthread_kill(main, number)
