"""A gallery's pictures: encoded for its page, measured, and put in order."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, features

from dmcnn_jax.web import page

Measures = Mapping[str, float]
"""A picture's quality, as `metrics.measure` returns it: {"psnr": dB, "ssim": …, …}."""

HEADINGS = {
    "psnr": "PSNR",
    "ssim": "SSIM 8×8",
    "ssim_gauss": "SSIM Gauss",
    "psnr_b": "PSNR\u2011B",
}
"""Headings of the measures in tables."""


@dataclass(frozen=True)
class Item:
    """A picture to show.

    Attributes:
        name: shown above it.
        jpeg: decoded JPEG, uint8 or uint16, [H, W] or [H, W, 3].
        restored: restored picture, same shape.
        original: uncompressed picture, same shape, if known.
        figures: {"jpeg": M, "model": M}, with M the measures against the original, as
            `metrics.measure` returns them; None to show none.
    """

    name: str
    jpeg: np.ndarray
    restored: np.ndarray
    original: np.ndarray | None = None
    figures: Mapping[str, Measures] | None = None


@dataclass
class Entry:
    """An item on the page.

    Attributes:
        name: of the item.
        size: height and width of the picture.
        shown: height and width of the part shown, which is the picture's middle.
        pictures: data: URIs by label, "JPEG", "Restored", "Original"; empty if left out.
        figures: of the item.
        values: values to order by: the gain in each measure, or {"change": RMS difference between
            JPEG and restored picture, grey levels}.
    """

    name: str
    size: tuple[int, int]
    shown: tuple[int, int]
    pictures: dict[str, str]
    figures: Mapping[str, Measures] | None
    values: dict[str, float]

    @property
    def bytes(self) -> int:
        """Size of the pictures on the page."""
        return sum(len(uri) for uri in self.pictures.values())


def encode_item(item: Item, crop: int) -> Entry:
    """Encodes an item's pictures.

    Args:
        item: what to show.
        crop: longest side shown, pixels; of larger pictures the middle is shown.

    Raises:
        ValueError: if pictures differ in shape, or aren't pictures.
    """
    pictures = {"JPEG": item.jpeg, "Restored": item.restored}
    if item.original is not None:
        pictures["Original"] = item.original
    pictures = {name: to_uint8(np.asarray(picture)) for name, picture in pictures.items()}
    height, width = _check_pictures(item.name, pictures)
    return Entry(
        name=item.name,
        size=(height, width),
        shown=(min(height, crop), min(width, crop)),
        pictures={name: data_uri(_middle(p, crop)) for name, p in pictures.items()},
        figures=item.figures,
        values=_order_values(item.figures, pictures),
    )


def measure_names(entries: Sequence[Entry]) -> dict[str, str]:
    """Returns the values that entries can be ordered by: keys of `Entry.values` and their names."""
    if entries[0].figures is None:
        return {"change": "change"}
    return {key: f"{HEADINGS.get(key, key)} gain" for key in entries[0].values}


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Returns entries in display order: lowest and highest gain in turn, or by largest change."""
    measure = next(iter(measure_names(entries)))
    rising = sorted(entries, key=lambda entry: entry.values[measure])
    if measure == "change":
        return rising[::-1]
    # The lowest, the highest, the second lowest, …
    return [rising[-(n + 1) // 2 if n % 2 else n // 2] for n in range(len(rising))]


def gain(figures: Mapping[str, Measures], measure: str) -> float:
    """Returns how much higher a measure is after restoring; 0 if both are infinite."""
    after, before = figures["model"][measure], figures["jpeg"][measure]
    return 0.0 if after == before else after - before


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """Rounds uint16 samples to uint8; returns other types as they are."""
    if picture.dtype == np.uint16:
        return ((picture.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return picture


def data_uri(picture: np.ndarray) -> str:
    """Returns a picture as a data: URI, losslessly compressed.

    Args:
        picture: uint8 [H, W] or [H, W, 3].

    Returns:
        WebP, which is smaller, if Pillow can write it; otherwise PNG.
    """
    buffer = io.BytesIO()
    # WebP sides are at most 16383 pixels long.
    if features.check("webp") and max(picture.shape) < 2**14:
        kind = "webp"
        Image.fromarray(picture).save(buffer, "WEBP", lossless=True, quality=20, method=4)
    else:
        kind = "png"
        Image.fromarray(picture).save(buffer, "PNG")
    return page.data_uri(kind, buffer.getvalue())


def _check_pictures(name: str, pictures: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Returns the height and width that all pictures of an item have."""
    for picture in pictures.values():
        if picture.dtype != np.uint8:
            raise ValueError(f"{name}: pixels are {picture.dtype}; expected uint8 or uint16")
    shapes = {label: picture.shape for label, picture in pictures.items()}
    shape = shapes["JPEG"]
    if len(set(shapes.values())) > 1:
        given = ", ".join(f"{label} {shape}" for label, shape in shapes.items())
        raise ValueError(f"{name}: pictures of different shapes: {given}; expected one")
    if len(shape) not in (2, 3) or shape[2:] not in ((), (3,)) or 0 in shape:
        raise ValueError(f"{name}: pictures of shape {shape}; expected [H, W] or [H, W, 3]")
    return shape[0], shape[1]


def _middle(picture: np.ndarray, crop: int) -> np.ndarray:
    top, left = (max(0, (side - crop) // 2) for side in picture.shape[:2])
    return picture[top : top + crop, left : left + crop]


def _order_values(
    figures: Mapping[str, Measures] | None, pictures: Mapping[str, np.ndarray]
) -> dict[str, float]:
    if figures is None:
        change = pictures["Restored"].astype(np.float32) - pictures["JPEG"]
        return {"change": float(np.sqrt(np.mean(change**2)))}
    return {key: gain(figures, key) for key in figures["model"]}
