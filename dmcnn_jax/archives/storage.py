"""Storages of archives: folders of this machine, and object stores that fsspec reaches.

A file appears under its name only when it is complete. In folders it is renamed into place. An
object appears when its upload is complete; on other remote file systems, a file is uploaded under a
temporary name and then renamed.
"""

import contextlib
import errno
import os
import posixpath
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dmcnn_jax.archives.errors import MissingPackageError, StorageUnavailableError
from dmcnn_jax.system.atomic_write import replacing
from dmcnn_jax.system.messages import first_line

if TYPE_CHECKING:
    import fsspec

T = TypeVar("T")

PATIENCE = (0.5, 1, 2, 4, 8, 15, 30, 60)
"""Seconds to wait between attempts to reach a storage that doesn't answer."""

# Protocols of object stores, in which an upload appears only when it is complete.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "r2", "memory"}

# Errors that retrying doesn't resolve. Those that clients of storages define are listed by name.
_FINAL = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    TypeError,
    ValueError,
)
_FINAL_NAMES = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"}

# Errors of a folder's file system, or of the machine, that other files would meet too.
_READING_ERRORS = {
    *(errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENODEV, errno.ENXIO),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}
# A file that alone can't be read (EIO) is on a damaged place of the disk.
_WRITING_ERRORS = _READING_ERRORS | {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


class Store(ABC):
    """A store of files, named by paths relative to its address, with "/" between their parts.

    Attributes:
        address: an absolute path, or a URL such as `s3://bucket/photos`.
        is_local: whether it is a folder of this machine.
    """

    address: str
    is_local: bool

    @abstractmethod
    def read(self, path: str, offset: int | None = None, size: int | None = None) -> bytes:
        """Returns a file's content, or `size` bytes from `offset`."""

    @abstractmethod
    def publish(self, path: str, data: bytes) -> None:
        """Writes a file, whole or not at all; replaces a file of this name.

        Raises:
            ValueError: if the path leads out of the store.
            StorageUnavailableError: if the storage doesn't answer, or is full.
            OSError: if the file can't be written.
        """

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Returns whether there is a file of this name."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Returns the sorted names in a folder, without folders; none if it doesn't exist."""

    @abstractmethod
    def is_empty(self) -> bool:
        """Returns whether the store contains nothing, or doesn't exist."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Deletes a file, if it exists, or a folder with its contents."""

    @abstractmethod
    def open(self, path: str) -> Any:
        """Opens a file for reading in binary."""


class LocalStore(Store):
    """A folder of this machine, or of a file system that several machines share."""

    is_local = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.address = str(self.folder)

    def path(self, path: str) -> Path:
        """Returns the path of a file."""
        return self.folder / path

    def read(self, path: str, offset: int | None = None, size: int | None = None) -> bytes:
        """Returns a file's content, or a part of it."""
        with _as_unavailable(_READING_ERRORS), open(self.folder / path, "rb") as file:
            if offset is not None:
                file.seek(offset)
            return file.read(-1 if size is None or offset is None else size)

    def publish(self, path: str, data: bytes) -> None:
        """Writes a file, whole or not at all."""
        _check_inside(path)
        target = self.folder / path
        with _as_unavailable(_WRITING_ERRORS):
            try:
                self._replace(target, data)
            except FileNotFoundError:
                target.parent.mkdir(parents=True, exist_ok=True)
                self._replace(target, data)

    def exists(self, path: str) -> bool:
        """Returns whether there is a file of this name."""
        return os.path.isfile(self.folder / path)

    def names(self, folder: str) -> list[str]:
        """Returns the sorted names in a folder."""
        try:
            with os.scandir(self.folder / folder) as entries:
                return sorted(entry.name for entry in entries if entry.is_file())
        except FileNotFoundError:
            return []

    def is_empty(self) -> bool:
        """Returns whether there is nothing in the place."""
        try:
            with os.scandir(self.folder) as entries:
                return next(entries, None) is None
        except FileNotFoundError:
            return True

    def remove(self, path: str) -> None:
        """Deletes a file or a folder."""
        (self.folder / path).unlink(missing_ok=True)

    def open(self, path: str) -> Any:
        """Opens a file for reading in binary."""
        return open(self.folder / path, "rb")

    def _replace(self, target: Path, data: bytes) -> None:
        with replacing(target) as file:
            file.write(data)


class RemoteStore(Store):
    """A folder of a remote file system, or the objects below a prefix.

    If the storage doesn't answer, each call is repeated after the waits in `PATIENCE`.

    Args:
        system: the file system.
        root: a folder in the file system; "" for all of it.
        protocol: of its addresses, such as "s3".
    """

    is_local = False

    def __init__(self, system: "fsspec.AbstractFileSystem", root: str, protocol: str) -> None:
        self.system, self.root, self.protocol = system, root.rstrip("/"), protocol
        self.address = f"{protocol}://{self.root.lstrip('/')}"
        self._is_object_store = protocol in _OBJECT_STORES

    def path(self, path: str) -> str:
        """Returns the path of a file in the file system."""
        return posixpath.join(self.root, path) if path else self.root

    def read(self, path: str, offset: int | None = None, size: int | None = None) -> bytes:
        """Returns a file's content, or a part of it."""
        end = None if offset is None or size is None else offset + size
        return self._try(lambda: self.system.cat_file(self.path(path), start=offset, end=end))

    def publish(self, path: str, data: bytes) -> None:
        """Writes a file, whole or not at all."""
        _check_inside(path)
        self._try(lambda: self._upload(self.path(path), data))

    def exists(self, path: str) -> bool:
        """Returns whether there is a file of this name."""
        return self._try(lambda: self.system.isfile(self.path(path)))

    def names(self, folder: str) -> list[str]:
        """Returns the sorted names in a folder."""
        try:
            entries = self.entries(folder)
        except FileNotFoundError:
            return []
        return [posixpath.basename(each["name"]) for each in entries if each["type"] == "file"]

    def entries(self, folder: str) -> list[dict[str, Any]]:
        """Returns fsspec's entries for the files and folders in a folder, sorted by name.

        Raises:
            FileNotFoundError: if there is no such folder.
        """
        found = self._try(lambda: self.system.ls(self.path(folder), detail=True, refresh=True))
        return sorted(found, key=lambda entry: str(entry["name"]))

    def is_empty(self) -> bool:
        """Returns whether there is nothing in the place."""

        def attempt() -> bool:
            try:
                return not self.system.ls(self.root, detail=False, refresh=True)
            except FileNotFoundError:
                return True

        return self._try(attempt)

    def remove(self, path: str) -> None:
        """Deletes a file or a folder."""

        def attempt() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.system.rm(self.path(path), recursive=True)

        self._try(attempt)

    def open(self, path: str) -> Any:
        """Opens a file for reading in binary."""
        return self._try(lambda: self.system.open(self.path(path), "rb"))

    def _upload(self, path: str, data: bytes) -> None:
        if self._is_object_store:
            self.system.pipe_file(path, data)
            return
        folder, name = posixpath.split(path)
        temporary = posixpath.join(folder, f".dmcnn-{secrets.token_hex(8)}.partial")
        self.system.makedirs(folder, exist_ok=True)
        try:
            self.system.pipe_file(temporary, data)
            self.system.mv(temporary, posixpath.join(folder, name))
        except BaseException:
            with contextlib.suppress(Exception):
                self.system.rm_file(temporary)
            raise

    def _try(self, attempt: Callable[[], T]) -> T:
        """Returns the result of a call, which is repeated while the storage doesn't answer.

        Raises:
            StorageUnavailableError: if the storage never answers.
            OSError: if the storage answers with an error.
        """
        for pause in (*PATIENCE, None):
            try:
                return attempt()
            except _FINAL:
                raise
            except Exception as error:
                if type(error).__name__ in _FINAL_NAMES:
                    raise OSError(f"{self.address}: {first_line(error)}") from error
                if pause is None:
                    raise StorageUnavailableError(
                        f"{self.address} can't be reached: {first_line(error)}"
                    ) from error
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


@contextlib.contextmanager
def _as_unavailable(numbers: Collection[int]) -> Iterator[None]:
    """Raises a StorageUnavailableError for OSErrors in the block that have these numbers."""
    try:
        yield
    except OSError as error:
        if error.errno in numbers:
            raise StorageUnavailableError(first_line(error)) from error
        raise


def _check_inside(path: str) -> None:
    """Raises a ValueError if a path leads out of the store that it is relative to."""
    if os.path.isabs(path) or os.pardir in Path(path).parts:
        raise ValueError(f"{path}: expected a name inside the target, without '..'")


def open_store(address: str) -> Store:
    """Returns the store at an address.

    Args:
        address: a folder, or a URL of any file system that fsspec knows.

    Raises:
        MissingPackageError: if fsspec, or the client of that file system, is not installed.
        ValueError: if no such file system is known.
    """
    if not is_remote(address):
        return LocalStore(Path(address.removeprefix("file://")))
    try:
        import fsspec
    except ImportError:
        raise MissingPackageError(
            f'{address}: needs fsspec; pip install "dmcnn-jax[archive]"'
        ) from None
    protocol, _, rest = address.partition("://")
    try:
        # Listings must include files that other machines have written in the meantime.
        system = fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=False)
    except ImportError as error:
        raise MissingPackageError(f"{address}: {first_line(error)}") from None
    root = system._strip_protocol(address) if rest else ""
    return RemoteStore(system, root, protocol)


def is_remote(address: str) -> bool:
    """Returns whether an address is the URL of a remote file system."""
    return "://" in address and not address.startswith("file://")


def walk(store: RemoteStore) -> Iterator[tuple[str, int | None]]:
    """Yields relative path and size in bytes of the files in a remote store, folder by folder."""
    pending = [""]
    while pending:
        subfolders = []
        for entry in store.entries(pending.pop()):
            name = entry["name"].rstrip("/")
            relative = name[len(store.root) :].lstrip("/") if store.root else name.lstrip("/")
            if entry["type"] == "directory":
                subfolders.append(relative)
            elif relative:
                yield relative, entry.get("size")
        pending += reversed(subfolders)
