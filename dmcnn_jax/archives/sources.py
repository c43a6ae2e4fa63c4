"""Lists the JPEG files of an archive one by one, in memory that doesn't grow with their number."""

import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dmcnn_jax.archives.storage import RemoteStore, is_remote, open_store, walk
from dmcnn_jax.images.extensions import JPEG_EXTENSIONS
from dmcnn_jax.images.input_folders import Skipped, find_jpegs

_MEMBER = re.compile(r"\.tar(::)", re.IGNORECASE)
_DOT_PART = re.compile(r"(/|::)\.\.?(/|$)")


class SourceFile(NamedTuple):
    """A file to restore.

    Attributes:
        path: its address: a URL, or an absolute path without "." and ".."; for a member of a tar
            file `photos.tar::name.jpg`.
        size: in bytes, None if unknown.
        offset: where the content of a tar file's member begins; None for other files.
        refusal: the reason why it can't be restored, or "".
    """

    path: str
    size: int | None = None
    offset: int | None = None
    refusal: str = ""


def list_source(source: str, skipped: Skipped) -> Iterator[SourceFile]:
    """Yields the JPEG files that a source names.

    Args:
        source: a folder; the address of one, such as `s3://bucket/photos`; a tar file or a pattern
            of several, such as `photos-*.tar`; or a text file, `.txt`, with an address of any of
            these kinds, or of a JPEG file, on each line.
        skipped: counts the files left out of folders; changed in place.

    Raises:
        FileNotFoundError: if there is no such source.
        OSError: if it can't be read.
        ValueError: if a tar file is damaged, or compressed.
    """
    if not source.lower().endswith(".txt"):
        yield from _list_address(source, skipped)
        return
    folder, _, name = source.rpartition("/") if is_remote(source) else ("", "", source)
    store = open_store(folder or ".")
    jpegs = tuple(JPEG_EXTENSIONS)
    with store.open(name) as lines:
        for line in lines:
            address = os.fsdecode(line).strip("\r\n")
            if address.lower().endswith(jpegs):
                yield _checked(absolute_address(address))
            elif address:
                yield from _list_address(address, skipped)


def absolute_address(address: str) -> str:
    """Returns an address that doesn't depend on the working directory; URLs are left unchanged."""
    return address if is_remote(address) else os.path.abspath(address)


def split_member(path: str) -> tuple[str, str]:
    """Returns the path of a tar file and its member's name; for other files the path and ""."""
    match = _MEMBER.search(path)
    return (path[: match.start(1)], path[match.end() :]) if match else (path, "")


def _list_address(address: str, skipped: Skipped) -> Iterator[SourceFile]:
    """Yields the files of a single address."""
    extension = os.path.splitext(address)[1].lower()
    if extension == ".tar" and not os.path.isdir(address):
        for tar in _matching(address):
            yield from _list_tar(tar)
    elif extension in JPEG_EXTENSIONS and (is_remote(address) or os.path.isfile(address)):
        yield _checked(absolute_address(address))
    elif is_remote(address):
        store = open_store(address)
        assert isinstance(store, RemoteStore)
        for path, size in walk(store):
            if posixpath.splitext(path)[1].lower() in JPEG_EXTENSIONS:
                yield _checked(posixpath.join(store.address, path), size)
    elif os.path.isdir(address):
        for found, refusal in find_jpegs(Path(absolute_address(address)), None, skipped):
            yield _checked(str(found), None if refusal else _size(found), None, refusal)
    elif os.path.exists(address):
        raise ValueError(f"{address}: expected a folder, tar files, JPEG files or a list (.txt)")
    else:
        raise FileNotFoundError(2, os.strerror(2), address)


def _size(path: Path) -> int | None:
    """Returns the size of a file in bytes; None if it no longer exists."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _matching(pattern: str) -> list[str]:
    """Returns the addresses that match a pattern, sorted.

    Raises:
        FileNotFoundError: if there are none.
    """
    if not set("*?[") & set(pattern):
        return [absolute_address(pattern)]
    if is_remote(pattern):
        protocol = pattern.partition("://")[0]
        store = open_store(f"{protocol}://")
        assert isinstance(store, RemoteStore)
        inside = store.system._strip_protocol(pattern)
        found = [f"{protocol}://{name.lstrip('/')}" for name in store.system.glob(inside)]
    else:
        whole = Path(absolute_address(pattern))
        found = [str(path) for path in whole.parent.glob(whole.name)]
    if not found:
        raise FileNotFoundError(2, "no tar files match", pattern)
    return sorted(found)


def _list_tar(address: str) -> Iterator[SourceFile]:
    """Yields the JPEG files in a tar file; only the headers of its members are read."""
    folder, _, name = address.rpartition("/")
    store = open_store(folder if is_remote(address) else (folder or "/"))
    with store.open(name) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    tar.members = []  # type: ignore[attr-defined]  # else all stay in memory
                    is_jpeg = posixpath.splitext(member.name)[1].lower() in JPEG_EXTENSIONS
                    if member.isfile() and is_jpeg:
                        inside = posixpath.normpath(member.name).lstrip("/")
                        path = f"{address}::{inside}"
                        yield _checked(path, member.size, member.offset_data)
        except tarfile.TarError as error:
            raise ValueError(f"{address}: not an uncompressed tar file ({error})") from None
        file.seek(tar.offset)  # tarfile ends at a damaged header as it does at the end
        if any(file.read(tarfile.BLOCKSIZE)):
            raise ValueError(f"{address}: damaged at byte {tar.offset}; expected a member's header")


def _checked(
    path: str, size: int | None = None, offset: int | None = None, refusal: str = ""
) -> SourceFile:
    """Returns an entry whose path is valid Unicode, so that a plan can hold it.

    Refuses names with which a result would leave the target, or take the place of another.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        path = os.fsencode(path).decode(errors="backslashreplace")
        refusal = refusal or "its name is not UTF-8; rename it"
    if _DOT_PART.search(path):
        refusal = refusal or "its name has a part '.' or '..'; rename it"
    return SourceFile(path, size, offset, refusal)
