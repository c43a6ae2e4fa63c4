"""Text for terminals."""


def printable(text: str) -> str:
    """Escapes unprintable characters: names can hold any, and messages are lines in a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
