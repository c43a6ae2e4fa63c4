"""Graphics drawn by code, for training: kinds of pictures that photographs don't cover.

Text, screenshots, charts, drawings, pixel art, dithering, flat colours, diagrams, halftone prints
and scanned pages. Each picture is determined by a seed and its number.
"""

import colorsys
import io
import string
from collections.abc import Callable, Mapping

import numpy as np
import scipy.ndimage
from PIL import Image, ImageDraw, ImageFont

from dmcnn_jax.data.images import digest

Color = tuple[int, int, int]
_Random = np.random.Generator
Painter = Callable[[int, _Random], Image.Image]
"""Draws a picture, so many pixels high and wide."""


class Graphics:
    """Graphics as `data.images.Images`, of all kinds in turn.

    Args:
        count: number of pictures.
        side: side of each picture, pixels.
        seed: random seed.
        kinds: kinds of pictures, such as `KINDS` (the default) and `skies.SKIES`.
    """

    def __init__(
        self, count: int, side: int, seed: int = 0, kinds: Mapping[str, Painter] | None = None
    ):
        self._count, self._side, self._seed = count, side, seed
        self._kinds = KINDS if kinds is None else kinds

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        """Returns the kind and the number of a picture."""
        return f"{self._kind(index)} {index}"

    def open(self, index: int) -> io.BytesIO:
        """Draws a picture."""
        rng = np.random.default_rng((self._seed, index))
        image = draw(self._kind(index), self._side, rng, self._kinds)
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=1)
        file.seek(0)
        return file

    @property
    def fingerprint(self) -> str:
        """Digest of the arguments that determine the pictures."""
        kinds = [] if self._kinds is KINDS else list(self._kinds)
        return digest(["graphics", self._count, self._side, self._seed, *kinds])

    def _kind(self, index: int) -> str:
        return list(self._kinds)[index % len(self._kinds)]


def draw(
    kind: str, side: int, rng: _Random, kinds: Mapping[str, Painter] | None = None
) -> Image.Image:
    """Draws a picture of a kind, one of `KINDS` or of `kinds`: RGB, `side` pixels high and wide."""
    return (KINDS if kinds is None else kinds)[kind](side, rng).convert("RGB")


def _text(side: int, rng: _Random) -> Image.Image:
    paper, ink = _contrast(rng)
    image = Image.new("RGB", (side, side), paper)
    _write_lines(image, (4, 4, side, side), ink, rng)
    return image


def _screenshot(side: int, rng: _Random) -> Image.Image:
    image = Image.new("RGB", (side, side), _color(rng))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 6))):
        left, top, right, bottom = _box(side, rng, side // 4)
        paper, ink = _contrast(rng)
        pen.rectangle((left, top, right, bottom), paper, outline=_color(rng))
        pen.rectangle((left, top, right, top + 14), _color(rng))
        _write(pen, (left + 4, top + 1), _words(rng, 2), ink, 10)
        for x in range(right - 40, right - 4, 12):
            pen.rectangle((x, top + 3, x + 8, top + 11), _color(rng), outline=ink)
        _write_lines(image, (left + 4, top + 18, right - 2, bottom - 2), ink, rng)
    return image


def _chart(side: int, rng: _Random) -> Image.Image:
    image = Image.new("RGB", (side, side), (255, 255, 255) if rng.random() < 0.7 else _pale(rng))
    pen = ImageDraw.Draw(image)
    left, base = 30, side - 24
    for y in range(20, base, int(rng.integers(16, 40))):
        pen.line((left, y, side - 8, y), (210, 210, 210))
        _write(pen, (4, y - 5), str(rng.integers(1000)), (60, 60, 60), 9)
    count, bars = int(rng.integers(4, 16)), rng.random() < 0.5
    xs = np.linspace(left + 4, side - 12, count)
    for _ in range(1 if bars else int(rng.integers(1, 5))):
        color, ys = _color(rng), rng.uniform(20, base, count)
        if bars:
            for x, y in zip(xs, ys, strict=True):
                pen.rectangle((x, y, x + 0.7 * side / count, base), color, outline=(0, 0, 0))
        else:
            pen.line(list(zip(xs, ys, strict=True)), color, int(rng.integers(1, 4)), joint="curve")
    pen.line((left, 16, left, base, side - 8, base), (0, 0, 0), 1)
    _write(pen, (left, 2), _words(rng, 4), (0, 0, 0), 12)
    _write(pen, (left, base + 4), _words(rng, 6), (0, 0, 0), 9)
    return image


def _drawing(side: int, rng: _Random) -> Image.Image:
    # Drawn large and reduced, so that edges are smooth.
    image = Image.new("RGB", (3 * side, 3 * side), _color(rng))
    pen = ImageDraw.Draw(image)
    outline = (0, 0, 0) if rng.random() < 0.6 else None
    for _ in range(int(rng.integers(6, 30))):
        box, width = _box(3 * side, rng, 20), int(rng.integers(2, 10))
        if rng.random() < 0.5:
            pen.ellipse(box, _color(rng), outline, width)
        else:
            corners = rng.integers(0, 3 * side, (int(rng.integers(3, 7)), 2))
            pen.polygon([tuple(corner) for corner in corners.tolist()], _color(rng), outline, width)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def _pixel_art(side: int, rng: _Random) -> Image.Image:
    scale = int(rng.choice([1, 2, 3, 4, 8]))
    cells = -(-side // scale)
    palette = rng.integers(0, 256, (int(rng.integers(2, 17)), 3), np.uint8)
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(cells, cells)), rng.uniform(0.3, 2.5))
    ranks = noise.argsort(axis=None).argsort().reshape(noise.shape)
    art = palette[ranks * len(palette) // ranks.size]
    art = np.where(rng.random() < 0.5, art, art[:, ::-1])
    large = art.repeat(scale, axis=0).repeat(scale, axis=1)
    return Image.fromarray(np.ascontiguousarray(large[:side, :side]))


def _dithering(side: int, rng: _Random) -> Image.Image:
    smooth = _smooth(side, rng)
    if rng.random() < 0.5:
        return smooth.convert("1")
    colors = int(rng.choice([4, 8, 16]))
    palette = smooth.quantize(colors)
    return smooth.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def _flat(side: int, rng: _Random) -> Image.Image:
    """Draws flat or slowly changing colours, many of them saturated."""
    if rng.random() < 0.5:
        image = Image.new("RGB", (side, side), _color(rng))
    else:
        ends = np.array([_color(rng), _color(rng)], float)
        ramp = np.linspace(0, 1, side)[:, None]
        row = np.rint(ends[0] * (1 - ramp) + ends[1] * ramp).astype(np.uint8)
        image = Image.fromarray(np.broadcast_to(row, (side, side, 3)).copy())
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 6))):
        pen.rectangle(_box(side, rng, 16), _color(rng))
    return image


def _diagram(side: int, rng: _Random) -> Image.Image:
    """Draws thin lines: curves, grids and hatching."""
    paper, ink = _contrast(rng)
    image = Image.new("RGB", (side, side), paper)
    pen = ImageDraw.Draw(image)
    step = int(rng.integers(2, 12))
    left, top, right, bottom = _box(side, rng, side // 4)
    for x in range(left, right, step):
        pen.line((x, top, x, bottom), ink)
    for _ in range(int(rng.integers(5, 40))):
        color = ink if rng.random() < 0.6 else _color(rng)
        if rng.random() < 0.5:
            pen.line(tuple(rng.integers(0, side, 4).tolist()), color, int(rng.integers(1, 3)))
        else:
            start = rng.uniform(0, 360)
            pen.arc(_box(side, rng, 10), start, start + rng.uniform(30, 360), color)
        _write(pen, tuple(rng.integers(0, side, 2).tolist()), _words(rng, 1), ink, 10)
    return image


def _halftone(side: int, rng: _Random) -> Image.Image:
    """Draws a smooth picture as printed dots, on a rotated grid for each ink."""
    tones = np.asarray(_smooth(side, rng), float) / 255
    y, x = np.mgrid[:side, :side]
    inks = []
    for channel, degrees in enumerate((15, 75, 45)):
        angle, period = np.radians(degrees), rng.uniform(2.5, 6)
        u = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period
        v = (y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / period
        screen = (np.cos(u) + np.cos(v)) / 4 + 0.5
        inks.append(np.clip(3 * (tones[..., channel] - screen) + 0.5, 0, 1))
    return Image.fromarray(np.rint(255 * np.stack(inks, axis=-1)).astype(np.uint8))


def _scan(side: int, rng: _Random) -> Image.Image:
    """Draws a scanned page: rotated, blurred, unevenly lit, with noise."""
    page = _text(side, rng).rotate(
        rng.uniform(-4, 4), Image.Resampling.BICUBIC, fillcolor=_pale(rng)
    )
    levels = scipy.ndimage.gaussian_filter(
        np.asarray(page, float), (rng.uniform(0.3, 1), rng.uniform(0.3, 1), 0)
    )
    light = np.linspace(rng.uniform(0.8, 1), 1, side)[:, None, None]
    noise = rng.normal(0, rng.uniform(0, 5), levels.shape)
    return Image.fromarray(np.clip(levels * light + noise, 0, 255).astype(np.uint8))


KINDS: dict[str, Painter] = {
    "text": _text,
    "screenshot": _screenshot,
    "chart": _chart,
    "drawing": _drawing,
    "pixel art": _pixel_art,
    "dithering": _dithering,
    "flat": _flat,
    "diagram": _diagram,
    "halftone": _halftone,
    "scan": _scan,
}
"""The kinds of graphics: `function(side, rng)` draws one."""


def _color(rng: _Random) -> Color:
    """Draws a colour: saturated, pale, or gray."""
    saturation = rng.choice([0, rng.random(), 1], p=[0.2, 0.5, 0.3])
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), saturation, rng.random() ** 0.5)
    return round(255 * red), round(255 * green), round(255 * blue)


def _pale(rng: _Random) -> Color:
    red, green, blue = rng.integers(200, 256, 3).tolist()
    return red, green, blue


def _contrast(rng: _Random) -> tuple[Color, Color]:
    """Draws colours of paper and ink: black on white most often, or any two."""
    if rng.random() < 0.4:
        return (255, 255, 255), (0, 0, 0)
    if rng.random() < 0.3:
        return (30, 30, 30), (230, 230, 230)
    return (_pale(rng) if rng.random() < 0.5 else _color(rng)), _color(rng)


def _box(side: int, rng: _Random, smallest: int) -> tuple[int, int, int, int]:
    """Draws a rectangle: left, top, right, bottom."""
    left, top = rng.integers(0, side - smallest, 2).tolist()
    width, height = rng.integers(smallest, max(smallest + 1, side // 2), 2).tolist()
    return left, top, min(side - 1, left + width), min(side - 1, top + height)


def _words(rng: _Random, count: int) -> str:
    letters = np.array(list(string.ascii_letters + string.digits + "eeaaoiitnsr,.-"))
    return " ".join("".join(rng.choice(letters, rng.integers(1, 10))) for _ in range(count))


def _write(pen: ImageDraw.ImageDraw, corner: tuple, text: str, ink: Color, size: int) -> None:
    pen.text(corner, text, ink, font=ImageFont.load_default(size))


def _write_lines(
    image: Image.Image, box: tuple[int, int, int, int], ink: Color, rng: _Random
) -> None:
    """Fills a rectangle with lines of text of one size; cuts off long lines."""
    left, top, right, bottom = box
    if right - left < 8 or bottom - top < 8:
        return
    part = image.crop(box)
    pen, size = ImageDraw.Draw(part), int(rng.choice([8, 9, 10, 11, 12, 14, 18, 24, 36]))
    # Text on screens often has no smooth edges.
    pen.fontmode = "1" if rng.random() < 0.25 else "L"
    for y in range(0, bottom - top, round(1.3 * size)):
        _write(pen, (0, y), _words(rng, 12), ink, size)
    image.paste(part, (left, top))


def _smooth(side: int, rng: _Random) -> Image.Image:
    """Draws a smooth colour picture that spans all levels."""
    noise = scipy.ndimage.gaussian_filter(
        rng.normal(size=(side, side, 3)), (side / rng.uniform(4, 20),) * 2 + (0,)
    )
    low, high = noise.min(axis=(0, 1)), noise.max(axis=(0, 1))
    return Image.fromarray(np.rint(255 * (noise - low) / (high - low)).astype(np.uint8))
