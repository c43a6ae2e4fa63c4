"""What `dmcnn-restore` says of each file: a line for people, and a JSON report for programs."""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from dmcnn_jax.cli.process import UsageError
from dmcnn_jax.system.atomic_write import replacing

if TYPE_CHECKING:
    from dmcnn_jax.jpeg.reader import JpegFile
    from dmcnn_jax.restoration.restorer import Restoration

Status = Literal["restored", "decoded", "skipped", "failed"]
"""What became of a file; "decoded": no model was applied, and its decoded picture was written."""

_STATUSES: tuple[Status, ...] = ("restored", "decoded", "skipped", "failed")


class FileRecord(TypedDict):
    """The entry of one file in the JSON report.

    `error` is set if it failed, `reason` if it was skipped; the fields after them are set if it was
    written. `dropped` names what the file held and the result doesn't. `seconds` runs from the
    start of restoring to the end of writing.
    """

    input: str
    output: str | None
    status: Status
    error: NotRequired[str]
    reason: NotRequired[str]
    model: NotRequired[str | None]
    width: NotRequired[int]
    height: NotRequired[int]
    color: NotRequired[str]
    sampling: NotRequired[list[list[int]]]
    table_quality: NotRequired[int]
    notes: NotRequired[list[str]]
    dropped: NotRequired[list[str]]
    seconds: NotRequired[float]
    earlier: NotRequired[dict[str, Any]]
    luma_kept: NotRequired[dict[str, float]]
    chroma_kept: NotRequired[dict[str, float]]


def written_record(
    source: str,
    target: str | None,
    file: "JpegFile",
    result: "Restoration",
    dropped: Sequence[str],
    seconds: float,
    *,
    assumed: bool,
) -> FileRecord:
    """Returns the record of a file whose picture was written.

    Args:
        source: name of the input.
        target: path of the output, None for standard output.
        file: what was read.
        result: what was made of it.
        dropped: what the file held and the output doesn't.
        seconds: how long it took.
        assumed: whether the quality of an earlier save was given by the user, not found.
    """
    record: FileRecord = {
        "input": source,
        "output": target,
        "status": "restored" if result.model else "decoded",
        "model": result.model,
        "width": file.width,
        "height": file.height,
        "color": file.color,
        "sampling": [list(component.subsampling) for component in file.components],
        "table_quality": result.quality,
        "notes": list(result.notes),
        "dropped": list(dropped),
        "seconds": round(seconds, 3),
    }
    if result.prior is not None:
        explained = result.prior.explained
        record["earlier"] = {
            "quality": result.prior.quality,
            "grid": [result.prior.left, result.prior.top],
            "explained": None if math.isnan(explained) else round(explained, 4),
            "assumed": assumed,
        }
    if result.luma_tally is not None:
        tally = result.luma_tally
        record["luma_kept"] = dataclasses.asdict(tally) | {"share": tally.share}
    if result.chroma_tally is not None:
        tally = result.chroma_tally
        record["chroma_kept"] = dataclasses.asdict(tally) | {"share": tally.share}
    return record


def describe_file(record: FileRecord) -> str:
    """Returns what a terminal shows of a file after its name; control characters are escaped."""
    from dmcnn_jax.jpeg.reader import printable

    if record["status"] == "failed":
        return record["error"]
    if record["status"] == "skipped":
        return printable(f"skipped: {record['reason']}")
    target = printable(record["output"] or "<standard output>")
    how = f"{record['model']}, " if record["model"] else "as decoded, "
    kept = record.get("luma_kept")
    guarantee = f", {kept['share']:.3%} of luma coefficients kept" if kept else ""
    remarks = list(record["notes"])
    if record["dropped"]:
        remarks.append(f"dropped: {', '.join(record['dropped'])}")
    notes = printable(f" ({'; '.join(remarks)})") if remarks else ""
    return f"{target}: {how}{record['seconds']:.1f} s{guarantee}{notes}"


def count_statuses(records: Iterable[FileRecord]) -> dict[Status, int]:
    """Returns how many records have each status."""
    found = [record["status"] for record in records]
    return {status: found.count(status) for status in _STATUSES}


def describe_counts(counts: Mapping[Status, int], seconds: float) -> str:
    """Returns the closing line: "3 restored, 1 failed, in 2.5 s"."""
    words: dict[str, str] = {"decoded": "left as decoded"}
    parts = [f"{count} {words.get(status, status)}" for status, count in counts.items() if count]
    return f"{', '.join(parts)}, in {seconds:.1f} s"


def check_report(path: str | None, pictures: Sequence[str | os.PathLike[str]]) -> None:
    """Checks, before all the work, that a report may be written to a path.

    Raises:
        UsageError: if it would overwrite a picture, or its folder doesn't exist.
    """
    if path is None or path == "-":
        return
    real = os.path.realpath(path)
    if real in map(os.path.realpath, pictures):
        raise UsageError(f"--json {path!r} would overwrite a picture; choose another name")
    if os.path.isdir(real) or not os.path.isdir(os.path.dirname(real)):
        raise UsageError(f"--json {path!r}; expected the name of a file in a folder that exists")


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Writes JSON to a file, or to standard output for "-"."""
    text = json.dumps(content, indent=2) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    with replacing(path) as file:
        file.write(text.encode())
