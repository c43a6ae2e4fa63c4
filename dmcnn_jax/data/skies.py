"""Skies drawn by code, for training: slow gradients, which JPEG turns into bands.

At low quality, JPEG keeps little more of a smooth sky than each block's mean, in steps of about ten
grey levels. Few photographs have large skies that are free of bands themselves.
"""

import numpy as np
import scipy.ndimage
from PIL import Image, ImageDraw

# Colours from top to bottom: day, haze, dusk, dawn, overcast, night, and a studio's backdrop.
_COLORS = np.array(
    [
        [[60, 120, 200], [175, 205, 235]],
        [[150, 180, 210], [235, 235, 230]],
        [[40, 50, 110], [240, 150, 90]],
        [[110, 130, 180], [250, 205, 170]],
        [[150, 155, 160], [215, 215, 215]],
        [[8, 10, 24], [50, 55, 80]],
        [[40, 40, 40], [190, 190, 190]],
    ],
    float,
)


def draw_sky(side: int, rng: np.random.Generator) -> Image.Image:
    """Draws a sky, RGB, `side` pixels high and wide: a gradient with noise, often with a skyline.

    Args:
        side: pixels.
        rng: random numbers.
    """
    y, x = np.mgrid[:side, :side] / side - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    bends = rng.uniform(-0.5, 0.5, 3)
    ramp = x * np.cos(angle) + y * np.sin(angle)
    ramp += bends[0] * x * x + bends[1] * x * y + bends[2] * y * y
    if rng.random() < 0.4:
        ramp += rng.uniform(0.05, 0.3) * _clouds(side, rng)
    ramp = (ramp - ramp.min()) / np.ptp(ramp)
    # A part of the sky's colours: 10 to 100 % of the way from top to bottom.
    low, high = np.sort(rng.random(2)) if rng.random() < 0.7 else (0, 1)
    high = max(high, low + 0.1)
    top, bottom = _COLORS[rng.integers(len(_COLORS))] + rng.uniform(-15, 15, (2, 3))
    place = (low + (high - low) * ramp)[..., None]
    sky = top * (1 - place) + bottom * place
    image = np.clip(sky, 0, 255)
    if rng.random() < 0.5:
        image = _add_skyline(image, rng)
    # Noise of a reduced photograph, the same in all channels for the most part.
    sigma = rng.uniform(0, 1.5)
    image += rng.normal(0, sigma, (side, side, 1)) + rng.normal(0, 0.3 * sigma, (side, side, 3))
    return Image.fromarray(np.clip(np.rint(image), 0, 255).astype(np.uint8))


SKIES = {"sky": draw_sky}
"""As `graphics.KINDS`, for `graphics.Graphics`."""


def _clouds(side: int, rng: np.random.Generator) -> np.ndarray:
    """Draws soft clouds, of mean 0 and standard deviation 1: [side, side]."""
    noise = rng.normal(size=(side, side))
    soft = scipy.ndimage.gaussian_filter(noise, side / rng.uniform(8, 25), mode="wrap")
    return (soft - soft.mean()) / soft.std()


def _add_skyline(sky: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws dark hills or houses over the lower part of a sky, [side, side, 3], edges smoothed."""
    side, scale = len(sky), 3
    mask = Image.new("L", (scale * side, scale * side))
    pen = ImageDraw.Draw(mask)
    count = int(rng.integers(4, 20))
    heights = scale * side * rng.uniform(0.6, 0.95, count + 1)
    xs = np.linspace(0, scale * side, count + 1)
    if rng.random() < 0.5:
        for left, right, top in zip(xs[:-1], xs[1:], heights, strict=False):
            pen.rectangle((left, top, right, scale * side), 255)
    else:
        outline = list(zip(xs.tolist(), heights.tolist(), strict=True))
        pen.polygon([(0, scale * side), *outline, (scale * side, scale * side)], 255)
    small = mask.resize((side, side), Image.Resampling.LANCZOS)
    cover = np.asarray(small, float)[..., None] / 255
    return sky * (1 - cover) + rng.uniform(0, 90, 3) * cover
