"""The plan of an archive: its files, their results' names, shards and the options of restoring.

It is in the folder `_archive` of the target. `plan.json` is written last, so a plan is complete or
absent. The manifest is divided into parts of `SHARDS_A_PART` shards, such as
`manifest/part-00000.parquet`. Each shard is a row group there, so a worker reads one without
reading the others.
"""

import dataclasses
import datetime
import functools
import io
import json
import secrets
from typing import Any, NamedTuple

from dmcnn_jax.archives.options import ArchiveOptions, weights_digest
from dmcnn_jax.archives.storage import Store, open_store
from dmcnn_jax.version import __version__

FOLDER = "_archive"
"""The folder of the target that holds the plan, reports and journals."""

PLAN = f"{FOLDER}/plan.json"
SHARDS_A_PART = 1000


class Row(NamedTuple):
    """A file of the plan.

    Attributes:
        number: its place in its shard, from 0.
        path: relative to the source. For a member of a tar file, its name follows "::".
        size: in bytes, None if unknown.
        offset: where the member of a tar file begins; None for other files.
        output: relative to the target.
        refusal: the reason why it can't be restored, or "".
    """

    number: int
    path: str
    size: int | None
    offset: int | None
    output: str
    refusal: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """The contents of `plan.json`.

    Attributes:
        id: a random identifier, repeated in all parts of the manifest.
        source: address that the paths of files are relative to.
        files: number of files.
        bytes: total size of the files whose size is known.
        shard_size: number of files in each shard but the last.
        options: of restoring.
        weights: digest of the weights.
        version: version of this package.
        created: date and time, UTC.
    """

    id: str
    source: str
    files: int
    bytes: int
    shard_size: int
    options: ArchiveOptions
    weights: str
    version: str
    created: str

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.files // self.shard_size)

    def rows_in(self, shard: int) -> int:
        """Returns the number of files in a shard."""
        return min(self.shard_size, self.files - shard * self.shard_size)

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as JSON values."""
        return dataclasses.asdict(self)


def new_plan(
    source: str, files: int, size: int, shard_size: int, options: ArchiveOptions, identity: str
) -> Plan:
    """Returns a plan dated now, with this version and its weights."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    weights = weights_digest(options)
    return Plan(identity, source, files, size, shard_size, options, weights, __version__, now)


def new_identity() -> str:
    """Returns a random identifier for a plan."""
    return secrets.token_hex(8)


class Archive:
    """An archive: its plan, and the stores of its sources and results.

    Args:
        target: address of the target, which holds the plan.

    Raises:
        FileNotFoundError: if there is no plan.
        ValueError: if the plan is damaged, or made by another version.
    """

    def __init__(self, target: str) -> None:
        self.target = open_store(target.removesuffix("/").removesuffix(f"/{FOLDER}"))
        try:
            text = self.target.read(PLAN)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{target}: holds no plan; make one with dmcnn-archive plan SOURCE {target}"
            ) from None
        self.plan = _parse(text, f"{self.target.address}/{PLAN}")
        self._part: tuple[int, Any] = (-1, None)

    @functools.cached_property
    def source(self) -> Store:
        """The store that holds the files."""
        return open_store(self.plan.source)

    def rows(self, shard: int) -> list[Row]:
        """Returns the files of a shard.

        Raises:
            ValueError: if the manifest is another plan's.
        """
        part, group = divmod(shard, SHARDS_A_PART)
        table = self._open_part(part).read_row_group(group)
        columns = [table.column(name).to_pylist() for name in Row._fields[1:]]
        return [Row(number, *values) for number, values in enumerate(zip(*columns, strict=True))]

    def check_weights(self) -> None:
        """Raises a ValueError if this installation's weights are not those of the plan."""
        if weights_digest(self.plan.options) != self.plan.weights:
            raise ValueError(
                f"the weights here (dmcnn_jax {__version__}) are not those that the archive was"
                f" planned with (dmcnn_jax {self.plan.version}); install that version"
            )

    def _open_part(self, part: int) -> Any:
        """Opens a part of the manifest, and keeps the last one open."""
        import pyarrow.parquet as pq

        if self._part[0] != part:
            name = manifest_part(part)
            opened = pq.ParquetFile(io.BytesIO(self.target.read(name)))
            metadata = opened.schema_arrow.metadata or {}
            if metadata.get(b"dmcnn_plan") != self.plan.id.encode():
                raise ValueError(f"{self.target.address}/{name} belongs to another plan")
            self._part = part, opened
        return self._part[1]


def manifest_part(part: int) -> str:
    """Returns the name of a part of the manifest."""
    return f"{FOLDER}/manifest/part-{part:05}.parquet"


def _parse(text: bytes, name: str) -> Plan:
    try:
        values = json.loads(text)
        values["options"] = ArchiveOptions.from_json(values["options"])
        return Plan(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{name}: no plan that dmcnn_jax {__version__} understands ({error}); plan anew"
        ) from None
