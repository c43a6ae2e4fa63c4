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
from dmcnn_jax.archives.sources import MEMBER, SourceFile, list_source
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
        ValueError: if there are no JPEG files, or the target is the source.
        OSError: if the source can't be read, or the target can't be written.
    """
    store = open_store(target)
    _check_target(store, source, overwrite)
    listing = _Listing(shard_size * max(1, _SPOOL_ROWS // shard_size), progress)
    skipped = Skipped()
    with tempfile.TemporaryDirectory(prefix="dmcnn-archive-") as folder:
        spool = Path(folder) / "spool.parquet"
        listing.fill(spool, list_source(source, skipped))
        if not listing.files:
            raise ValueError(f"{source}: no JPEG files found")
        root = listing.root if _is_list(source) else _root(source)
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
    inside = store.address if is_remote(source) else os.path.realpath(store.address)
    around = source.rstrip("/") if is_remote(source) else os.path.realpath(source)
    if inside == around or inside.startswith(f"{around}/"):
        raise ValueError(f"the target {store.address} lies in the source; expected another folder")
    if not overwrite and not store.is_empty():
        raise FileExistsError(
            f"{store.address} is not empty; choose another target, or replace files that have the"
            " names of results with --overwrite"
        )


class _Listing:
    """The listed files: all data on disk, and a digest of each result's name in memory.

    Args:
        rows: number of rows in a batch, a multiple of the shard's size.
        progress: called with the number of files so far.

    Attributes:
        files: number of files.
        bytes: total size of the files whose size is known.
        digests: digests of the results' names, before the root is removed: uint64.
        root: the folder that contains all files.
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
        folder = file.path.partition("::")[0] if file.offset is not None else file.path
        folder = folder.rpartition("/")[0]
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
    folder = "/".join(shared)
    return f"{folder}/" if folder.endswith(":/") else folder


def _is_list(source: str) -> bool:
    return source.lower().endswith(".txt")


def _root(source: str) -> str:
    """Returns the address to which the paths of a source's files are relative; not for lists."""
    whole = open_store(source).address if is_remote(source) else str(Path(source).absolute())
    extension = os.path.splitext(source)[1].lower()
    is_folder = extension not in (".tar", *JPEG_EXTENSIONS) or os.path.isdir(source)
    return whole if is_folder else whole.rpartition("/")[0]


def _stem(path: str) -> str:
    """Returns the path of a result without its extension; a tar file becomes a folder."""
    path = path.replace(MEMBER, "/")
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
        digest = np.uint64(_digest(f"{self._prefix().casefold()}{stem}"))
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
        return _stem(path)[len(self._prefix()) :] + self._extension

    def _prefix(self) -> str:
        return self._root if self._root.endswith("/") else f"{self._root}/"

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
    prefix = len(plan.source) if plan.source.endswith("/") else len(plan.source) + 1
    part, shard = folder / "part.parquet", 0
    writer: Any = None
    spooled = pq.ParquetFile(spool)
    for group in range(spooled.num_row_groups):
        table = spooled.read_row_group(group)
        paths = table.column("path").to_pylist()
        columns = [
            pa.array([path[prefix:] for path in paths]),
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
