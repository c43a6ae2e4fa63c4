"""Banding, figure 1 of the DMCNN paper, as a measurement.

At low quality JPEG keeps little more of a sky than each block's mean, rounded to a step of ten gray
levels: a slow ramp becomes a flight of stairs, whose treads are wider than most networks see. Skies
are made here, so that what they should be is known:

    dmcnn-banding dmcnn-qf10 dncnn3.safetensors --quality 10

The figure is the share of the JPEG's stair that remains: 1 of the JPEG, nearly 0 of the sky itself.
What is compared is the slow part of an image, its mean over a Gaussian of deviation 4 pixels, but
for the image's mean: neither noise nor single pixels count, nor does a shift of all of it.
"""

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.images.color import to_uint8
from dmcnn_jax.inference.luma import restore_plane
from dmcnn_jax.inference.model import Model

_DEVIATION = 4


def skies(
    count: int = 8, side: int = 256, noise: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Synthetic skies: slow ramps in two dimensions, slightly curved.

    Args:
        count: how many.
        side: of each, pixels, at least 16.
        noise: deviation of the noise that is added to a ramp, gray levels.
        seed: decides all.

    Returns:
        The images, uint8 [count, side, side], noisy and rounded; and the ramps without noise,
        float64 [count, side, side], gray levels, within 70 and 210.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / (side - 1) - 0.5
    ramps = []
    for _ in range(count):
        angle = random.uniform(0, 2 * np.pi)
        curvature = random.uniform(-0.4, 0.4, 3)
        ramp = x * np.cos(angle) + y * np.sin(angle)
        ramp += curvature[0] * x * x + curvature[1] * x * y + curvature[2] * y * y
        # From one side to the other 30 to 60 levels: three to six steps of a block's mean.
        ramp = (ramp - ramp.mean()) / np.ptp(ramp) * random.uniform(30, 60)
        ramps.append(ramp + random.uniform(110, 170))
    ramps = np.stack(ramps)
    images = np.round(ramps + random.normal(0, noise, ramps.shape))
    return images.clip(0, 255).astype(np.uint8), ramps


def stair(image: np.ndarray, ramp: np.ndarray) -> float:
    """How far an image strays from a ramp in its slow part: root mean square, gray levels.

    Args:
        image: [H, W], gray levels.
        ramp: float [H, W], what it should be, gray levels.

    Returns:
        Gray levels; 0 for the ramp itself, shifted by whatever constant.
    """
    slow = _smooth(np.asarray(image, np.float64) - ramp)
    return float(slow.std())


def remaining(images: np.ndarray, jpegs: np.ndarray, ramps: np.ndarray) -> np.ndarray:
    """The share of the JPEGs' stairs that remains in images: float64 [N], 1 for the JPEGs.

    Args:
        images: [N, H, W], gray levels.
        jpegs: [N, H, W], the decoded JPEGs, gray levels.
        ramps: float [N, H, W], what they should be.
    """
    triples = zip(images, jpegs, ramps, strict=True)
    return np.array([stair(image, ramp) / stair(coded, ramp) for image, coded, ramp in triples])


def restore_skies(model: Model, images: np.ndarray, quality: int) -> np.ndarray:
    """What a model makes of the JPEGs of images: uint8 [N, H, W], sides multiples of 8."""
    table = np.asarray(jpeg.quality_table(quality))
    coefficients = np.asarray(jpeg.encode(images, table))
    return np.stack([to_uint8(restore_plane(model, k, table)) for k in coefficients])


def _smooth(plane: np.ndarray) -> np.ndarray:
    """Means over a Gaussian; the plane is mirrored beyond its border."""
    radius = 3 * _DEVIATION
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * _DEVIATION**2))
    weights /= weights.sum()
    for _ in range(2):  # rows, then columns: each pass leaves the result transposed
        padded = np.pad(plane, ((radius, radius), (0, 0)), mode="symmetric")
        plane = sum(weight * padded[i : i + len(plane)] for i, weight in enumerate(weights)).T
    return plane
