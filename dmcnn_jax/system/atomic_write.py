"""Atomic writes: a file appears under its name when it is complete, or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO


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
        path: of the file to write; its folder must exist.
        overwrite: whether a file of this name is replaced, also one that appears in the meantime.
        prepare: called with the path of the temporary file, when it is complete and before it is
            renamed; if it raises an error, the file is not replaced. It has to set the permissions,
            since at first only the owner may read. None: they are those that open() would give.

    Yields:
        The file, open for writing in binary.

    Raises:
        FileExistsError: at the end of the block, if there is such a file and it must stay.
        OSError: if it can't be written; it names `path`, not the temporary file beside it.
    """
    path = Path(path)
    with _naming(path):
        # The temporary name is not derived from `path`, which may be as long as names can be.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".dmcnn-", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            # Otherwise the new name could reach the disk before the content does.
            os.fsync(file.fileno())
        if prepare is None:
            _open_to_others(temporary)
        else:
            prepare(temporary)
        with _naming(path):
            if overwrite:
                os.replace(temporary, path)
            else:
                _rename_to_free(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file atomically.

    Raises:
        OSError: if it can't be written; nothing of it is left behind.
    """
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise OSError(f"{str(path)!r} can't be written ({error.strerror})") from error


def _open_to_others(temporary: str) -> None:
    """Gives a file that mkstemp made the permissions that open() would have given."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(temporary, 0o666 & ~mask)


def _rename_to_free(temporary: str, path: Path) -> None:
    """Renames a file to a name that no other process can take at the same time.

    Raises:
        FileExistsError: if the name is taken.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # file systems without hard links, such as FAT
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(temporary, path)
    else:
        os.unlink(temporary)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Makes an OSError raised in the block name `path`."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
