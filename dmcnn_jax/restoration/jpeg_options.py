"""Options of a restored JPEG file: the loss allowed to rounding, and the sampling of chroma."""

import dataclasses
import re

DEFAULT_LOSS = 0.1
"""The default of `JpegOptions.loss`, dB."""


@dataclasses.dataclass(frozen=True)
class JpegOptions:
    """Options of a restored JPEG file.

    Attributes:
        loss: dB by which rounding to the written table may lower the quality of the restored
            picture, as estimated from the original file; None: `size` decides.
        size: the largest size of the file, in bytes; None: `loss` decides.
        full_chroma: whether chroma is written at full size (4:4:4), at which it was restored;
            otherwise at its size in the original.
        recoverable: whether the file includes a recipe to recover the original file, bit for bit,
            where possible (`recovery.recover_original`).

    Raises:
        ValueError: if an option is out of range, or both or neither of `loss` and `size` are set.
    """

    loss: float | None = DEFAULT_LOSS
    size: int | None = None
    full_chroma: bool = False
    recoverable: bool = False

    def __post_init__(self) -> None:
        if (self.loss is None) == (self.size is None):
            raise ValueError(
                f"loss is {self.loss} and size is {self.size}; expected one of them to be None"
            )
        if self.loss is not None and not 0 <= self.loss <= 10:
            raise ValueError(f"loss is {self.loss}; expected 0 to 10 dB")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size is {self.size}; expected at least 1 byte")


def parse_budget(text: str) -> dict[str, float | int | None]:
    """Returns the fields `loss` and `size` for a budget such as "0.1dB" or "300kB".

    Raises:
        ValueError: if it is neither.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?(dB|B|kB|KB|MB)", text)
    if match is None:
        raise ValueError(f"{text!r}; expected decibels or a size, such as 0.1dB, 300kB or 2MB")
    number, unit = float(match[1]), match[2]
    if unit == "dB":
        return {"loss": number, "size": None}
    return {"loss": None, "size": int(number * {"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6}[unit])}
