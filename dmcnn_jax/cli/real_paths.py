"""Resolves the real paths of many files."""

import os


class RealPaths:
    """A resolver of paths like `os.path.realpath`, with one look-up per folder and per file.

    Folders must not be moved between the calls.
    """

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def __call__(self, path: str | os.PathLike[str]) -> str:
        """Returns a path without links; the file need not exist."""
        folder, name = os.path.split(path)
        if name in ("", ".", ".."):
            return os.path.realpath(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        joined = os.path.join(self._folders[folder], name)
        return os.path.realpath(joined) if os.path.islink(joined) else joined
