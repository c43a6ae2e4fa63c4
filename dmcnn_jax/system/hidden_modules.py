"""Imports that do without a module that they would import as well."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def hiding(name: str) -> Iterator[None]:
    """Makes `import name` fail in the block, unless the module has been imported before.

    Args:
        name: of a module that what is imported in the block can do without.
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
