"""Restores an upload: from the bytes of a JPEG file to those of a restored file, with a report.

A PNG file or another copy of a JPEG's pixels is restored like the JPEG file, if the pixels reveal
its coefficients.
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
        report: the entry of `dmcnn-restore --json` for a file.
        shown: data for the page: "width" and "height" of the result as stored, in pixels;
            "orientation", the EXIF orientation to apply, 1 (none) to 8; "about", {label: text}.
        preview: a PNG file of the result, if browsers can't show the result itself and a preview is
            requested.
    """

    data: bytes
    report: FileRecord
    shown: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preview: bytes = b""


Restore = Callable[[bytes, Choices, bool, Progress], Restored]
"""The page's restoring function. It takes a file's bytes, choices, whether a preview is wanted, and
a progress callback.

It is called in its own thread, one call at a time. An `UploadError`, ValueError or OSError is shown
to the sender. The callback raises an exception if the sender has disconnected.
"""


class UploadError(ValueError):
    """An upload that can't be restored; the message is one line for its sender.

    Attributes:
        status: HTTP status, which tells programs the reason.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


SECONDS, SECONDS_PER_PIXEL = 60.0, 15e-6
"""The time limit of a restoration: seconds, plus seconds per pixel. On two cores a pixel takes 1 to
3 µs. The time limit of reading a file also grows with its pixels and scans
(`dmcnn_jax.jpeg.entropy`)."""

MAX_COPY_PIXELS = 30_000_000
"""Largest accepted picture that isn't a JPEG file, pixels. Recovering its coefficients takes 110
bytes and 3 µs per pixel."""

# Placeholder for the name of an unnamed upload; messages are sent without it.
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
        max_pixels: size limit of pictures.
        allow_truncated: whether damaged files are restored as far as they can be read.
        seconds_per_pixel: time limit per pixel, in addition to `SECONDS`.
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
        buffer = io.BytesIO()
        try:
            result, write = make_result(chosen, planes, style, choices.jpeg)
            check(progress)
            dropped = write(buffer, True)
        except ValueError as error:  # the file can't be that small, or is too large for its format
            raise UploadError(422, explain(error)) from None
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
    """Returns the message of an error in an upload, on one line, for its sender."""
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
    """Returns a PNG file of a result; empty if browsers can show the result, or if it is CMYK."""
    if style.format != "TIFF" or len(file.components) == 4:
        return b""
    assert isinstance(result, Restoration)
    png, buffer = formats.output_format(".png", upright=style.upright), io.BytesIO()
    formats.write(buffer, to_uint8(result.pixels), file.metadata, png)
    return buffer.getvalue()
