"""Atomic writes: a file appears under its name only when it is complete."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from dmcnn_jax.system.partial_files import partial_file


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = True,
    prepare: Callable[[str], None] | None = None,
) -> Iterator[BinaryIO]:
    """Opens a temporary file that replaces `path` at the end of the block.

    If the block fails, the temporary file is deleted and `path` stays as it was.

    Args:
        path: path of the file to write; its folder must exist.
        overwrite: whether a file of this name is replaced, even one that appears in the meantime.
        prepare: called with the path of the complete temporary file before it is renamed; if it
            raises an error, the file is not replaced. It has to set the permissions, since at first
            only the owner may read the file. None: the permissions are those that open() would set.

    Yields:
        The file, open for writing in binary.

    Raises:
        FileExistsError: at the end of the block, if the file exists and may not be replaced.
        OSError: if it can't be written; it names `path`, not the temporary file beside it.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        with naming_errors(path):
            # The temporary name is not derived from `path`, which may be as long as names can be.
            mode = 0o666 if prepare is None else 0o600
            temporary, handle = stack.enter_context(partial_file(path.parent, mode))
        with naming_errors(path, nameless_only=True), os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            # Without fsync, the new name could reach the disk before the content.
            os.fsync(file.fileno())
        if prepare is not None:
            prepare(str(temporary))
        with naming_errors(path):
            if overwrite:
                os.replace(temporary, path)
            else:
                _rename_to_free(temporary, path)


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file atomically.

    Raises:
        OSError: if it can't be written; no part of it is left behind.
    """
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise OSError(f"{str(path)!r} can't be written ({error.strerror})") from error


def _rename_to_free(temporary: Path, path: Path) -> None:
    """Renames a file, unless the new name is taken, even by another process at the same time.

    Raises:
        FileExistsError: if the name is taken.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # file systems without hard links, such as FAT
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.replace(temporary, path)
        except OSError:
            os.unlink(path)
            raise


@contextlib.contextmanager
def naming_errors(path: str | os.PathLike[str], *, nameless_only: bool = False) -> Iterator[None]:
    """Makes the system's OSErrors in the block name `path`.

    Args:
        path: path of the file being written.
        nameless_only: whether errors that already name a file are left unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or (nameless_only and error.filename is not None):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
