"""An advisory lock on a workdir, so that no two commands train in it at the same time.

The operating system frees it when the process ends, however it ends. Commands that only read a
workdir don't take it.
"""

import contextlib
import errno
import os
import socket
import sys
import time
from pathlib import Path
from typing import BinaryIO

NAME = "training.lock"
"""Name of the locked file in the workdir; its text names the process that holds the lock."""

# On some network file systems, which have no locks, training continues without one.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class WorkdirInUseError(OSError):
    """A workdir in which another process trains; the message names the process."""


class WorkdirLock:
    """The lock of a workdir, held until `release`, or to the end of a `with` block.

    Args:
        workdir: the folder; it is created if it doesn't exist.

    Attributes:
        works: whether the file system supports locks.

    Raises:
        WorkdirInUseError: if another process, or this one, holds the lock.
        OSError: if nothing can be written to the workdir.
    """

    def __init__(self, workdir: Path):
        self._workdir, self._path = workdir, workdir / NAME
        self.works = True
        self._made = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            self._file = self._open_locked()
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            self._file.flush()
        except WorkdirInUseError:
            raise
        except OSError as error:
            self._remove_folders()
            raise OSError(
                f"nothing can be written to the workdir {str(workdir)!r} "
                f"({error.strerror or error}); choose another with --workdir"
            ) from error

    def release(self) -> None:
        """Frees the lock, and removes its file and the folders that it created, if empty."""
        with contextlib.suppress(OSError):
            _remove_and_close(self._file, self._path)
        self._remove_folders()

    def __enter__(self) -> "WorkdirLock":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _open_locked(self) -> BinaryIO:
        """Opens and locks the file.

        Another process may remove the file between the two; the lock is then on a file without a
        name, and a new file is created.
        """
        while True:
            # Appending keeps the text of the holder.
            file = self._path.open("ab+")
            try:
                _lock(file)
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    self.works = False
                    return file
                holder = _read_holder(file)
                file.close()
                raise WorkdirInUseError(
                    f"{holder} is training in the workdir {str(self._workdir)!r}; wait until it "
                    "ends, stop it, or choose another with --workdir"
                ) from error
            if self._is_named(file):
                return file
            file.close()

    def _is_named(self, file: BinaryIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False

    def _remove_folders(self) -> None:
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()


def _read_holder(file: BinaryIO) -> str:
    """Returns the description in a locked file; the holder may be about to write it."""
    for _ in range(10):
        file.seek(0)
        words = file.read(300).decode(errors="replace").split()
        if len(words) == 4:
            _, process, _, host = words
            elsewhere = "" if host == socket.gethostname() else f" on {host!r}"
            return f"process {process}{elsewhere}"
        time.sleep(0.05)
    return "another process"


if sys.platform == "win32":
    import msvcrt

    # A locked byte can't be read by others, so it is one behind the text.
    _LOCKED_BYTE = 1 << 20

    def _lock(file: BinaryIO) -> None:
        """Locks an open file; raises an OSError if another process has."""
        file.seek(_LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def _remove_and_close(file: BinaryIO, path: Path) -> None:
        """Frees a lock and removes its file, unless another process has opened it."""
        file.close()  # an open file can't be removed
        path.unlink()

else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        """Locks an open file; raises an OSError if another process has."""
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _remove_and_close(file: BinaryIO, path: Path) -> None:
        """Removes a locked file and frees the lock."""
        try:
            path.unlink()  # while locked, since later it may be another process's
        finally:
            file.close()
