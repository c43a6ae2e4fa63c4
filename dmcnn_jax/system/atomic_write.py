"""Atomic writes: a file appears under its name when it is complete, or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a temporary file that replaces `path` at the end of the block.

    If the block fails, the temporary file is deleted and `path` stays as it was.

    Args:
        path: of the file to write; its folder must exist.

    Yields:
        The file, open for writing in binary.

    Raises:
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
        # mkstemp lets only the owner read; give the permissions that open() would have given.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        with _naming(path):
            os.replace(temporary, path)
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


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Makes an OSError raised in the block name `path`."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
