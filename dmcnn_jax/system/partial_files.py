"""Incomplete files and folders, and the removal of those that killed processes left.

A name such as `.dmcnn-<host>-<boot>-<random>.partial` identifies the machine that writes the file.
The writing process holds a lock, which ends with the process. A file that is not locked is left
over; the next process that writes to the same folder removes it. Without locks (on Windows and some
network file systems), nothing is removed.
"""

import contextlib
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    _has_locks = False
else:
    _has_locks = True


@contextlib.contextmanager
def partial_file(folder: Path, mode: int = 0o666) -> Iterator[tuple[Path, int]]:
    """Creates a file in a folder; removes it at the end of the block if it still exists.

    Args:
        folder: must exist.
        mode: permissions, before the umask is applied.

    Yields:
        Its path, and its descriptor, open for reading and writing, which the caller closes.

    Raises:
        OSError: if it can't be created.
    """
    # The system applies the umask, as to every new file.
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with _partial(folder, lambda path: os.open(path, flags, mode)) as (path, handle):
        yield path, handle


@contextlib.contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """Creates a folder in a folder; removes it with its contents at the end of the block.

    Args:
        folder: must exist.

    Yields:
        Its path.

    Raises:
        OSError: if it can't be created.
    """

    def create(path: Path) -> int:
        path.mkdir()
        return os.open(path if _has_locks else os.devnull, os.O_RDONLY)

    with _partial(folder, create) as (path, handle):
        os.close(handle)
        yield path


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Creates a folder under a temporary name, and renames it at the end of the block.

    Args:
        path: the folder's final name; its parents are made.

    Yields:
        The temporary folder, which is removed if the block fails.

    Raises:
        FileExistsError: if there is something at `path`.
        OSError: if it can't be created.
    """
    if path.exists():
        raise FileExistsError(f"{str(path)!r} exists; name another folder, or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(path.parent) as folder:
        temporary = folder / path.name
        temporary.mkdir()
        yield temporary
        temporary.rename(path)


def remove_open() -> None:
    """Removes all incomplete files and folders of this process."""
    for path in tuple(_open):
        _remove(path)


_open: set[Path] = set()
_searched: set[Path] = set()  # folders already searched for left-over files
_lock = threading.Lock()


@contextlib.contextmanager
def _partial(folder: Path, create: Callable[[Path], int]) -> Iterator[tuple[Path, int]]:
    """Creates a file or folder under a new name, locks it, and removes it at the end."""
    _remove_left_over(folder.absolute())
    while True:
        path = folder / f".dmcnn-{'-'.join(_machine())}-{secrets.token_hex(8)}.partial"
        handle = create(path)
        _open.add(path)
        lock = _hold(handle)
        # Before the lock, another process may have removed it as left over.
        if os.path.exists(path):
            break
        _open.discard(path)
        os.close(handle)
        os.close(lock)
    try:
        yield path, handle
    finally:
        _remove(path)
        _open.discard(path)
        os.close(lock)


def _hold(handle: int) -> int:
    """Locks the file of a descriptor; returns another descriptor, which holds the lock."""
    if _has_locks:
        with contextlib.suppress(OSError):  # file systems without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
    return os.dup(handle)


@functools.cache
def _machine() -> tuple[str, str]:
    """Returns digests of the machine's name, and of its last boot.

    Containers have names of their own, but share the machine's boot; after a crash, only the name
    is unchanged.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        boot = platform.node()
    host, boot = (hashlib.sha256(x.encode()).hexdigest()[:8] for x in (platform.node(), boot))
    return host, boot


_NAME = re.compile(r"\.dmcnn-([0-9a-f]{8})-([0-9a-f]{8})-[0-9a-f]{16}\.partial")


def _remove_left_over(folder: Path) -> None:
    """Removes files that killed processes of this machine left in a folder; once per process."""
    with _lock:
        if not _has_locks or folder in _searched:
            return
        _searched.add(folder)
    host, boot = _machine()
    with contextlib.suppress(OSError), os.scandir(folder) as listing:
        for entry in listing:
            name = _NAME.fullmatch(entry.name)
            # Another machine's lock on a network file system may be unknown here.
            if name and (name[1] == host or name[2] == boot):
                _remove_if_left_over(folder / entry.name)


def _remove_if_left_over(path: Path) -> None:
    """Removes a file or folder of this user that no process has locked."""
    with contextlib.suppress(OSError):
        about = path.lstat()
        kind = os.O_RDONLY | os.O_DIRECTORY if stat.S_ISDIR(about.st_mode) else os.O_RDWR
        if about.st_uid != os.geteuid() or stat.S_IFMT(about.st_mode) not in _KINDS:
            return
        handle = os.open(path, kind | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        finally:
            os.close(handle)


_KINDS = (stat.S_IFREG, stat.S_IFDIR)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
