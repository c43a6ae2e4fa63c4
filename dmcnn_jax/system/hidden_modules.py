"""Hides a module from imports for which it is optional."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def hiding(name: str) -> Iterator[None]:
    """Makes `import name` fail in the block, unless the module has been imported before.

    Args:
        name: name of the module, which the imports in the block can do without.
    """
    modules: dict[str, Any] = sys.modules
    hidden = name not in modules
    if hidden:
        modules[name] = None
    try:
        yield
    finally:
        if hidden:
            del modules[name]
