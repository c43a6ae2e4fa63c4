"""Restores an upload: the bytes of a JPEG file to those of a restored file, and a report.

A PNG file or another copy of a JPEG's pixels is restored like the JPEG file, if that shows in it.
"""

import dataclasses
import io
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dmcnn_jax import jpeg
from dmcnn_jax.images import formats
from dmcnn_jax.jpeg.errors import TooLargeError
from dmcnn_jax.jpeg.file_kinds import describe_other
from dmcnn_jax.restoration.decoded_file import DecodedFile, read_source
from dmcnn_jax.restoration.records import FileRecord, written_record
from dmcnn_jax.restoration.results import Outcome, Restoration
from dmcnn_jax.restoration.writing import make_result
from dmcnn_jax.system.progress import Progress, check
from dmcnn_jax.web.choices import Choices
from dmcnn_jax.web.entries import to_uint8

if TYPE_CHECKING:
    from dmcnn_jax.restoration.restorer import Restorer


@dataclasses.dataclass(frozen=True)
class Restored:
    """A restored upload.

    Attributes:
        data: the restored file.
        report: what `dmcnn-restore --json` reports of a file.
        shown: what the page shows: "width" and "height" of the result as stored, in pixels;
            "orientation", how to turn it, as in EXIF: 1 (not at all) to 8; "about", {label: text}.
        preview: a PNG file of the result, if browsers can't show the result itself and one is
            wanted.
    """

    data: bytes
    report: FileRecord
    shown: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preview: bytes = b""


Restore = Callable[[bytes, Choices, bool, Progress], Restored]
"""What the page restores with: takes a file's bytes, how to restore it, whether a preview is
wanted, and a progress callback.

It is called in a thread of its own, one call at a time. An `UploadError`, ValueError or OSError is
shown to the sender. If the callback raises an exception, nobody waits for the picture any more.
"""


class UploadError(ValueError):
    """An upload that can't be restored; the message is one line for its sender.

    Attributes:
        status: of HTTP, by which a program can tell why.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


SECONDS, SECONDS_PER_PIXEL = 60.0, 15e-6
"""The time limit of a restoration: so many seconds, and for each pixel. On two cores a pixel takes
1 to 3 µs. That of reading a file grows with its pixels and scans too (`dmcnn_jax.jpeg.entropy`)."""

MAX_COPY_PIXELS = 30_000_000
"""Pixels of the largest picture accepted that isn't a JPEG file: recovering one takes 110 bytes and
3 µs for each."""

# What an upload is called in messages if its name is unknown; it is taken out again.
_NAME = "upload"


def upload_restorer(
    restorer: "Restorer",
    *,
    max_pixels: int = jpeg.MAX_PIXELS,
    allow_truncated: bool = False,
    seconds_per_pixel: float = SECONDS_PER_PIXEL,
) -> Restore:
    """Returns a function that restores uploads, for `dmcnn_jax.web.server.serve`.

    Args:
        restorer: restores each file.
        max_pixels: size of the largest picture accepted.
        allow_truncated: whether damaged files are restored as far as they go.
        seconds_per_pixel: that a restoration may take, besides `SECONDS`.
    """
    return _UploadRestorer(restorer, max_pixels, allow_truncated, seconds_per_pixel)


@dataclasses.dataclass(frozen=True)
class _UploadRestorer:
    """What `upload_restorer` returns; the fields are its arguments."""

    restorer: "Restorer"
    max_pixels: int
    allow_truncated: bool
    seconds_per_pixel: float

    def __call__(
        self, data: bytes, choices: Choices, preview: bool, progress: Progress
    ) -> Restored:
        """Restores an upload, as `Restore` describes."""
        start = time.perf_counter()
        file = self._read(data, progress)
        options = self.restorer.options
        style = choices.style(options.bits)
        _check_result(file, style)
        strength = options.strength if choices.strength is None else choices.strength
        bits = choices.bits_of(options.bits)
        chosen = self.restorer.with_options(
            dataclasses.replace(options, strength=strength, bits=bits)
        )
        limit = SECONDS + self.seconds_per_pixel * file.width * file.height
        planes = chosen.restore_planes(file, _limited(progress, limit))
        check(progress)
        try:
            result, write = make_result(chosen, planes, style, choices.jpeg)
        except ValueError as error:  # the file can't be as small as it is to be
            raise UploadError(422, explain(error)) from None
        check(progress)
        buffer = io.BytesIO()
        dropped = write(buffer, True)
        seconds = time.perf_counter() - start
        report = written_record(
            choices.name or _NAME,
            choices.result_name,
            file,
            result,
            dropped,
            seconds,
            assumed=options.assume_quality is not None,
        )
        return Restored(
            buffer.getvalue(),
            report,
            _describe_shown(file.metadata.orientation, report, upright=style.upright),
            _make_preview(file, result, style) if preview else b"",
        )

    def _read(self, data: bytes, progress: Progress) -> jpeg.JpegFile:
        is_copy = bool(data and describe_other(data[:16]))
        max_pixels = min(self.max_pixels, MAX_COPY_PIXELS) if is_copy else self.max_pixels
        try:
            return read_source(
                data,
                max_pixels=max_pixels,
                allow_truncated=self.allow_truncated,
                name=_NAME,
                progress=progress,
            )
        except TooLargeError as error:
            text = explain(error)
            if is_copy:
                text = f"{text.partition(', or')[0]} in a picture that isn't a JPEG file"
            raise UploadError(413, text) from None
        except ValueError as error:
            raise UploadError(415 if is_copy else 400, explain(error)) from None


def _check_result(file: jpeg.JpegFile, style: formats.OutputFormat) -> None:
    """Raises an UploadError if a result of this kind can't be made of a file."""
    if isinstance(file, DecodedFile) and style.holds_coefficients:
        raise UploadError(
            422,
            "not a JPEG file, so that no JPEG file of restored coefficients can be written;"
            " choose PNG, TIFF or WebP, or add a quality",
        )
    if len(file.components) == 4 and style.format not in formats.CMYK_FORMATS:
        raise UploadError(
            422, f"a CMYK file (four inks), which {style.format} can't hold; use TIFF or JPEG"
        )


def explain(error: Exception) -> str:
    """Returns the message of an error on an upload on one line, for its sender."""
    text = " ".join(str(error).split()).removeprefix(f"{_NAME}: ") or type(error).__name__
    text = text.replace("allow_truncated=True", "starting with --allow-truncated")
    return text.replace("raise max_pixels if", "start with a larger --max-pixels if")


def _limited(progress: Progress, limit: float) -> Progress:
    """Returns a callback that raises an UploadError once a number of seconds has passed."""
    end = time.monotonic() + limit

    def limited(share: float) -> None:
        if time.monotonic() > end:
            raise UploadError(
                503,
                f"not restored within {limit:.0f} s, the limit of this page for a picture of this "
                "size; dmcnn-restore has none",
            )
        progress(share)

    return limited


def _describe_shown(orientation: int, report: FileRecord, *, upright: bool) -> dict[str, Any]:
    """Returns `Restored.shown`."""
    size = report["width"], report["height"]
    about = {
        "Size": f"{size[0]} × {size[1]} pixels",
        "Compressed": f"about as at quality {report['table_quality']}",
        "Model": ", ".join(dict.fromkeys(filter(None, report["planes"].values())))
        or "none: as decoded",
    }
    if kept := report.get("luma_kept"):
        about["Kept"] = f"{kept['kept']:,} of the file's {kept['coefficients']:,} luma coefficients"
    if written := report.get("jpeg"):
        ratio = written["bytes"] / written["bytes_before"]
        about["Written"] = (
            f"{ratio:.1f} times the file; rounding costs about {written['rounding_loss']:.2f} dB"
        )
    if report["notes"]:
        about["Notes"] = "; ".join(report["notes"])
    if report["dropped"]:
        about["Dropped"] = ", ".join(report["dropped"])
    about["Time"] = f"{report['seconds']:.1f} s"
    width, height = size[::-1] if upright and orientation >= 5 else size
    shown = {"width": width, "height": height, "about": about}
    return shown | {"orientation": 1 if upright else orientation}


def _make_preview(file: jpeg.JpegFile, result: Outcome, style: formats.OutputFormat) -> bytes:
    """Returns a PNG file of a result that browsers can't show; empty if they can, or for CMYK."""
    if style.format != "TIFF" or len(file.components) == 4:
        return b""
    assert isinstance(result, Restoration)
    png, buffer = formats.output_format(".png", upright=style.upright), io.BytesIO()
    formats.write(buffer, to_uint8(result.pixels), file.metadata, png)
    return buffer.getvalue()
