"""Files that are whole or the old ones: they get their names when all of them is written."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file that gets its name when all of it is written, and disappears if that fails.

    Raises:
        OSError: if it can't be written; with `path`, not with the temporary name beside it.
    """
    path = Path(path)
    with _naming(path):
        # Not made of the name, which may be as long as names can be.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".dmcnn-", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            # Else the name might reach the disk before what it names.
            os.fsync(file.fileno())
        # As a file that was opened by its name would have been.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        with _naming(path):
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_file(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file by `replacing`.

    Raises:
        OSError: if it can't be written; nothing of it is left.
    """
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise OSError(f"{str(path)!r} can't be written ({error.strerror})") from error


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
