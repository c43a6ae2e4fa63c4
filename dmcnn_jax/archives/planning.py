"""Makes the plan of an archive: lists its files to a spool on disk, then writes the manifest.

Memory holds only 8 bytes for each file: a digest of its result's name, which finds names that
several files would share.
"""

import array
import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dmcnn_jax.archives.options import ArchiveOptions
from dmcnn_jax.archives.plan import (
    PLAN,
    SHARDS_A_PART,
    Plan,
    manifest_part,
    new_identity,
    new_plan,
)
from dmcnn_jax.archives.sources import SourceFile, absolute_address, list_source, split_member
from dmcnn_jax.archives.storage import Store, is_remote, open_store
from dmcnn_jax.images.extensions import JPEG_EXTENSIONS
from dmcnn_jax.images.input_folders import Skipped
from dmcnn_jax.images.output_names import distinct_targets

_SPOOL_ROWS = 50_000

_FIELDS = [
    pa.field("path", pa.string()),
    pa.field("size", pa.int64()),
    pa.field("offset", pa.int64()),
    pa.field("refusal", pa.string()),
]
_SPOOL = pa.schema(_FIELDS)
_MANIFEST = pa.schema([*_FIELDS, pa.field("output", pa.string()), pa.field("shard", pa.int32())])


def make_plan(
    source: str,
    target: str,
    options: ArchiveOptions,
    *,
    shard_size: int = 1000,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[Plan, list[str]]:
    """Lists a source and writes the plan for restoring it.

    Args:
        source: as in `sources.list_source`.
        target: address of the folder for results; it holds the plan too.
        options: of restoring, with "auto" resolved.
        shard_size: number of files in a shard.
        overwrite: whether the target may hold other files.
        progress: called with the number of files listed so far.

    Returns:
        The plan, and lines to print about it.

    Raises:
        FileExistsError: if the target has a plan, or isn't empty and `overwrite` is False.
        ValueError: if there are no JPEG files, the target lies in the source, or JPEG results could
            replace files of the source that lie in the target.
        OSError: if the source can't be read, or the target can't be written.
    """
    store = open_store(target)
    _check_target(store, source, overwrite)
    listing = _Listing(shard_size * max(1, _SPOOL_ROWS // shard_size), progress)
    skipped = Skipped()
    found = list_source(source, skipped)
    if overwrite and options.extension.lower() in JPEG_EXTENSIONS:
        found = _outside(store.address, found)
    with tempfile.TemporaryDirectory(prefix="dmcnn-archive-") as folder:
        spool = Path(folder) / "spool.parquet"
        listing.fill(spool, found)
        if not listing.files:
            raise ValueError(f"{source}: no JPEG files found")
        root = _root(source, listing)
        names = _OutputNames(listing, spool, root, options.extension)
        identity = new_identity()
        plan = new_plan(root, listing.files, listing.bytes, shard_size, options, identity)
        _write_parts(store, spool, names, plan, Path(folder))
    store.publish(PLAN, json.dumps(plan.to_json(), indent=2).encode())
    return plan, [*skipped.lines(), *names.remarks]


def _check_target(store: Store, source: str, overwrite: bool) -> None:
    """Raises an error if a plan can't be written to a target."""
    if store.exists(PLAN):
        raise FileExistsError(
            f"{store.address} has a plan already; run it with dmcnn-archive run {store.address}, or"
            " choose another target"
        )
    if _lies_in(store.address, source):
        raise ValueError(f"the target {store.address} lies in the source; expected another folder")
    if not overwrite and not store.is_empty():
        raise FileExistsError(
            f"{store.address} is not empty; choose another target, or replace files that have the"
            " names of results with --overwrite"
        )


def _lies_in(address: str, folder: str) -> bool:
    """Returns whether an address is that of a folder, or of anything in it."""
    inside, around = (a if is_remote(a) else os.path.realpath(a) for a in (address, folder))
    return f"{inside}/".startswith(f"{around.rstrip('/')}/")


def _outside(target: str, found: Iterable[SourceFile]) -> Iterator[SourceFile]:
    """Yields files, and raises a ValueError if a result in the target could replace one."""
    checked = None
    for file in found:
        folder = file.path.rpartition("/")[0] + "/"
        if file.offset is None and folder != checked:
            if _lies_in(folder, target):
                raise ValueError(
                    f"{file.path} lies in the target, where a result could replace it; choose"
                    " another target, or another --format"
                )
            checked = folder
        yield file


class _Listing:
    """The listed files: all data on disk, and a digest of each result's name in memory.

    Args:
        rows: number of rows in a batch, a multiple of the shard's size.
        progress: called with the number of files so far.

    Attributes:
        files: number of files.
        bytes: total size of the files whose size is known.
        digests: digests of the results' names, before the root is removed: uint64.
        root: the folder that contains all files, without a slash at its end.
    """

    def __init__(self, rows: int, progress: Callable[[int], None] | None) -> None:
        self.files = self.bytes = 0
        self.digests = array.array("Q")
        self.root = ""
        self._rows, self._progress = rows, progress
        self._last_folder: str | None = None

    def fill(self, spool: Path, found: Iterable[SourceFile]) -> None:
        """Writes files to the spool."""
        with pq.ParquetWriter(spool, _SPOOL, compression="zstd") as writer:
            for batch in _batches(found, self._rows):
                for each in batch:
                    self._count(each)
                columns = [list(column) for column in zip(*batch, strict=True)]
                writer.write_table(pa.table(columns, schema=_SPOOL), row_group_size=self._rows)
                if self._progress:
                    self._progress(self.files)

    def _count(self, file: SourceFile) -> None:
        self.files += 1
        self.bytes += file.size or 0
        self.digests.append(_digest(_stem(file.path).casefold()))
        folder = split_member(file.path)[0].rpartition("/")[0]
        if folder != self._last_folder:
            first = self._last_folder is None
            self.root = folder if first else _common_folder(self.root, folder)
            self._last_folder = folder


def _batches(found: Iterable[SourceFile], rows: int) -> Iterator[list[SourceFile]]:
    batch: list[SourceFile] = []
    for each in found:
        batch.append(each)
        if len(batch) == rows:
            yield batch
            batch = []
    if batch:
        yield batch


def _common_folder(first: str, second: str) -> str:
    """Returns the nearest folder that contains two others.

    Raises:
        ValueError: if they lie in different file systems.
    """
    if is_remote(first) != is_remote(second) or (
        is_remote(first) and first.partition("://")[0] != second.partition("://")[0]
    ):
        raise ValueError(f"{first} and {second} lie in different file systems; plan each alone")
    parts = zip(first.split("/"), second.split("/"), strict=False)
    shared = [a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], parts)]
    return "/".join(shared)


def _root(source: str, listing: _Listing) -> str:
    """Returns the address to which the paths of a source's files are relative."""
    extension = os.path.splitext(source)[1].lower()
    if extension in (".txt", ".tar", *JPEG_EXTENSIONS) and not os.path.isdir(source):
        root = listing.root
        return f"{root}/" if root == "" or root.endswith(":/") else root  # "/", "memory://"
    return open_store(source).address if is_remote(source) else absolute_address(source)


def _stem(path: str) -> str:
    """Returns the path of a result without its extension; a tar file becomes a folder."""
    tar, member = split_member(path)
    if member:
        path = f"{tar[: -len('.tar')]}/{member}"
    folder, slash, name = path.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return folder + slash + (stem if dot and stem else name)


def _digest(name: str) -> int:
    data = name.encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


class _OutputNames:
    """Names of results: the files' own names, changed where several would be equal.

    Args:
        listing: the files.
        spool: the file that holds the listing.
        root: the folder to which the names are relative.
        extension: extension of results, with its dot.

    Attributes:
        remarks: a line about changed names; empty if none were changed.
    """

    def __init__(self, listing: _Listing, spool: Path, root: str, extension: str) -> None:
        self._root, self._extension = root, extension
        self._prefix = root if root.endswith("/") else f"{root}/"
        self._digests = np.frombuffer(listing.digests, np.uint64)
        self._sorted = np.sort(self._digests)
        self._shared = np.unique(self._sorted[1:][self._sorted[1:] == self._sorted[:-1]])
        self._renamed: dict[str, str] = {}
        self._seen: set[str] = set()
        self.remarks: list[str] = []
        if len(self._shared):
            self._name_apart(spool)

    def __call__(self, paths: list[str]) -> list[str]:
        """Returns the names of the results of files, relative to the target."""
        if not self._renamed:
            return [self.plain(path) for path in paths]
        return [self._renamed.get(path) or self.plain(path) for path in paths]

    def __contains__(self, key: object) -> bool:
        """Returns whether a result has this name, in lower case."""
        stem = str(key).removesuffix(self._extension.casefold())
        digest = np.uint64(_digest(f"{self._prefix.casefold()}{stem}"))
        place = int(np.searchsorted(self._sorted, digest))
        return place < len(self._sorted) and self._sorted[place] == digest

    def repeated(self, paths: list[str]) -> list[bool]:
        """Returns which files were listed before; to be called once for each batch, in order."""
        found = []
        for path in paths:
            found.append(path in self._seen)
            if path in self._renamed:
                self._seen.add(path)
        return found

    def plain(self, path: str) -> str:
        """Returns the name of a result, as long as it is unique."""
        return _stem(self.relative(path)) + self._extension

    def relative(self, path: str) -> str:
        """Returns the path of a file, relative to the root."""
        if not path.startswith(self._prefix):
            raise ValueError(f"{path} doesn't lie in {self._root}; expected a file of the source")
        return path[len(self._prefix) :]

    def _name_apart(self, spool: Path) -> None:
        """Gives distinct names to results that would share one."""
        sharing: list[str] = []
        position = 0
        for batch in pq.ParquetFile(spool).iter_batches(columns=["path"]):
            paths = batch.column("path").to_pylist()
            digests = self._digests[position : position + len(paths)]
            sharing += [paths[i] for i in np.flatnonzero(np.isin(digests, self._shared))]
            position += len(paths)
        paths = sorted(set(sharing))
        sources = [Path("/", path.partition("://")[2] or path) for path in paths]
        pairs = [(a, Path(self.plain(path))) for a, path in zip(sources, paths, strict=True)]
        targets = distinct_targets(pairs, self)
        self._renamed = {path: to.as_posix() for path, to in zip(paths, targets, strict=True)}
        changed = [path for path, target in self._renamed.items() if target != self.plain(path)]
        if changed:
            self.remarks.append(
                f"the results of {len(changed)} files would have the name of another, and get names"
                f" of their own: that of {changed[0]} is {self._renamed[changed[0]]}"
            )


def _write_parts(store: Store, spool: Path, names: _OutputNames, plan: Plan, folder: Path) -> None:
    """Writes the manifest: a row group for each shard, a file for each `SHARDS_A_PART` shards."""
    schema = _MANIFEST.with_metadata(
        {"dmcnn_plan": plan.id, "options": json.dumps(plan.options.to_json())}
    )
    part, shard = folder / "part.parquet", 0
    writer: Any = None
    spooled = pq.ParquetFile(spool)
    for group in range(spooled.num_row_groups):
        table = spooled.read_row_group(group)
        paths = table.column("path").to_pylist()
        columns = [
            pa.array([names.relative(path) for path in paths]),
            *(table.column(name) for name in ("size", "offset")),
            pa.array(_refusals(names, paths, table.column("refusal").to_pylist())),
            pa.array(names(paths)),
        ]
        for start in range(0, len(paths), plan.shard_size):
            rows = [column.slice(start, plan.shard_size) for column in columns]
            if writer is None:
                writer = pq.ParquetWriter(part, schema, compression="zstd")
            writer.write_table(
                pa.table([*rows, pa.array([shard] * len(rows[0]), pa.int32())], schema=schema)
            )
            shard += 1
            if shard % SHARDS_A_PART == 0 or shard == plan.shards:
                writer.close()
                writer = None
                store.publish(manifest_part((shard - 1) // SHARDS_A_PART), part.read_bytes())


def _refusals(names: _OutputNames, paths: list[str], refusals: list[str]) -> list[str]:
    """Returns why files can't be restored, "" if they can; a repeated file is refused."""
    again = names.repeated(paths)
    return [
        why or ("named before" if repeated else "")
        for why, repeated in zip(refusals, again, strict=True)
    ]
