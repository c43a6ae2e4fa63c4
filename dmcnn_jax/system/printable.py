"""Text for terminals."""


def printable(text: str) -> str:
    """Escapes unprintable characters, since names can hold any and terminals interpret them."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
