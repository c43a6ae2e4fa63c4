"""Values from outside in messages: on one line, and short."""

import reprlib

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80
_REPR.maxlevel = 3


def shorten(value: object) -> str:
    """Returns a value as Python writes it, with long parts left out and control codes escaped."""
    return _REPR.repr(value)


def shorten_name(name: str) -> str:
    """Returns a name as it is, or as `shorten` if it is long or has control codes."""
    return name if name.isprintable() and len(name) <= 120 else shorten(name)
