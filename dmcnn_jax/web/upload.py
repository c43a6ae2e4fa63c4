"""Restores an upload: the bytes of a JPEG file to those of a PNG file, and facts to show."""

import io
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.images import formats
from dmcnn_jax.system.progress import Progress, check

if TYPE_CHECKING:
    from dmcnn_jax.restoration.restorer import Restorer

Restore = Callable[[bytes, Progress], tuple[bytes, Mapping[str, Any]]]
"""What the page restores with: a JPEG file's bytes and a progress callback → a PNG file's bytes,
and facts:

- "width", "height": of the PNG as stored, pixels
- "orientation": how to turn it, as in EXIF: 1 (not at all) to 8
- "about": {label: text}, shown below it

It is called in a thread of its own, one call at a time. A ValueError or OSError is shown to the
sender. If the callback raises an exception, nobody waits for the picture any more.
"""

SECONDS, SECONDS_PER_PIXEL = 60.0, 15e-6
"""The time limit of a restoration: so many seconds, and for each pixel. On two cores a pixel takes
1 to 3 µs. That of reading a file grows with its pixels and scans too (`dmcnn_jax.jpeg.entropy`)."""

# The name that an upload has in messages, which is taken out again: the browser knows the real one.
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

    def restore(data: bytes, progress: Progress) -> tuple[bytes, dict[str, Any]]:
        start = time.perf_counter()
        file = jpeg.read(
            data,
            max_pixels=max_pixels,
            allow_truncated=allow_truncated,
            name=_NAME,
            progress=progress,
        )
        if len(file.components) == 4:
            raise ValueError(f"{_NAME}: a CMYK file, which browsers can't show; use dmcnn-restore")
        limit = SECONDS + seconds_per_pixel * file.width * file.height
        result = restorer(file, _limited(progress, limit))
        check(progress)
        buffer = io.BytesIO()
        bits = 16 if result.pixels.dtype == np.uint16 else 8
        png = formats.output_format(".png", bits=bits)
        dropped = formats.write(buffer, result.pixels, file.metadata, png)
        about = {
            "Size": f"{file.width} × {file.height} pixels",
            "Compressed": f"about as at quality {result.quality}",
            "Model": ", ".join(dict.fromkeys(filter(None, result.models))) or "none: as decoded",
        }
        if result.luma_tally is not None:
            kept, count = result.luma_tally.kept, result.luma_tally.coefficients
            about["Kept"] = f"{kept:,} of the file's {count:,} luma coefficients"
        if result.notes:
            about["Notes"] = "; ".join(result.notes)
        if dropped:
            about["Dropped"] = ", ".join(dropped)
        about["Time"] = f"{time.perf_counter() - start:.1f} s"
        return buffer.getvalue(), {
            "width": file.width,
            "height": file.height,
            "orientation": file.metadata.orientation,
            "about": about,
        }

    return restore


def _limited(progress: Progress, limit: float) -> Progress:
    """Returns a callback that raises a TimeoutError once a number of seconds has passed."""
    end = time.monotonic() + limit

    def limited(share: float) -> None:
        if time.monotonic() > end:
            raise TimeoutError(
                f"not restored within {limit:.0f} s, the limit of this page for a picture of this "
                "size; dmcnn-restore has none"
            )
        progress(share)

    return limited


def explain(error: Exception) -> str:
    """Returns the message of an error on an upload on one line, for its sender."""
    text = " ".join(str(error).split()).removeprefix(f"{_NAME}: ") or type(error).__name__
    return text.replace("allow_truncated=True", "starting with --allow-truncated")
