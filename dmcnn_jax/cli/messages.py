"""What commands print: errors as one line each."""

import sys


class UsageError(ValueError):
    """A command that makes no sense."""


def first_line(error: BaseException) -> str:
    """Returns what an error says as one line."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    text = " ".join(str(error).split())
    for name, option in _OPTIONS.items():
        text = text.replace(name, option)
    return text or type(error).__name__


# What messages of the library call arguments, and the command options.
_OPTIONS = {"allow_truncated=True": "--allow-truncated", "max_pixels": "--max-pixels"}


def say(text: str) -> None:
    """Prints a line to standard error, with the name of the command."""
    print(f"dmcnn-restore: {text}", file=sys.stderr)
