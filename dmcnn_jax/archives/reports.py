"""The report of a shard: a row for each file, in Parquet. A shard with a report is done."""

import collections
import dataclasses
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from dmcnn_jax.archives.plan import FOLDER, SHARDS_A_PART
from dmcnn_jax.archives.storage import Store

_REASONS = 20
_SUMMARY = b"dmcnn_summary"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """The outcome of a file.

    Attributes:
        index: its place in the shard.
        path: path of the file, relative to the source.
        output: path of the result, relative to the target.
        status: as in `dmcnn-restore --json`; "decoded" means that no model was applied, and the
            decoded picture was written.
        error: why it failed, or "".
        model: names of the models that restored its planes; "-" for a plane left as decoded.
        width, height: in pixels; 0 if it could not be read.
        quality: the standard quality whose table is nearest to the file's; None if it failed.
        kept, coefficients: how many of its luma coefficients the result keeps, and how many were
            compared; None if nothing is guaranteed.
        input_sha256, output_sha256: digests, hexadecimal; "" if there is no such file.
        input_bytes, output_bytes: sizes.
        notes: remarks.
        dropped: contents of the file that the result doesn't have.
        seconds: how long it took.
    """

    index: int
    path: str
    output: str
    status: Literal["restored", "decoded", "failed"]
    error: str = ""
    model: str = ""
    width: int = 0
    height: int = 0
    quality: int | None = None
    kept: int | None = None
    coefficients: int | None = None
    input_sha256: str = ""
    output_sha256: str = ""
    input_bytes: int = 0
    output_bytes: int = 0
    notes: Sequence[str] = ()
    dropped: Sequence[str] = ()
    seconds: float = 0.0


_SCHEMA = pa.schema(
    [
        ("index", pa.int32()),
        ("path", pa.string()),
        ("output", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("model", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("quality", pa.int32()),
        ("kept", pa.int64()),
        ("coefficients", pa.int64()),
        ("input_sha256", pa.string()),
        ("output_sha256", pa.string()),
        ("input_bytes", pa.int64()),
        ("output_bytes", pa.int64()),
        ("notes", pa.list_(pa.string())),
        ("dropped", pa.list_(pa.string())),
        ("seconds", pa.float64()),
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """Counts of a shard's report, kept in the footer of its file.

    Attributes:
        counts: number of files of each status.
        reasons: number of failures for each reason, with numbers and names left out.
        pixels: total pixels of the files written.
        seconds: sum of the files' seconds.
        began, ended: start and end of the run that finished the shard, seconds since 1970.
    """

    counts: Mapping[str, int]
    reasons: Mapping[str, int]
    pixels: int
    seconds: float
    began: float
    ended: float

    @property
    def files(self) -> int:
        """Number of files."""
        return sum(self.counts.values())


def report_name(shard: int) -> str:
    """Returns the name of a shard's report."""
    return f"{reports_folder(shard // SHARDS_A_PART)}/shard-{shard:08}.parquet"


def reports_folder(part: int) -> str:
    """Returns the folder that holds the reports of a part of the manifest."""
    return f"{FOLDER}/reports/part-{part:05}"


def shards_with_reports(store: Store, part: int) -> list[int]:
    """Returns the shards of a part that are done, in order."""
    found = (re.fullmatch(r"shard-(\d+)\.parquet", n) for n in store.names(reports_folder(part)))
    return [int(match[1]) for match in found if match]


def write_report(
    store: Store, plan_id: str, shard: int, records: Sequence[Record], began: float, ended: float
) -> Summary:
    """Writes the report of a shard, whole or not at all, and returns its summary."""
    summary = _summarize(records, began, ended)
    footer = {"dmcnn_plan": plan_id, _SUMMARY: json.dumps(dataclasses.asdict(summary))}
    table = pa.Table.from_pylist([_to_row(r) for r in records], schema=_SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(footer), buffer, compression="zstd")
    store.publish(report_name(shard), buffer.getvalue())
    return summary


def read_report(store: Store, shard: int) -> list[Record]:
    """Returns the records of a shard's report, in the order of the files."""
    table = pq.read_table(io.BytesIO(store.read(report_name(shard))))
    return [Record(**row) for row in table.to_pylist()]


def read_summary(store: Store, plan_id: str, shard: int) -> Summary:
    """Returns the counts of a shard's report.

    Raises:
        ValueError: if the report belongs to another plan.
    """
    name = report_name(shard)
    footer = pq.read_metadata(io.BytesIO(store.read(name))).metadata or {}
    if footer.get(b"dmcnn_plan") != plan_id.encode():
        raise ValueError(f"{store.address}/{name} belongs to another plan")
    return Summary(**json.loads(footer[_SUMMARY]))


def _summarize(records: Sequence[Record], began: float, ended: float) -> Summary:
    failures = collections.Counter(reason(r.error) for r in records if r.status == "failed")
    frequent = dict(failures.most_common(_REASONS))
    if rest := sum(failures.values()) - sum(frequent.values()):
        frequent["other reasons"] = rest
    return Summary(
        counts=dict(collections.Counter(record.status for record in records)),
        reasons=frequent,
        pixels=sum(r.width * r.height for r in records if r.status != "failed"),
        seconds=round(sum(record.seconds for record in records), 3),
        began=began,
        ended=ended,
    )


def reason(error: str) -> str:
    """Returns an error without its numbers, which differ from file to file."""
    return re.sub(r"\d[\d,.]*", "N", error)[:160]


def _to_row(record: Record) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
