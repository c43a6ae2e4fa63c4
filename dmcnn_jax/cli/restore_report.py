"""What `dmcnn-restore` says of each file: a line for people, and a JSON report for programs."""

import dataclasses
import itertools
import json
import math
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from dmcnn_jax.cli.process import UsageError, naming_output
from dmcnn_jax.cli.real_paths import RealPaths
from dmcnn_jax.system.atomic_write import replacing
from dmcnn_jax.system.partial_files import partial_file
from dmcnn_jax.system.printable import printable

if TYPE_CHECKING:
    from dmcnn_jax.jpeg.reader import JpegFile
    from dmcnn_jax.restoration.results import Outcome

Status = Literal["restored", "decoded", "skipped", "failed"]
"""What became of a file; "decoded": no model was applied, and its decoded picture was written."""

_PLANES = {
    "gray": ("luma",),
    "ycbcr": ("luma", "Cb", "Cr"),
    "rgb": ("R", "G", "B"),
    "cmyk": ("C", "M", "Y", "K"),
    "ycck": ("luma", "Cb", "Cr", "K"),
}

STATUSES: tuple[Status, ...] = ("restored", "decoded", "skipped", "failed")


class FileRecord(TypedDict):
    """The entry of one file in the JSON report.

    `error` is set if it failed, `reason` if it was skipped; the fields after them are set if it was
    written. `model` restored luma, and `planes` names the model that restored each plane: None for
    one that is as decoded. `dropped` names what the file held and the result doesn't. `seconds`
    runs from the start of restoring to the end of writing. `jpeg` is set if a JPEG file of restored
    coefficients was written: its size in bytes and the file's, the step of its table, and how many
    dB rounding to it is expected to cost. `original` is where the original is kept, if the file was
    restored in place.
    """

    input: str
    output: str | None
    status: Status
    error: NotRequired[str]
    reason: NotRequired[str]
    model: NotRequired[str | None]
    planes: NotRequired[dict[str, str | None]]
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
    jpeg: NotRequired[dict[str, float]]
    original: NotRequired[str]


def written_record(
    source: str,
    target: str | None,
    file: "JpegFile",
    result: "Outcome",
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
    from dmcnn_jax.restoration.results import JpegRestoration

    record: FileRecord = {
        "input": source,
        "output": target,
        "status": "restored" if any(result.models) else "decoded",
        "model": result.model,
        "planes": dict(zip(_PLANES[file.color], result.models, strict=True)),
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
    if isinstance(result, JpegRestoration) and result.step and result.loss is not None:
        record["jpeg"] = {
            "bytes": len(result.data),
            "bytes_before": len(file.data),
            "step": result.step,
            "rounding_loss": round(result.loss, 4),
        }
    return record


def describe_file(record: FileRecord) -> str:
    """Returns what a terminal shows of a file after its name; control characters are escaped."""
    from dmcnn_jax.jpeg.attachments import describe_size

    if record["status"] == "failed":
        return printable(record["error"])
    if record["status"] == "skipped":
        return printable(f"skipped: {record['reason']}")
    target = printable(record["output"] or "<standard output>")
    how = printable(describe_models(record["planes"]))
    kept = record.get("luma_kept")
    guarantee = f", {kept['share']:.3%} of luma coefficients kept" if kept else ""
    if kept and "jpeg" in record and kept["kept"] == kept["coefficients"]:
        guarantee = ", all luma coefficients kept"
    if "jpeg" in record:
        size = record["jpeg"]["bytes"]
        ratio = size / record["jpeg"]["bytes_before"]
        guarantee += f", {describe_size(int(size))} ({ratio:.1f} times the file)"
    if "original" in record:
        where = printable(record["original"])
        guarantee += f", original kept {where if where == 'inside' else f'as {where}'}"
    remarks = list(record["notes"])
    if record["dropped"]:
        remarks.append(f"dropped: {', '.join(record['dropped'])}")
    notes = printable(f" ({'; '.join(remarks)})") if remarks else ""
    return f"{target}: {how}, {record['seconds']:.1f} s{guarantee}{notes}"


def describe_models(planes: Mapping[str, str | None]) -> str:
    """Returns which model restored what: "luma by dmcnn-any, Cb and Cr by dmcnn-chroma".

    Args:
        planes: for each plane of a file the model that restored it, None if it is as decoded.
    """
    models = set(planes.values())
    if len(models) == 1:
        return models.pop() or "as decoded"
    names: dict[str | None, list[str]] = {}
    for plane, model in planes.items():
        names.setdefault(model, []).append(plane)
    return ", ".join(
        f"{' and '.join(each)} {f'by {model}' if model else 'as decoded'}"
        for model, each in names.items()
    )


def describe_counts(counts: Mapping[Status, int], seconds: float) -> str:
    """Returns the closing line: "3 restored, 1 failed, in 2.5 s"."""
    words: dict[str, str] = {"decoded": "left as decoded"}
    parts = [f"{counts[s]} {words.get(s, s)}" for s in STATUSES if counts[s]]
    return f"{', '.join(parts)}, in {seconds:.1f} s"


def check_report(path: str | None, pictures: Sequence[str | os.PathLike[str]]) -> None:
    """Checks, before all the work, that a report may be written to a path.

    Raises:
        UsageError: if it would overwrite a picture, or its folder doesn't exist or takes no files.
    """
    if path is None or path == "-":
        return
    real = os.path.realpath(path)
    if real in map(RealPaths(), pictures):
        raise UsageError(f"--json {path!r} would overwrite a picture; choose another name")
    if os.path.isdir(real) or not os.path.isdir(os.path.dirname(real)):
        raise UsageError(f"--json {path!r}; expected the name of a file in a folder that exists")
    try:  # permissions don't say it all: disks are read-only or full
        with partial_file(Path(real).parent) as (_, handle):
            os.close(handle)
    except OSError as error:
        raise UsageError(
            f"--json {path!r} can't be written ({error.strerror}); name a file in another folder"
        ) from None


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Writes JSON to a file, or to standard output for "-"."""
    _write_text(path, [json.dumps(content, indent=2), "\n"])


def write_report(path: str, files: Iterable[str], summary: Mapping[str, Any]) -> None:
    """Writes the report of a run, file by file: {"files": [...], "summary": {...}}.

    Args:
        path: of the report; "-" for standard output.
        files: the records as JSON, indented.
        summary: what comes after them.
    """
    parts = (part for i, text in enumerate(files) for part in (",\n" if i else "", text))
    end = textwrap.indent(json.dumps(summary, indent=2), "  ").lstrip()
    _write_text(
        path, itertools.chain(['{\n  "files": [\n'], parts, [f'\n  ],\n  "summary": {end}\n}}\n'])
    )


def _write_text(path: str, parts: Iterable[str]) -> None:
    if path == "-":
        with naming_output():
            sys.stdout.writelines(parts)
        return
    with replacing(path) as file:
        file.writelines(part.encode() for part in parts)
