"""The report of `dmcnn-restore` on each file: a line for people, and JSON for programs."""

import itertools
import json
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmcnn_jax.cli.process import UsageError, naming_output
from dmcnn_jax.cli.real_paths import RealPaths
from dmcnn_jax.images.output_names import target_key
from dmcnn_jax.restoration.records import STATUSES, FileRecord, Status
from dmcnn_jax.system.atomic_write import replacing
from dmcnn_jax.system.partial_files import partial_file
from dmcnn_jax.system.printable import printable


def describe_file(record: FileRecord) -> str:
    """Returns a terminal's text after a file's name, with control characters escaped."""
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
    """Returns the models by plane, such as "luma by dmcnn-any, Cb and Cr by dmcnn-chroma".

    Args:
        planes: the model that restored each plane of a file; None if the plane is as decoded.
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
    """Checks before restoring that a report may be written to a path.

    Raises:
        UsageError: if it would overwrite a picture, or its folder doesn't exist or isn't writable.
    """
    if path is None or path == "-":
        return
    real = os.path.realpath(path)
    if target_key(real) in map(target_key, map(RealPaths(), pictures)):
        raise UsageError(
            f"--json {path!r} would overwrite a picture, or differs from its name only in case; "
            "choose another name"
        )
    if os.path.isdir(real) or not os.path.isdir(os.path.dirname(real)):
        raise UsageError(f"--json {path!r}; expected the name of a file in a folder that exists")
    try:  # permissions are not enough: the disk may be read-only or full
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
        summary: the report's "summary".
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
