"""Draws test pictures other than photographs: text, charts, pixel art, scans, textures.

They have nothing in common with the graphics that networks are trained on (`data.graphics`). Each
kind is drawn by code from a seed, so that a set of any size can be made anywhere and needs no
licence. `GRAPHICS` are pictures that restoring must not harm; `SURFACES` are pictures that only
seem to have traces of an earlier save.
"""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from dmcnn_jax.images.labels import default_font

Painter = Callable[[np.random.Generator, int, int], np.ndarray]
"""Draws a picture of a given height and width: uint8 [height, width, 3], RGB."""

_TEXT = (
    "the quick brown fox jumps over a lazy dog while seven wizards mix liquid quartz and vexed"
    " boxers judge many hymns Figure 12 shows 3.14 at 27% of 1,024 pixels (see page 8)"
)


def draw(kind: str, seed: int, height: int = 192, width: int = 256) -> np.ndarray:
    """Draws a picture.

    Args:
        kind: a key of `GRAPHICS` or of `SURFACES`.
        seed: the same seed gives the same picture.
        height: in pixels.
        width: in pixels.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        KeyError: there is no such kind.
    """
    painter = {**GRAPHICS, **SURFACES}[kind]
    return painter(np.random.default_rng(seed), height, width)


def _pixel_art(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws mirrored sprites of few colours, magnified without smoothing."""
    scale = int(rng.choice([1, 2, 3, 4, 8]))
    rows, columns = -(-height // scale), -(-width // scale)
    palette = _palette(rng, int(rng.integers(3, 12)))
    cells = np.zeros((rows, columns), int)
    for top, left in itertools.product(range(1, rows - 8, 9), range(1, columns - 8, 9)):
        half = rng.integers(0, len(palette), (8, 4)) * (rng.random((8, 4)) < 0.7)
        cells[top : top + 8, left : left + 8] = np.hstack([half, half[:, ::-1]])
    picture = palette[cells].repeat(scale, axis=0).repeat(scale, axis=1)
    return picture[:height, :width]


def _dithered(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws a smooth picture in two levels or few colours, by error diffusion or a Bayer matrix."""
    smooth = _clouds(rng, height, width, rng.uniform(1.5, 2.5)) * rng.uniform(40, 80) + 128
    if rng.random() < 0.5:
        gray = Image.fromarray(np.clip(smooth, 0, 255).astype(np.uint8))
        levels = np.asarray(gray.convert("1", dither=Image.Dither.FLOYDSTEINBERG)) * 255.0
    else:
        bayer = np.array([[0, 2], [3, 1]])
        for _ in range(2):
            bayer = np.block([[4 * bayer, 4 * bayer + 2], [4 * bayer + 3, 4 * bayer + 1]])
        threshold = np.tile((bayer + 0.5) * 4, (-(-height // 8), -(-width // 8)))
        levels = np.where(smooth > threshold[:height, :width], 255.0, 0.0)
    dark, light = _ink_and_paper(rng)
    return _mix(levels / 255, dark, light)


def _text(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws lines of text of one size, ink on paper, at any contrast."""
    paper, ink = _colors_of_contrast(rng, rng.uniform(10, 255))
    image = Image.new("RGB", (width, height), paper)
    _write_lines(rng, ImageDraw.Draw(image), (4, 4, width, height), int(rng.integers(8, 24)), ink)
    return np.asarray(image)


def _screenshot(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws windows with title bars, buttons, icons and text."""
    image = Image.new("RGB", (width, height), _color(rng))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 5))):
        left, top = int(rng.integers(0, width // 2)), int(rng.integers(0, height // 2))
        right = left + int(rng.integers(width // 3, width))
        bottom = top + int(rng.integers(height // 3, height))
        paper, ink = _colors_of_contrast(rng, rng.uniform(60, 255))
        pen.rectangle((left, top, right, bottom), paper, outline=ink)
        pen.rectangle((left, top, right, top + 16), _color(rng))
        _write_lines(rng, pen, (left + 4, top + 2, right, top + 16), 11, (255, 255, 255))
        _write_lines(rng, pen, (left + 6, top + 22, right, bottom - 26), 12, ink)
        for x in range(left + 6, right - 40, 50):
            pen.rounded_rectangle((x, bottom - 22, x + 42, bottom - 6), 4, _color(rng), ink)
    return np.asarray(image)


def _chart(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws axes with labels and a grid, and bars, curves or points."""
    image = Image.new("RGB", (2 * width, 2 * height), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    left, bottom = 60, 2 * height - 40
    for i in range(6):
        y = bottom - i * (bottom - 20) // 6
        pen.line((left, y, 2 * width - 20, y), (215, 215, 215), 2)
        pen.text((10, y - 12), str(i * 20), (60, 60, 60), default_font(22))
    x = np.linspace(left, 2 * width - 30, 24)
    for _ in range(int(rng.integers(1, 4))):
        y = np.clip(bottom - np.abs(np.cumsum(rng.normal(8, 40, len(x)))), 20, bottom)
        color, style = _color(rng), rng.integers(3)
        if style == 0:
            pen.line([tuple(p) for p in zip(x.tolist(), y.tolist(), strict=True)], color, 4)
        for px, py in zip(x.tolist(), y.tolist(), strict=True):
            if style == 1:
                pen.rectangle((px, py, px + 14, bottom), color)
            elif style == 2:
                pen.ellipse((px - 6, py - 6, px + 6, py + 6), color)
    pen.line((left, 10, left, bottom, 2 * width - 20, bottom), (0, 0, 0), 3)
    _write_lines(rng, pen, (left + 60, 12, 2 * width, 44), 24, (0, 0, 0))
    return _halved(image)


def _line_drawing(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws thin smooth lines on plain paper: plans, comics, handwriting."""
    paper, ink = _colors_of_contrast(rng, rng.uniform(80, 255))
    image = Image.new("RGB", (2 * width, 2 * height), paper)
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(8, 30))):
        t = np.linspace(0, rng.uniform(0.5, 2) * np.pi, 60)
        (fx, fy), (px, py) = rng.uniform(0.5, 3, 2), rng.uniform(0, 6, 2)
        x = width * (1 + rng.uniform(0.2, 1) * np.sin(fx * t + px))
        y = height * (1 + rng.uniform(0.2, 1) * np.sin(fy * t + py))
        points = [tuple(p) for p in zip(x.tolist(), y.tolist(), strict=True)]
        pen.line(points, ink, int(rng.integers(1, 6)))
    return _halved(image)


def _flat_shapes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws areas of plain colour with smooth or stepped edges: logos, maps, cartoons."""
    scale = int(rng.integers(1, 3))
    image = Image.new("RGB", (scale * width, scale * height), _color(rng))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(6, 25))):
        x, y = rng.uniform(0, scale * width), rng.uniform(0, scale * height)
        r = rng.uniform(6, scale * height / 3)
        outline = (0, 0, 0) if rng.random() < 0.4 else None
        if rng.random() < 0.5:
            pen.ellipse((x - r, y - r, x + r, y + r), _color(rng), outline, 2)
        else:
            angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
            points = [(x + r * np.cos(a), y + r * np.sin(a)) for a in angles.tolist()]
            pen.polygon(points, _color(rng), outline)
    return _halved(image) if scale == 2 else np.asarray(image)


def _code(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws squares or stripes in black and white, of whole pixels: bar codes and matrix codes."""
    module = int(rng.integers(1, 9))
    shape = (-(-height // module), -(-width // module))
    cells = rng.random((1, shape[1]) if rng.random() < 0.3 else shape) < 0.5
    picture = np.broadcast_to(cells, shape).repeat(module, axis=0).repeat(module, axis=1)
    dark, light = _ink_and_paper(rng)
    return _mix(picture[:height, :width].astype(float), dark, light)


def _halftone(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws scanned print: dots of four inks on rotated screens, blurred, on grainy paper."""
    y, x = np.mgrid[:height, :width]
    pitch = rng.uniform(3, 8)
    picture = np.ones((height, width, 3))
    inks = np.array([[0.9, 0.2, 0], [0.1, 0.85, 0.25], [0, 0.05, 0.9], [0.8, 0.8, 0.8]])
    for angle, ink in zip((15, 75, 0, 45), inks, strict=True):
        c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        waves = np.cos(2 * np.pi * (c * x + s * y) / pitch) * np.cos(
            2 * np.pi * (c * y - s * x) / pitch
        )
        tone = _clouds(rng, height, width, 2.2) * 0.4
        dots = 1 / (1 + np.exp(-6 * (waves - tone)))
        picture *= 1 - dots[..., None] * ink
    picture = ndimage.gaussian_filter(picture, (rng.uniform(0.4, 1), rng.uniform(0.4, 1), 0))
    return _to_pixels(picture * 235 + rng.normal(0, rng.uniform(1, 4), (height, width, 1)))


def _scanned_text(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws a scanned page: blurred ink, uneven light, the grain of paper and sensor."""
    image = Image.new("L", (width, height), 255)
    _write_lines(
        rng, ImageDraw.Draw(image), (4, 4, width, height), int(rng.integers(10, 24)), (0,) * 3
    )
    ink = np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.2)))) / 255
    light = 200 + 25 * _clouds(rng, height, width, 3) + _grain(rng, height, width, 1, 3)
    page = light * (rng.uniform(0.1, 0.4) * (1 - ink) + ink)
    tint = np.array([1, rng.uniform(0.94, 1), rng.uniform(0.8, 1)])
    return _to_pixels(page[..., None] * tint)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws fine uniform texture: gravel, plaster, grass, fabric; deviation of 2 to 8 levels."""
    grain = _grain(rng, height, width, rng.uniform(0, 2), rng.uniform(2, 8))
    tone = rng.uniform(15, 240, 1) if rng.random() < 0.5 else rng.uniform(15, 240, 3)
    return _to_pixels(grain[..., None] + tone)


def _bricks(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws a pale wall, tiles or planks: a regular pattern of low contrast, with texture."""
    tall, wide = int(rng.integers(6, 30)), int(rng.integers(10, 70))
    y, x = np.mgrid[:height, :width]
    row = y // tall
    joint = (y % tall < 2) | ((x + row % 2 * (wide // 2)) % wide < 2)
    wall = _grain(rng, height, width, rng.uniform(0, 1.5), rng.uniform(1, 5))
    wall += np.where(joint, -rng.uniform(4, 25), 0) + rng.uniform(60, 225)
    return _to_pixels(wall[..., None] + rng.uniform(-10, 10, 3))


def _faint_text(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws gray text on gray paper, at a contrast of 4 to 60 levels."""
    paper = int(rng.integers(70, 256))
    ink = paper - int(rng.integers(4, 61))
    image = Image.new("L", (width, height), paper)
    _write_lines(
        rng, ImageDraw.Draw(image), (4, 4, width, height), int(rng.integers(8, 24)), (ink,) * 3
    )
    return np.asarray(image.convert("RGB"))


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws a linear or radial gradient, plain or with noise that hides its steps."""
    y, x = np.mgrid[:height, :width] - rng.uniform(0, 200, (2, 1, 1))
    angle = rng.uniform(0, 2 * np.pi)
    along = np.hypot(x, y) if rng.random() < 0.4 else np.cos(angle) * x + np.sin(angle) * y
    along = (along - along.min()) / np.ptp(along)
    start, end = rng.uniform(0, 255, (2, 3))
    noise = rng.normal(0, 1, (height, width, 1)) * (rng.uniform(0, 2) * (rng.random() < 0.5))
    return _to_pixels(start + along[..., None] * (end - start) + noise)


def _microscopy(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws blurred cells on a plain ground, with the noise of a sensor."""
    picture = np.zeros((height, width))
    y, x = np.mgrid[:height, :width]
    for _ in range(int(rng.integers(5, 40))):
        cy, cx, r = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(4, 25)
        far = np.hypot(y - cy, (x - cx) * rng.uniform(0.7, 1.4)) / r
        picture += rng.uniform(0.3, 1) * np.exp(-(far ** rng.uniform(2, 6)))
    picture = picture * rng.uniform(15, 90) * rng.choice([-1, 1]) + rng.uniform(60, 200)
    picture += _grain(rng, height, width, rng.uniform(0, 1), rng.uniform(1, 6))
    return _to_pixels(picture[..., None] * rng.uniform(0.8, 1, 3))


def _noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws white noise, in gray or in colour."""
    channels = int(rng.choice([1, 3]))
    noise = rng.normal(0, rng.uniform(2, 40), (height, width, channels))
    return _to_pixels(noise + rng.uniform(40, 215, channels))


def _night(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draws a dark scene with a few lights, and the noise of a sensor at high gain."""
    scene = np.exp(_clouds(rng, height, width, 2) * 0.8) * rng.uniform(3, 15)
    for _ in range(int(rng.integers(1, 12))):
        lights = np.zeros((height, width))
        lights[rng.integers(height), rng.integers(width)] = rng.uniform(2e3, 4e4)
        scene += ndimage.gaussian_filter(lights, rng.uniform(1, 8))
    color = scene[..., None] * rng.uniform(0.5, 1, 3)
    gain = rng.uniform(0.5, 4)
    return _to_pixels(rng.poisson(np.minimum(color, 400) / gain) * gain)


GRAPHICS: Mapping[str, Painter] = {
    "pixel art": _pixel_art,
    "dithering": _dithered,
    "text": _text,
    "screenshot": _screenshot,
    "chart": _chart,
    "line drawing": _line_drawing,
    "flat shapes": _flat_shapes,
    "codes": _code,
    "halftone print": _halftone,
    "scanned text": _scanned_text,
}
"""Ten kinds of graphics."""

SURFACES: Mapping[str, Painter] = {
    "texture": _texture,
    "bricks": _bricks,
    "faint text": _faint_text,
    "gradient": _gradient,
    "microscopy": _microscopy,
    "noise": _noise,
    "night": _night,
}
"""Seven kinds of pictures of uniform tone, or with little but noise."""


def _clouds(rng: np.random.Generator, height: int, width: int, slope: float) -> np.ndarray:
    """Returns noise whose amplitude falls as frequency^-slope: mean 0, deviation 1."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    far = np.maximum(np.hypot(fy, fx), 1 / max(height, width))
    spectrum = np.fft.rfft2(rng.normal(size=(height, width))) / far**slope
    spectrum[0, 0] = 0
    clouds = np.fft.irfft2(spectrum, (height, width))
    return clouds / clouds.std()


def _grain(
    rng: np.random.Generator, height: int, width: int, blur: float, deviation: float
) -> np.ndarray:
    """Returns blurred noise of a given deviation, in levels."""
    grain = ndimage.gaussian_filter(rng.normal(size=(height, width)), blur, mode="wrap")
    return grain / grain.std() * deviation


def _color(rng: np.random.Generator) -> tuple[int, int, int]:
    """Returns a colour, one in four black or white, and one in four gray."""
    choice = rng.random()
    if choice < 0.25:
        return ((0, 0, 0), (255, 255, 255))[int(rng.integers(2))]
    r, g, b = (int(c) for c in rng.integers(0, 256, 3))
    return (r, r, r) if choice < 0.5 else (r, g, b)


def _palette(rng: np.random.Generator, number: int) -> np.ndarray:
    """Returns some colours: uint8 [number, 3]."""
    return np.array([_color(rng) for _ in range(number)], np.uint8)


def _colors_of_contrast(
    rng: np.random.Generator, contrast: float
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the colours of paper and ink, which differ by a number of levels."""
    low = rng.uniform(0, 255 - contrast)
    pair = [np.full(3, low), np.full(3, low + contrast)]
    if rng.random() < 0.4:
        pair[int(rng.integers(2))] = rng.uniform(low, low + contrast, 3)
    if rng.random() < 0.7:  # dark ink on light paper
        pair.reverse()
    paper, ink = (tuple(int(c) for c in color) for color in pair)
    return paper, ink


def _ink_and_paper(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns black and white, or sometimes two other colours: float64 [3] each."""
    if rng.random() < 0.6:
        return np.zeros(3), np.full(3, 255.0)
    return rng.uniform(0, 100, 3), rng.uniform(150, 255, 3)


def _mix(share: np.ndarray, dark: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Returns colours between two: uint8 [height, width, 3]."""
    return _to_pixels(dark + share[..., None] * (light - dark))


def _write_lines(
    rng: np.random.Generator,
    pen: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    size: int,
    ink: tuple[int, ...],
) -> None:
    """Writes random words into a box: left, top, right and bottom."""
    left, top, right, bottom = box
    if pen.mode == "L":
        ink = ink[:1]
    for y in range(top, bottom - size, size + 4):
        words = rng.choice(_TEXT.split(), max(1, (right - left) // (3 * size)))
        pen.text((left, y), " ".join(words), ink, default_font(size))


def _halved(image: Image.Image) -> np.ndarray:
    """Halves a picture, which smooths its edges."""
    return np.asarray(image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX))


def _to_pixels(levels: np.ndarray) -> np.ndarray:
    """Rounds and clips levels to uint8 [height, width, 3]; one channel becomes three."""
    pixels = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy()
