"""The start and the end of every command: its parser, its process, its errors and exit status.

Importing this module is cheap: JAX is first imported by `prepare_process`.
"""

import argparse
import contextlib
import logging
import os
import select
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import NoReturn

from dmcnn_jax.system.messages import first_line
from dmcnn_jax.system.printable import printable
from dmcnn_jax.version import __version__

OK, FAILED, USAGE, INTERRUPTED, UNREAD = 0, 1, 2, 130, 141
"""Exit statuses. Shells report 130 for a program that Ctrl-C ended, and 141 for one whose output is
no longer read, as after `| head`."""

USER_ERRORS = (ValueError, OSError, ImportError, RuntimeError, FloatingPointError)
"""Errors that a user can resolve; any other error is a bug, and keeps its traceback."""


_OUTPUT = "standard output"


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the list of options and control characters."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Exits, even if the reader of a help text or version has gone."""
        with ending_unread():
            super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        """Exits with status 2."""
        self.exit(USAGE, printable(f"{self.prog}: {message}; see {self.prog} --help") + "\n")


class UsageError(ValueError):
    """A mistake in the arguments, out of range or contradictory: exit status 2."""


def command_parser(
    prog: str | None, description: str | None, examples: str = "", *, name: str = "%(prog)s"
) -> argparse.ArgumentParser:
    """Returns a parser that keeps the line breaks of its texts and supports --version.

    A mistake in the arguments is one line and exit status 2.

    Args:
        prog: name of the command; None takes the name of the script.
        description: what the command does.
        examples: shown below the options.
        name: what --version calls the command.
    """
    parser = _Parser(
        prog=prog,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{name} {__version__}")
    return parser


def prepare_process() -> None:
    """Tunes memory allocation and enables JAX's compilation cache, before anything is compiled."""
    from dmcnn_jax.system.compile_cache import enable_compilation_cache
    from dmcnn_jax.system.malloc import tune_malloc

    tune_malloc()
    enable_compilation_cache()


def silence_pillow() -> None:
    """Suppresses the lines that Pillow prints about files; its errors are still raised."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())


def run_command(
    name: str,
    body: Callable[[], int | None],
    *,
    interrupted: str = "interrupted",
    errors: tuple[type[Exception], ...] = USER_ERRORS,
) -> int:
    """Runs a command's body; an error becomes one line on standard error.

    Args:
        name: name of the command, with which the line begins.
        body: the work; it returns an exit status, or None for 0.
        interrupted: message after an interrupt that carries none.
        errors: types of errors that are reported as one line; others are raised.

    Returns:
        The exit status: that of the body, 1 for an error, 2 for a `UsageError`, 130 for an
        interrupt; 141, without a line, if the reader of standard output has gone.
    """
    silence_pillow()
    try:
        status = body() or OK
        if sys.stdout is not None and not sys.stdout.closed:
            with naming_output():
                sys.stdout.flush()
        return status
    except KeyboardInterrupt as error:
        say(name, str(error) or interrupted)
        return INTERRUPTED
    except errors as error:
        if isinstance(error, BrokenPipeError) and _is_unread(error):
            _discard_output()
            return UNREAD
        say(name, first_line(error))
        return USAGE if isinstance(error, UsageError) else FAILED


@contextlib.contextmanager
def naming_output() -> Iterator[None]:
    """Makes an OSError from writing to standard output in the block name it.

    The remaining output is discarded; otherwise Python would write it at exit, and print a
    traceback.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        _discard_output()
        raise OSError(error.errno, error.strerror, _OUTPUT) from error


@contextlib.contextmanager
def ending_unread() -> Iterator[None]:
    """Ends the process silently if the reader of the block's output has gone.

    The exit status is 141.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None and not sys.stdout.closed:
                sys.stdout.flush()
    except BrokenPipeError as error:
        if not _is_unread(error):
            raise
        _discard_output()
        sys.exit(UNREAD)


def _is_unread(error: BrokenPipeError) -> bool:
    """Returns whether the broken pipe is standard output, not a pipe to another process."""
    if error.filename == _OUTPUT:
        return True
    try:
        output = select.poll()
        output.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in output.poll(0))
    except (AttributeError, OSError, ValueError):  # no poll on Windows; not a file in tests
        return False


def _discard_output() -> None:
    """Discards all further output to standard output."""
    with contextlib.suppress(OSError, ValueError):  # it may not be a file, as in tests
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def say(name: str, text: str) -> None:
    """Prints a line to standard error, with the name of the command before it.

    Control characters are escaped.
    """
    print(f"{name}: {printable(text)}", file=sys.stderr, flush=True)
