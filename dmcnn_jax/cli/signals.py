"""Turns SIGTERM into a KeyboardInterrupt."""

import gc
import signal
import threading
import types


class Interrupter:
    """Handles a signal: interrupts the main thread.

    An exception that a garbage collector's callback raises is dropped, and JAX has one that takes
    its time. A signal that comes during one is sent again until it gets through: one that comes
    just before the main thread waits for something would not end the waiting.
    """

    def __init__(self):
        self._over = threading.Event()
        self._again: threading.Thread | None = None

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        """Handles the signal."""
        callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
        while frame is not None:
            if frame.f_code in callbacks:
                if self._again is None:
                    self._again = threading.Thread(target=self._send, args=(number,), daemon=True)
                    self._again.start()
                return
            frame = frame.f_back
        self.stop()
        raise KeyboardInterrupt

    def stop(self) -> None:
        """Sends nothing again."""
        self._over.set()

    def _send(self, number: int) -> None:
        while not self._over.wait(0.05):
            signal.pthread_kill(threading.main_thread().ident, number)
