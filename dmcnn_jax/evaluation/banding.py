"""Banding, as in figure 1 of the DMCNN paper, turned into a measurement.

At low quality JPEG keeps little more of a smooth sky than each block's mean, quantised in steps of
about ten grey levels. A slow ramp becomes a staircase, with steps wider than the receptive field of
most networks. The skies are synthetic, so their exact ramps are known.

    dmcnn-banding dmcnn-qf10 dncnn3.safetensors --quality 10

The measure is the share of the JPEG's banding that remains in a restored image: 1 for the JPEG
itself, nearly 0 for the original sky. Only low frequencies are compared: images are smoothed by a
Gaussian with a standard deviation of 4 pixels, and their mean is subtracted, so that noise, single
pixels and a constant offset don't count.
"""

import numpy as np
from scipy import ndimage

from dmcnn_jax import jpeg
from dmcnn_jax.images.color import to_uint8
from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.plane import restore_plane

_SIGMA = 4


def make_skies(
    count: int = 8, side: int = 256, noise: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Makes synthetic skies: slow, slightly curved ramps in two dimensions.

    Args:
        count: number of skies.
        side: height and width of each, pixels, at least 16.
        noise: standard deviation of the noise that is added to a ramp, grey levels.
        seed: of the random numbers.

    Returns:
        The images with noise, rounded, uint8 [count, side, side]; and the ramps without noise,
        float64 [count, side, side], from 70 to 210 grey levels.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / (side - 1) - 0.5
    skies = []
    for _ in range(count):
        angle = random.uniform(0, 2 * np.pi)
        curvature = random.uniform(-0.4, 0.4, 3)
        ramp = x * np.cos(angle) + y * np.sin(angle)
        ramp += curvature[0] * x * x + curvature[1] * x * y + curvature[2] * y * y
        # 30 to 60 levels across the image are three to six quantisation steps of a block's mean.
        ramp = (ramp - ramp.mean()) / np.ptp(ramp) * random.uniform(30, 60)
        skies.append(ramp + random.uniform(110, 170))
    ramps = np.stack(skies)
    images = np.round(ramps + random.normal(0, noise, ramps.shape))
    return images.clip(0, 255).astype(np.uint8), ramps


def restore_skies(model: Model, images: np.ndarray, quality: int) -> np.ndarray:
    """Compresses images and restores them with a model.

    Args:
        model: the model.
        images: uint8 [N, H, W], sides multiples of 8.
        quality: JPEG quality, 1 to 100.

    Returns:
        uint8 [N, H, W].
    """
    table = np.asarray(jpeg.quality_table(quality))
    coefficients = np.asarray(jpeg.encode(images, table))
    return np.stack([to_uint8(restore_plane(model, k, table)) for k in coefficients])


def banding_ratios(images: np.ndarray, jpegs: np.ndarray, ramps: np.ndarray) -> np.ndarray:
    """Returns the share of the JPEGs' banding that remains in images: float64 [N], 1 for JPEGs.

    Args:
        images: [N, H, W], grey levels.
        jpegs: [N, H, W], the decoded JPEGs, grey levels.
        ramps: float [N, H, W], the exact ramps, grey levels.
    """
    triples = zip(images, jpegs, ramps, strict=True)
    return np.array(
        [banding_error(image, ramp) / banding_error(coded, ramp) for image, coded, ramp in triples]
    )


def banding_error(image: np.ndarray, ramp: np.ndarray) -> float:
    """Returns the low-frequency error of an image against a ramp, root mean square, grey levels.

    Args:
        image: [H, W], grey levels.
        ramp: float [H, W], the exact ramp, grey levels.

    Returns:
        Grey levels; 0 for the ramp itself plus any constant.
    """
    error = np.asarray(image, np.float64) - ramp
    return float(ndimage.gaussian_filter(error, _SIGMA, mode="reflect", truncate=3).std())
