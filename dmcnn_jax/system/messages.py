"""Shortens values and errors for messages, to one line."""

import reprlib

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80
_REPR.maxlevel = 3


def shorten(value: object) -> str:
    """Returns the repr of a value, with long parts left out and control codes escaped."""
    return _REPR.repr(value)


def shorten_name(name: str) -> str:
    """Returns a name unchanged, or by `shorten` if it is long or has control codes."""
    return name if name.isprintable() and len(name) <= 120 else shorten(name)


def first_line(error: BaseException) -> str:
    """Returns the message of an error on one line, with options named as on the command line."""
    # Errors of this package's imports and writes have their own text and no errno.
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    # `str` of a KeyError puts quotes around its text.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = " ".join(text.split())
    for argument, option in _OPTIONS.items():
        text = text.replace(argument, option)
    return text or type(error).__name__


# Arguments that the library's messages name, and the command-line options that set them.
_OPTIONS = {"allow_truncated=True": "--allow-truncated", "max_pixels": "--max-pixels"}
