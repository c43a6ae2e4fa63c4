"""The choices of a request to the local page: how its picture is restored and written."""

import dataclasses
import difflib
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from dmcnn_jax.images import formats
from dmcnn_jax.restoration.jpeg_options import JpegOptions, parse_budget

EXTENSIONS = {"png": ".png", "jpeg": ".jpg", "tiff": ".tif", "webp": ".webp"}
"""Extensions of the formats that requests can name; `jpg` and `tif` are accepted too."""

MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".tif": "image/tiff",
    ".webp": "image/webp",
}
"""Media types by extension (RFC 2046, RFC 9649)."""


@dataclasses.dataclass(frozen=True)
class Choices:
    """How one picture is restored and written. Fields that are None follow the server's options.

    Attributes:
        strength: blend between the decoded picture (0) and the restored one (1).
        bits: bits per sample, 8 or 16.
        extension: of the result, one of `MEDIA_TYPES`.
        quality: of WebP (None: lossless) and of JPEG files whose pixels are compressed anew, 1 to
            100 (None: restored coefficients are written).
        upright: whether pixels are turned as EXIF's orientation says, and the orientation reset.
        jpeg: options of JPEG results that hold restored coefficients.
        name: name of the uploaded file; empty if unknown.

    Raises:
        ValueError: if the fields contradict each other.
    """

    strength: float | None = None
    bits: int | None = None
    extension: str = ".png"
    quality: int | None = None
    upright: bool = False
    jpeg: JpegOptions = JpegOptions()  # noqa: RUF009 - frozen, so it can be shared
    name: str = ""

    def __post_init__(self) -> None:
        style = self.style(self.bits or 8)
        if self.upright and style.holds_coefficients:
            raise ValueError(
                "upright turns pixels, but a JPEG file holds restored coefficients; add a quality"
                " to compress the pixels anew, or leave it to viewers to turn the picture"
            )
        if self.jpeg != JpegOptions() and not style.holds_coefficients:
            raise ValueError(
                "budget and subsampling are for JPEG files of restored coefficients; expected"
                " format=jpeg without a quality"
            )

    def style(self, bits: int) -> formats.OutputFormat:
        """Returns the format of the result.

        Args:
            bits: bits per sample to use if the request chose none and the format can hold them.
        """
        return formats.output_format(
            self.extension, self.quality, self.bits_of(bits), upright=self.upright
        )

    def bits_of(self, bits: int) -> int:
        """Returns the bits per sample: those chosen, or the default if the format can hold them."""
        return self.bits or (bits if self.extension in (".png", ".tif") else 8)

    @property
    def result_name(self) -> str:
        """Name of the result, such as `photo-restored.png`."""
        name = self.name.replace("\\", "/").rpartition("/")[2]
        stem = name.rpartition(".")[0] or name
        return f"{stem}-restored{self.extension}" if stem else f"restored{self.extension}"


def parse_choices(query: Mapping[str, str]) -> Choices:
    """Returns the choices in the parameters of a request.

    Args:
        query: parameters and their values.

    Raises:
        ValueError: if one is unknown or out of range, or they contradict each other.
    """
    for name in query:
        if name not in PARAMETERS:
            near = difflib.get_close_matches(name, PARAMETERS, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(PARAMETERS)}"
            raise ValueError(f"there is no parameter {_short(name)}; {hint}")
    values = {name: PARAMETERS[name](name, value) for name, value in query.items()}
    jpeg = values.pop("budget", {}) | values.pop("subsampling", {})
    if jpeg:
        values["jpeg"] = JpegOptions(**jpeg)
    if "format" in values:
        values["extension"] = values.pop("format")
    return Choices(**values)


def _parse_format(name: str, value: str) -> str:
    key = {"jpg": "jpeg", "tif": "tiff"}.get(value.lower().lstrip("."), value.lower().lstrip("."))
    if key not in EXTENSIONS:
        raise _error(name, value, f"one of: {', '.join(EXTENSIONS)}")
    return EXTENSIONS[key]


def _parse_strength(name: str, value: str) -> float:
    try:
        number = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise _error(name, value, "a number from 0 (as decoded) to 1 (restored), or 0% to 100%")
    return number


def _parse_bits(name: str, value: str) -> int:
    if value not in ("8", "16"):
        raise _error(name, value, "8 or 16")
    return int(value)


def _parse_quality(name: str, value: str) -> int:
    # Not `str.isdigit`, which accepts ² and digits of other scripts.
    if not (value.isascii() and value.isdigit() and 1 <= int(value[:4]) <= 100):
        raise _error(name, value, "a number from 1 to 100")
    return int(value)


def _parse_budget(name: str, value: str) -> dict[str, Any]:
    try:
        return parse_budget(value)
    except ValueError:
        raise _error(name, value, "decibels or a size, such as 0.1dB, 300kB or 2MB") from None


def _parse_subsampling(name: str, value: str) -> dict[str, Any]:
    if value != "4:4:4":
        raise _error(name, value, "4:4:4, or leave the parameter out")
    return {"full_chroma": True}


def _parse_flag(name: str, value: str) -> bool:
    if value not in ("0", "1", "false", "true"):
        raise _error(name, value, "0 or 1")
    return value in ("1", "true")


def _parse_name(name: str, value: str) -> str:
    # Not `str.isprintable`, which refuses spaces and joiners that are common in names.
    if len(value) > 255 or any(unicodedata.category(c) in _CONTROLS for c in value):
        raise _error(name, value, "the name of a file: up to 255 characters, no control characters")
    return value


# Unicode's categories of control characters, surrogates, and separators of lines and paragraphs.
_CONTROLS = ("Cc", "Cs", "Zl", "Zp")


def _error(name: str, value: str, expected: str) -> ValueError:
    return ValueError(f"{name} is {_short(value)}; expected {expected}")


def _short(text: str) -> str:
    """Returns a value of a request as messages quote it: short, on one line."""
    return ascii(text if len(text) <= 40 else f"{text[:40]}…")


PARAMETERS: Mapping[str, Callable[[str, str], Any]] = {
    "strength": _parse_strength,
    "bits": _parse_bits,
    "format": _parse_format,
    "quality": _parse_quality,
    "budget": _parse_budget,
    "subsampling": _parse_subsampling,
    "upright": _parse_flag,
    "name": _parse_name,
}
"""The parameters of a request, and the functions that parse their values."""
