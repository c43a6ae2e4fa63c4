"""Signals at the start and the end of a process, in a module that imports quickly."""

import os
import signal
import sys

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
"""The signals that end a command; Windows has no SIGHUP."""


def exit_on_signals(last_words: str) -> None:
    """Makes SIGINT, SIGTERM and SIGHUP end the process at once, with status 130.

    Half-written files are removed. Ignored signals stay ignored, so that nohup works.

    Args:
        last_words: a line for standard error.
    """
    for number in heeded_signals():
        signal.signal(number, lambda *_: end_process(last_words))


def heeded_signals() -> list[int]:
    """Returns the signals that end a command and are not ignored."""
    return [n for n in SIGNALS if signal.getsignal(n) not in (signal.SIG_IGN, None)]


def end_process(last_words: str) -> None:
    """Removes half-written files, and ends the process with status 130.

    Args:
        last_words: a line for standard error; "": none.
    """
    # A process that writes files has imported this module.
    if (partial := sys.modules.get("dmcnn_jax.system.partial_files")) is not None:
        getattr(partial, "remove_open", int)()  # absent while it is being imported
    if last_words:
        os.write(2, f"\n{last_words}\n".encode())  # the signal may have interrupted a `print`
    os._exit(130)  # `cli.process.INTERRUPTED`, which takes longer to import
