"""Finds the JPEG files of a folder, and reports files that it leaves out."""

import dataclasses
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from dmcnn_jax.images.extensions import JPEG_EXTENSIONS


@dataclasses.dataclass
class Skipped:
    """Counts of files and links left out of folders.

    Attributes:
        apple_double: files of macOS's metadata beside pictures, named `._*`.
        linked_again: links to folders already visited, or to folders that contain the link.
    """

    apple_double: int = 0
    linked_again: int = 0

    def lines(self) -> list[str]:
        """Returns a line for each kind that occurred."""
        found = []
        if self.apple_double:
            found.append(
                f"skipped {_counted(self.apple_double, 'file')} named ._*: macOS keeps metadata in"
                " such files, not pictures"
            )
        if self.linked_again:
            found.append(
                f"skipped {_counted(self.linked_again, 'linked folder')} that had been visited"
                " already, or that the link itself lies in"
            )
        return found


def find_jpegs(
    folder: Path,
    output: Path | None,
    skipped: Skipped,
    extensions: Collection[str] = JPEG_EXTENSIONS,
) -> Iterator[tuple[Path, str]]:
    """Yields the JPEG files in a folder and below it.

    Linked folders are followed once: first the tree itself is visited, then folders that its links
    lead to and that were not visited yet. So a picture is found once, under the same path in every
    run, and circular links end. A link to a folder that contains the link is not followed, since it
    would lead out of the tree.

    Args:
        folder: where to look.
        output: a folder to leave out; None: no folder.
        skipped: counts what is left out; changed in place.
        extensions: of the files that are looked for, in lower case.

    Yields:
        A path, and "". If the path can't be restored, the reason: an unreadable folder, or an entry
        that is not a regular file. Files are sorted within their folder.
    """
    left_out = set() if output is None else {os.path.realpath(output)}
    visited = left_out - {os.path.realpath(folder)}
    pending = [folder]
    while pending:
        links: list[Path] = []
        for root in pending:
            real = os.path.realpath(root)
            inside = os.path.join(os.path.realpath(root.parent), "")
            if real in visited or (root != folder and inside.startswith(os.path.join(real, ""))):
                skipped.linked_again += 1
            else:
                yield from _visit(root, visited, links, skipped, extensions)
        pending = links


def find_files(folder: Path, extensions: Collection[str]) -> list[Path]:
    """Returns the regular files in a folder and below it; an unreadable folder is an error.

    Linked folders are followed as in `find_jpegs`; files of macOS's metadata are left out.

    Args:
        folder: where to look.
        extensions: of the files that are looked for, in lower case.

    Returns:
        Paths, sorted.

    Raises:
        PermissionError: if a folder can't be read, since its files would be missing silently.
    """
    paths = []
    for path, refusal in find_jpegs(folder, None, Skipped(), extensions):
        if not refusal:
            paths.append(path)
        elif path.suffix.lower() not in extensions or path.is_dir():
            raise PermissionError(f"{path}: {refusal}; make it readable, or move it elsewhere")
    return sorted(paths)


def _visit(
    folder: Path,
    visited: set[str],
    links: list[Path],
    skipped: Skipped,
    extensions: Collection[str],
) -> Iterator[tuple[Path, str]]:
    """Yields the results of `find_jpegs` for a folder and its subfolders; only collects links."""
    stack = [folder]
    while stack:
        current = stack.pop()
        real = os.path.realpath(current)
        if real in visited:
            continue
        visited.add(real)
        try:
            with os.scandir(current) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            yield current, f"this folder can't be read: {error.strerror}"
            continue
        subfolders: list[Path] = []
        for entry in entries:
            path = current / entry.name
            if _holds(entry.is_dir):
                (links if entry.is_symlink() else subfolders).append(path)
            elif path.suffix.lower() not in extensions:
                continue
            elif entry.name.startswith("._"):
                skipped.apple_double += 1
            else:
                yield path, "" if _holds(entry.is_file) else _describe_special(path)
        stack += reversed(subfolders)


def _holds(test: Callable[[], bool]) -> bool:
    """Returns the result of a test of a directory entry; False if the test fails."""
    try:
        return test()
    except OSError:  # circular links, or links into a folder that can't be searched
        return False


def _describe_special(path: Path) -> str:
    """Returns why an entry that is neither a folder nor a regular file is not restored."""
    return "a link to nothing" if os.path.islink(path) else "not a regular file"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' if number > 1 else ''}"
