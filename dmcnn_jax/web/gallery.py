"""A gallery: JPEG, restored picture and original under a slider, in one HTML file.

The file needs nothing but itself and a browser. Worst and best gains come first, figures beside.

    dmcnn-evaluate … --gallery gallery.html
    dmcnn-gallery photographs/ cleaned/ -o gallery.html

The second takes JPEG files and what they were restored to, by name; `--originals FOLDER` adds what
they were made from.
"""

import base64
import html
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, features

from dmcnn_jax.images import color, formats, metrics
from dmcnn_jax.system.atomic_write import replacing
from dmcnn_jax.web import page

MAX_BYTES = 32 * 2**20
"""How large a gallery may get by default: what phones and mail still take."""


CROP = 1024
"""The largest side of a picture in it, pixels."""


@dataclass(frozen=True)
class Item:
    """A picture to show.

    Attributes:
        name: what to call it.
        jpeg: uint8 (or uint16) [H, W] or [H, W, 3], as decoded.
        restored: likewise, as restored.
        original: likewise, if there is one.
        figures: {"jpeg": M, "model": M} against the original, as of `protocol.measure_image`; None:
            there are none to show.
    """

    name: str
    jpeg: np.ndarray
    restored: np.ndarray
    original: np.ndarray | None = None
    figures: Mapping[str, Mapping[str, float]] | None = None


def write_gallery(
    path: str | os.PathLike,
    items: Iterable[Item],
    *,
    title: str = "JPEG and restored",
    about: str = "",
    max_bytes: int = MAX_BYTES,
    crop: int = CROP,
) -> tuple[str, ...]:
    """Writes a gallery, whole or not at all.

    Args:
        path: of the HTML file.
        items: what to show, all with figures or all without. With figures, pictures are in order of
            what they gained, worst and best in turn; without, of how much restoring changed them.
        title: of the page.
        about: a line below it: the model, the images, the quality.
        max_bytes: how large the file may get. Pictures from the middle of the order are left out
            above it; their figures stay.
        crop: the largest side, pixels; of larger pictures the middle is shown, pixel for pixel.

    Returns:
        Names of items whose pictures were left out.

    Raises:
        ValueError: if there is no item, or its pictures are of different shapes, or are none, or
            only some have figures.
        OSError: if the file can't be written.
    """
    gallery = Gallery(title, about, max_bytes=max_bytes, crop=crop)
    for item in items:
        gallery.add(item)
    return gallery.write(path)


class Gallery:
    """A gallery that gets one item after another and holds no more than its file will.

    Arguments are those of `write_gallery`.
    """

    def __init__(
        self,
        title: str = "JPEG and restored",
        about: str = "",
        *,
        max_bytes: int = MAX_BYTES,
        crop: int = CROP,
    ):
        if crop < 1:
            raise ValueError(f"crop is {crop}; expected a number of pixels")
        self.title, self.about = title, about
        self.max_bytes, self.crop = max_bytes, crop
        self._entries: list[_Entry] = []

    def add(self, item: Item) -> None:
        """Adds an item; raises a ValueError as of `write_gallery`."""
        pictures = {"JPEG": item.jpeg, "Restored": item.restored}
        if item.original is not None:
            pictures["Original"] = item.original
        pictures = {name: _to_uint8(np.asarray(p)) for name, p in pictures.items()}
        for picture in pictures.values():
            if picture.dtype != np.uint8:
                raise ValueError(
                    f"{item.name}: pixels are {picture.dtype}; expected uint8 or uint16"
                )
        shapes = {name: np.shape(picture) for name, picture in pictures.items()}
        shape = shapes["JPEG"]
        if len(set(shapes.values())) > 1:
            given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(f"{item.name}: pictures of different shapes: {given}; expected one")
        if len(shape) not in (2, 3) or shape[2:] not in ((), (3,)) or 0 in shape:
            raise ValueError(
                f"{item.name}: pictures of shape {shape}; expected [H, W] or [H, W, 3]"
            )
        if self._entries and (item.figures is None) != (self._entries[0].figures is None):
            raise ValueError(f"{item.name}: some items have figures, some have none")
        self._entries.append(
            _Entry(
                name=item.name,
                size=shape[:2],
                shown=(min(shape[0], self.crop), min(shape[1], self.crop)),
                pictures={name: self._embed(p) for name, p in pictures.items()},
                figures=item.figures,
                values=_values(item.figures, pictures),
            )
        )
        self._fit()

    def write(self, path: str | os.PathLike) -> tuple[str, ...]:
        """Writes what was added; returns and raises as `write_gallery`."""
        if not self._entries:
            raise ValueError("no picture for the gallery")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text, _ = page.page(
            self.title, self._body(), ("base", "compare", "gallery"), img_src="data:"
        )
        with replacing(path) as file:
            file.write(text.encode())
        return self._left_out()

    def _embed(self, picture: np.ndarray) -> str:
        top, left = (max(0, (side - self.crop) // 2) for side in picture.shape[:2])
        return data_uri(picture[top : top + self.crop, left : left + self.crop])

    def _fit(self) -> None:
        """Leaves out pictures from the middle of the order, until the rest is small enough."""
        # What is in the middle now stays there, whatever comes: ends only get further away.
        size = sum(entry.bytes for entry in self._entries)
        for entry in reversed(self._in_order()):
            if size <= self.max_bytes - _PAGE_BYTES - _ENTRY_BYTES * len(self._entries):
                break
            size -= entry.bytes
            entry.pictures.clear()

    def _in_order(self) -> list["_Entry"]:
        measure = next(iter(_measures(self._entries)))
        rising = sorted(self._entries, key=lambda entry: entry.values[measure])
        if measure == "change":
            return rising[::-1]
        # The lowest, the highest, the second lowest, …
        return [rising[-(n + 1) // 2 if n % 2 else n // 2] for n in range(len(rising))]

    def _left_out(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self._entries if not entry.pictures)

    def _body(self) -> str:
        ordered = self._in_order()
        shown = [entry for entry in ordered if entry.pictures]
        measures = _measures(ordered)
        left_out = len(ordered) - len(shown)
        note = (
            f'<p class="faint small">{left_out} of {len(ordered)} pictures are left out, from the '
            f"middle of the order, to keep this file below {self.max_bytes / 2**20:.0f} MB.</p>"
            if left_out
            else ""
        )
        orders = _ORDERS_OF_CHANGE if "change" in measures else _ORDERS_OF_GAIN
        options = "".join(f'<option value="{key}">{text}</option>' for key, text in orders.items())
        by = "".join(
            f'<option value="{_key(key)}">{_say(m)}</option>' for key, m in measures.items()
        )
        return f"""<header>
<h1>{_say(self.title)}</h1>
<p class="faint">{_say(self.about)}</p>
{note}
<div class="summary">{_means(ordered)}
<p class="hint small faint">Drag on a picture, or the slider below it; with the keyboard, Tab to the
slider, then arrow keys, Page Up and Down, Home and End. 1×, 2× and 4× show pixels as they are; the
enlarged picture scrolls.</p></div>
<noscript><p>Without JavaScript, pictures stand one below the other.</p></noscript>
</header>
<div class="toolbar" hidden>
<label>Order <select id="order">{options}</select></label>
<label>By <select id="by">{by}</select></label>
</div>
<p id="said" class="unseen" role="status"></p>
<main id="pictures">
{"".join(_article(entry, place) for place, entry in enumerate(shown))}
</main>
{_all_figures(ordered)}
"""


def data_uri(picture: np.ndarray) -> str:
    """A picture as a data: URI, without loss.

    Args:
        picture: uint8 [H, W] or [H, W, 3].

    Returns:
        WebP where Pillow can write it, which is smaller, else PNG.
    """
    buffer = io.BytesIO()
    # WebP holds sides up to 16383.
    if features.check("webp") and max(picture.shape) < 2**14:
        kind = "webp"
        Image.fromarray(picture).save(buffer, "WEBP", lossless=True, quality=20, method=4)
    else:
        kind = "png"
        Image.fromarray(picture).save(buffer, "PNG")
    return page.data_uri(kind, buffer.getvalue())


def read_pairs(
    jpegs: str | os.PathLike,
    restored: str | os.PathLike,
    originals: str | os.PathLike | None = None,
) -> Iterator[Item]:
    """Items from files: JPEG, what it was restored to, maybe what it was made from.

    Args:
        jpegs: a JPEG file, or a folder with JPEG files in it and below.
        restored: the picture, or a folder where each has the same place and name, but for its
            extension; "-restored" may be added to the name.
        originals: likewise. With them, items have figures, of luma in 16..235 as the protocol's.

    Yields:
        Items, by name, upright.

    Raises:
        ValueError: if there are no such pictures, or one has no counterpart.
        OSError: if one can't be read.
    """
    jpegs = Path(jpegs)
    names = _find(jpegs, _JPEG_EXTENSIONS)
    if not names:
        raise ValueError(f"{str(jpegs)!r} has no JPEG files")
    others = [(Path(folder), _find(Path(folder))) for folder in (restored, originals) if folder]
    for name, path in sorted(names.items()):
        pictures = [_read(path)]
        for place, found in others:
            match = found.get(name, found.get(f"{name}-restored"))
            if not place.is_dir() and not jpegs.is_dir():
                match = place
            if match is None:
                raise ValueError(f"{str(place)!r} has no picture {name!r}, to go with {path}")
            pictures.append(_read(match))
        if len({picture.ndim for picture in pictures}) > 1:
            pictures = [p if p.ndim == 3 else np.repeat(p[..., None], 3, axis=2) for p in pictures]
        yield Item(name, *pictures, figures=_measure(*pictures) if originals else None)


def describe(path: str | os.PathLike, left_out: Sequence[str]) -> str:
    """A line on a gallery that was written: where, how large, what is not in it."""
    line = f"gallery: {path}, {os.path.getsize(path) / 2**20:.1f} MB"
    if left_out:
        line += f"; {len(left_out)} pictures from the middle left out, their figures kept"
    return line


@dataclass
class _Entry:
    """An item, its pictures encoded (none: left out), and what it is ordered by."""

    name: str
    size: tuple[int, int]
    shown: tuple[int, int]
    pictures: dict[str, str]
    figures: Mapping[str, Mapping[str, float]] | None
    values: dict[str, float]

    @property
    def bytes(self) -> int:
        return sum(len(uri) for uri in self.pictures.values())


# What the rest of a file takes, and the rest of an item, unless its name is very long.
_PAGE_BYTES, _ENTRY_BYTES = 2**16, 2**12


_HEADINGS = {key: text.replace("-", "\u2011") for key, text in metrics.HEADINGS.items()}


_ORDERS_OF_GAIN = {
    "ends": "Worst and best in turn",
    "rising": "Worst first",
    "falling": "Best first",
    "name": "By name",
}


_ORDERS_OF_CHANGE = {
    "falling": "Most changed first",
    "rising": "Least changed first",
    "name": "By name",
}


def _to_uint8(picture: np.ndarray) -> np.ndarray:
    if picture.dtype == np.uint16:
        return ((picture.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return picture


def _values(
    figures: Mapping[str, Mapping[str, float]] | None, pictures: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """What an item is ordered by: gains, or the root of the mean squared change in levels."""
    if figures is None:
        change = pictures["Restored"].astype(np.float32) - pictures["JPEG"]
        return {"change": float(np.sqrt(np.mean(change**2)))}
    return {key: _gain(figures, key) for key in figures["model"]}


def _gain(figures: Mapping[str, Mapping[str, float]], measure: str) -> float:
    after, before = figures["model"][measure], figures["jpeg"][measure]
    # Two perfect pictures: infinite both.
    return 0.0 if after == before else after - before


def _measures(entries: Sequence[_Entry]) -> dict[str, str]:
    if entries[0].figures is None:
        return {"change": "change"}
    return {key: f"{_HEADINGS.get(key, key)} gain" for key in entries[0].values}


_JPEG_EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif")


_EXTENSIONS = (*_JPEG_EXTENSIONS, ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm")


def _find(place: Path, extensions: Sequence[str] = _EXTENSIONS) -> dict[str, Path]:
    """Pictures by their path in a folder, without extension; or the one file that is named."""
    if not place.is_dir():
        return {place.stem: place}
    paths = (path for path in sorted(place.rglob("*")) if path.suffix.lower() in extensions)
    return {path.relative_to(place).with_suffix("").as_posix(): path for path in paths}


def _read(path: Path) -> np.ndarray:
    """Pixels, upright: uint8 [H, W] or [H, W, 3]."""
    with formats.opening(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            return _to_uint8(np.asarray(image).astype(np.uint16))
        return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))


def _measure(jpeg: np.ndarray, restored: np.ndarray, original: np.ndarray) -> dict:
    lumas = [color.rgb_to_y(p, "studio") if p.ndim == 3 else p for p in (jpeg, restored, original)]
    return {
        "jpeg": metrics.measure(lumas[2], lumas[0]),
        "model": metrics.measure(lumas[2], lumas[1]),
    }


def _article(entry: _Entry, place: int) -> str:
    height, width = entry.shown
    name = _say(entry.name)
    # No more than the first few are decoded before they are scrolled to.
    loading = "" if place < 3 else ' loading="lazy"'
    figures = "".join(
        f'<figure><img src="{uri}" width="{width}" height="{height}" alt="{name}, {label}"'
        f' decoding="async"{loading}><figcaption>{label}</figcaption></figure>'
        for label, uri in entry.pictures.items()
    )
    values = "".join(
        f' data-{key.replace("_", "-")}="{_number(v)}"' for key, v in entry.values.items()
    )
    size = f"{entry.size[1]} × {entry.size[0]}"
    if entry.size != entry.shown:
        size += f", the middle {width} × {height} shown"
    return f"""<article id="{_anchor(entry)}" data-name="{name}"{values}>
<header><h2>{name}</h2><span class="small faint">{size}</span></header>
<image-compare name="{name}">{figures}</image-compare>
<aside>{_figures(entry)}</aside>
</article>
"""


def _figures(entry: _Entry) -> str:
    if entry.figures is None:
        change = entry.values["change"]
        return f"<p>Changed by {change:.2f} levels of 255 (root mean square).</p>"
    rows = "".join(
        f'<tr><th scope="row">{_say(_HEADINGS.get(key, key))}</th>'
        f"<td>{_figure(entry.figures['jpeg'][key], key)}</td>"
        f"<td>{_figure(entry.figures['model'][key], key)}</td>{_gain_cell(entry.values[key], key)}"
        "</tr>"
        for key in entry.values
    )
    return (
        f'<table><caption class="unseen">Figures of {_say(entry.name)}</caption><thead><tr>'
        '<th scope="col"><span class="unseen">Measure</span></th><th scope="col">JPEG</th>'
        f'<th scope="col">Restored</th><th scope="col">Gain</th></tr></thead>{rows}</table>'
    )


def _means(entries: Sequence[_Entry]) -> str:
    if entries[0].figures is None:
        return ""
    means = {
        key: metrics.mean([entry.figures[key] for entry in entries]) for key in ("jpeg", "model")
    }
    rows = ""
    for key, label in (("jpeg", "JPEG"), ("model", "Restored")):
        cells = "".join(f"<td>{_figure(v, m)}</td>" for m, v in means[key].items())
        rows += f'<tr><th scope="row">{label}</th>{cells}</tr>'
    cells = "".join(_gain_cell(_gain(means, m), m) for m in means["model"])
    rows += f'<tr><th scope="row">Gain</th>{cells}</tr>'
    heads = "".join(f'<th scope="col">{_say(_HEADINGS.get(m, m))}</th>' for m in means["model"])
    return (
        f'<div class="wide"><table class="means"><caption class="small faint">Means over '
        f"{len(entries)} pictures</caption><thead><tr><td></td>{heads}</tr></thead>{rows}"
        "</table></div>"
    )


def _all_figures(entries: Sequence[_Entry]) -> str:
    """Figures of every picture, shown or not, as one table."""
    if entries[0].figures is None:
        return ""
    measures = list(entries[0].values)
    heads = "".join(
        f'<th scope="col">{_say(_HEADINGS.get(m, m))}</th><th scope="col">gain</th>'
        for m in measures
    )
    rows = "".join(
        f'<tr><th scope="row">{_link(entry)}</th>'
        + "".join(
            f"<td>{_figure(entry.figures['model'][m], m)}</td>{_gain_cell(entry.values[m], m)}"
            for m in measures
        )
        + "</tr>\n"
        for entry in sorted(entries, key=lambda entry: entry.name)
    )
    return (
        f"<details><summary>Figures of all {len(entries)} pictures</summary>"
        f'<div class="wide"><table><thead><tr><th scope="col">Picture</th>{heads}</tr></thead>'
        f"{rows}</table></div></details>"
    )


def _link(entry: _Entry) -> str:
    name = _say(entry.name)
    return f'<a href="#{_anchor(entry)}">{name}</a>' if entry.pictures else name


def _anchor(entry: _Entry) -> str:
    name = entry.name.encode(errors="surrogatepass")
    return "picture-" + base64.urlsafe_b64encode(name).decode().rstrip("=")


def _figure(value: float, measure: str, sign: str = "") -> str:
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    digits = 4 if measure.startswith("ssim") else 2
    return f"{value:{sign}.{digits}f}".replace("-", "−")


def _gain_cell(value: float, measure: str) -> str:
    text = _figure(value, measure, "+")
    kind = "gain" if text.startswith("+") else "loss"
    return f'<td class="{kind}">{text}</td>'


def _number(value: float) -> str:
    """As JavaScript's Number() reads it."""
    return json.dumps(value)


def _key(measure: str) -> str:
    """A measure's name as a property of an element's dataset: data-psnr-b is psnrB."""
    first, *rest = measure.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _say(text: str) -> str:
    """Plain text as HTML; names of files that are no text, as far as they go."""
    return html.escape(text.encode(errors="replace").decode())
