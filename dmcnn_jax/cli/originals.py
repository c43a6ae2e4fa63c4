"""Replaces files and keeps their originals; a kill at any moment loses nothing.

The new file is written completely under a temporary name. Then the original gets a second name, and
the new file takes the first name. A kill at any moment leaves either the old file, or the new file
and the original.
"""

import contextlib
import errno
import os
import shutil
from pathlib import Path

from dmcnn_jax.system.atomic_write import replacing


def replace_keeping_original(
    path: Path, original: Path | None, before: bytes, after: bytes, *, preserve_times: bool = False
) -> None:
    """Replaces the content of a file and keeps the original under another name.

    Owner, mode and extended attributes are kept as far as the system allows.

    Args:
        path: of the file, without links.
        original: path at which it is kept; None: it can be recovered from the new content.
        before: content of the file when it was read.
        after: new content.
        preserve_times: whether the new file gets the times of the old one.

    Raises:
        ValueError: if the file was changed since it was read, or `original` is another file.
        OSError: if something can't be written. The file and `original` are then unchanged.
    """
    state: os.stat_result | None = None
    made = False

    def prepare(temporary: str) -> None:
        nonlocal state, made
        state = path.stat()
        _copy_attributes(path, temporary, times=preserve_times)
        if path.read_bytes() != before:
            raise ValueError(_CHANGED)
        made = original is not None and keep_original(path, original, before)
        if _identity(path.stat()) != _identity(state):
            raise ValueError(_CHANGED)

    try:
        with replacing(path, prepare=prepare) as file:
            file.write(after)
    except (OSError, ValueError):
        if original and made and state is not None and os.path.samestat(path.stat(), state):
            original.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def keep_original(path: Path, original: Path, content: bytes) -> bool:
    """Gives a file a second name, which keeps the content when the first name is replaced.

    The second name is a hard link; on another disk, or without hard links, a copy. A second name
    that an interrupted run left is accepted.

    Args:
        path: of the file, without links.
        original: the second name; its folders are created.
        content: content of the file.

    Returns:
        Whether the second name is new.

    Raises:
        ValueError: if the second name belongs to another file.
        OSError: if the second name can't be created.
    """
    make_folder(original.parent)
    if os.path.lexists(original):
        if _is_kept(path, original, content):
            return False
        if not (original.is_file() and original.lstat().st_size == 0):
            raise ValueError(_TAKEN.format(original))
        original.unlink()  # an incomplete copy of an interrupted run
    try:
        try:
            os.link(path, original)
        except FileExistsError:
            raise
        except OSError:
            with replacing(
                original,
                overwrite=False,
                prepare=lambda temporary: _copy_attributes(path, temporary, times=True),
            ) as file:
                file.write(content)
    except FileExistsError:
        raise ValueError(_TAKEN.format(original)) from None
    _sync_folder(original.parent)
    return True


def put_back(path: Path, original: Path) -> None:
    """Replaces a file by its original, and removes the original's second name.

    Args:
        path: of the file, without links.
        original: a regular file.

    Raises:
        OSError: if that fails; both files are then unchanged.
    """
    if os.path.samestat(path.stat(), original.stat()):
        original.unlink()  # renaming would leave both names
        return
    try:
        os.replace(original, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise OSError(error.errno, error.strerror, str(path)) from error
        with replacing(
            path, prepare=lambda temporary: _copy_attributes(original, temporary, times=True)
        ) as file:
            file.write(original.read_bytes())
        _sync_folder(path.parent)
        original.unlink()


def make_folder(folder: Path) -> None:
    """Creates a folder and its parents, unless it exists.

    Raises:
        NotADirectoryError: if there is a file of that name.
        OSError: if it can't be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(error.errno, "a file; expected a folder", str(folder)) from None


_CHANGED = "the file was changed while it was being restored; not replaced"
_TAKEN = (
    "{} exists and is not this file's original; move it away, or choose another place with"
    " --originals"
)


def _is_kept(path: Path, original: Path, content: bytes) -> bool:
    """Returns whether a file's second name exists and keeps the content."""
    state = original.lstat()  # a link to the file itself keeps nothing
    if os.path.samestat(state, path.stat()):
        return state.st_nlink > 1  # a mounted folder can give one name two paths
    return (
        not original.is_symlink()
        and original.is_file()
        and state.st_size == len(content)
        and original.read_bytes() == content
    )


def _identity(state: os.stat_result) -> tuple[int, ...]:
    """Returns values that change when a file is replaced or written; its link count is not one."""
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def _copy_attributes(path: Path, temporary: str, *, times: bool) -> None:
    """Copies owner, mode, extended attributes and, on request, times, as far as possible."""
    state = path.stat()
    if hasattr(os, "chown"):
        for owner in ((state.st_uid, state.st_gid), (-1, state.st_gid)):
            with contextlib.suppress(OSError):
                os.chown(temporary, *owner)
                break
    shutil.copystat(path, temporary)
    if not times:
        os.utime(temporary)


def _sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to the disk, if the system supports it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
