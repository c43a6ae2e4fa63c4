"""A file in memory that a child process opens by name.

libjpeg opens files by name. A file on the disk would remain if this process were killed.
"""

import os
import tempfile


class MemoryFile:
    """A file that this process and its children open by name, and that disappears when they end.

    On Linux it is in memory. Elsewhere it is in the temporary folder: on macOS and BSD without a
    name, so that it still disappears with the processes; on Windows with a name, until it is
    closed.

    Attributes:
        path: its name, in this process and in children that inherit `descriptors`.
        descriptors: descriptors that a child has to inherit: `pass_fds` of `subprocess.Popen`.

    Raises:
        OSError: if it can't be created.
    """

    def __init__(self) -> None:
        self._place = "memory"
        self._name = ""  # path of a file to delete
        handle = _open_in_memory()
        path = None if handle is None else _path_of(handle)
        if path is None:
            if handle is not None:
                os.close(handle)
            self._place = tempfile.gettempdir()
            handle, self._name = tempfile.mkstemp(prefix="dmcnn-")
            path = _path_of(handle)
            if path is not None:
                os.unlink(self._name)
                self._name = ""
        assert handle is not None
        self._handle = handle
        self.path = path or self._name
        self.descriptors = () if self._name else (handle,)

    def write(self, content: bytes) -> None:
        """Replaces the content.

        Raises:
            OSError: if there is no space for it; the message says where.
        """
        self.clear()
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(self._handle, view) :]
        except OSError as error:
            where = f"a copy of the file in {self._place}"
            raise OSError(error.errno, error.strerror, where) from error
        os.lseek(self._handle, 0, os.SEEK_SET)

    def read(self) -> bytes:
        """Returns the content."""
        os.lseek(self._handle, 0, os.SEEK_SET)
        with os.fdopen(os.dup(self._handle), "rb") as file:
            return file.read()

    def clear(self) -> None:
        """Frees the memory."""
        os.ftruncate(self._handle, 0)
        # On systems where opening duplicates the descriptor, children share its position.
        os.lseek(self._handle, 0, os.SEEK_SET)

    def close(self) -> None:
        """Closes the file, which disappears when its last child ends."""
        os.close(self._handle)
        if self._name:
            os.unlink(self._name)


# Folders that list a process's open files by number.
_DESCRIPTORS = ("/proc/self/fd", "/dev/fd")


def _path_of(handle: int) -> str | None:
    """Returns a path that opens a descriptor's file again; None if the system has none."""
    paths = (f"{folder}/{handle}" for folder in _DESCRIPTORS)
    return next((path for path in paths if os.path.exists(path)), None)


def _open_in_memory() -> int | None:
    """Opens a file in memory; returns None if the system has no such files, or forbids them."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        return os.memfd_create("dmcnn")
    except OSError:
        return None
