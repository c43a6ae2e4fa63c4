"""Resolves the real paths of many files, and finds files by their paths."""

import collections
import os
from collections.abc import Iterable
from pathlib import Path

from dmcnn_jax.images.output_names import target_key


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


class KnownFiles:
    """Files that are found by any of their paths.

    Windows and macOS don't distinguish names that differ only in case, so such paths are compared
    by the files that they lead to.

    Args:
        paths: of the files.
        real_path: the resolver of their paths.
    """

    def __init__(self, paths: Iterable[Path], real_path: RealPaths) -> None:
        self._real_path = real_path
        self._paths: dict[str, list[Path]] = collections.defaultdict(list)
        for path in paths:
            self._paths[self._key(path)].append(path)

    def find(self, path: Path) -> Path | None:
        """Returns the path by which a file is known; None if it isn't."""
        for known in self._paths.get(self._key(path), ()):
            if self._real_path(known) == self._real_path(path) or _is_same(known, path):
                return known
        return None

    def _key(self, path: Path) -> str:
        return target_key(self._real_path(path))


def _is_same(path: Path, other: Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them doesn't exist
        return False
