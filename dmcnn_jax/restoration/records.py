"""The report's entry for a restored file, as in `dmcnn-restore --json` and on the local page.

Imports no JAX, so that commands can plan without it.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

if TYPE_CHECKING:
    from dmcnn_jax.jpeg.double_compression import PriorCompression
    from dmcnn_jax.jpeg.reader import JpegFile
    from dmcnn_jax.restoration.results import Outcome

Status = Literal["restored", "decoded", "skipped", "failed"]
"""The outcome of a file; "decoded": no model was applied, and the decoded picture was written."""

STATUSES: tuple[Status, ...] = ("restored", "decoded", "skipped", "failed")


class FileRecord(TypedDict):
    """The entry of one file in the JSON report.

    `error` is set if it failed, `reason` if it was skipped; the fields after them are set if it was
    written. `model` restored luma, and `planes` names the model that restored each plane: None for
    a plane as decoded. `dropped` lists contents of the file that the result doesn't have. `seconds`
    runs from the start of restoring to the end of writing. `jpeg` is set if a JPEG file of restored
    coefficients was written: its size in bytes and the file's, the step of its table, and how many
    dB rounding to it is expected to cost. `original` is the place of the original, if the file was
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
        file: the file read.
        result: the restoration.
        dropped: contents of the file that the output doesn't have.
        seconds: how long it took.
        assumed: whether the quality of an earlier save was given by the user instead of detected.
    """
    from dmcnn_jax.restoration.results import JpegRestoration, Restoration

    height, width = file.height, file.width
    if isinstance(result, Restoration):  # a recovered file has margins around its picture
        height, width = result.pixels.shape[:2]
    record: FileRecord = {
        "input": source,
        "output": target,
        "status": "restored" if any(result.models) else "decoded",
        "model": result.model,
        "planes": dict(zip(_PLANES[file.color], result.models, strict=True)),
        "width": width,
        "height": height,
        "color": file.color,
        "sampling": [list(component.subsampling) for component in file.components],
        "table_quality": result.quality,
        "notes": list(result.notes),
        "dropped": list(dropped),
        "seconds": round(seconds, 3),
    }
    if result.prior is not None:
        record["earlier"] = _describe_prior(result.prior, assumed)
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


def _describe_prior(prior: "PriorCompression", assumed: bool) -> dict[str, Any]:
    """Returns what a record says of an earlier save; `assumed` as in `written_record`."""
    return {
        "quality": prior.quality,
        "grid": [prior.left, prior.top],
        "explained": None if math.isnan(prior.explained) else round(prior.explained, 4),
        "assumed": assumed,
    }


_PLANES = {
    "gray": ("luma",),
    "ycbcr": ("luma", "Cb", "Cr"),
    "rgb": ("R", "G", "B"),
    "cmyk": ("C", "M", "Y", "K"),
    "ycck": ("luma", "Cb", "Cr", "K"),
}
