"""Image quality metrics, computed as in the papers on JPEG artifacts.

Everything is computed from two gray images, uint8 ``[H, W]``, levels 0 to 255, over the whole image
with no border cropped. The choice of gray matters: the literature measures studio-range Y,
``color.rgb_to_y(rgb, "studio")``. NumPy in float64, or in integers where those are exact.

A network's output is rounded and clipped to uint8 before it is measured, as it would be saved.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

_PEAK = 255
_BLOCK = 8
# The constants of Wang et al. 2004, for levels up to 255.
_C1 = (0.01 * _PEAK) ** 2
_C2 = (0.03 * _PEAK) ** 2
_GAUSS_RADIUS = 5
_GAUSS_SIGMA = 1.5

SMALLEST_SIDE = 2 * _GAUSS_RADIUS + 1
"""The smallest height and width that `measure` accepts, pixels."""

HEADINGS = {"psnr": "PSNR", "ssim": "SSIM 8×8", "ssim_gauss": "SSIM Gauss", "psnr_b": "PSNR-B"}
"""Names of the measures in tables, by their keys in `measure`'s result, in order."""


def measure(original: ArrayLike, output: ArrayLike) -> dict[str, float]:
    """Computes PSNR, both SSIMs and PSNR-B of one image.

    Args:
        original: uint8 ``[H, W]``, both sides at least 11.
        output: uint8 ``[H, W]``.

    Returns:
        ``{"psnr": dB, "ssim": ..., "ssim_gauss": ..., "psnr_b": dB}``.

    Raises:
        TypeError: if either image is not uint8.
        ValueError: if the images are not planes of one shape, or are smaller than 11 x 11.
    """
    return {
        "psnr": psnr(original, output),
        "ssim": ssim(original, output),
        "ssim_gauss": ssim_gauss(original, output),
        "psnr_b": psnr_b(original, output),
    }


def mean(measurements: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Averages every measure over images: each image counts once, whatever its size.

    PSNR is averaged in dB, as published. An image restored perfectly has infinite PSNR and so makes
    the mean infinite: leaving it out would lower the mean for doing better.

    Args:
        measurements: what ``measure`` returned, one for each image, all with the same keys.

    Returns:
        The keys of the measurements, in their order, with the mean of each.

    Raises:
        ValueError: if there is no measurement, or their keys differ.
    """
    if not measurements:
        raise ValueError("no measurements to average; expected at least one image.")
    names = list(measurements[0])
    for measurement in measurements:
        if set(measurement) != set(names):
            raise ValueError(
                f"a measurement has {sorted(measurement)}, the first one {sorted(names)}; "
                "expected the same measures of every image."
            )
    return {name: math.fsum(m[name] for m in measurements) / len(measurements) for name in names}


def psnr(original: ArrayLike, output: ArrayLike) -> float:
    """Computes the peak signal-to-noise ratio, 10 log10(255² / MSE), in dB.

    Infinite for identical images.

    Args:
        original: uint8 ``[H, W]``.
        output: uint8 ``[H, W]``.

    Raises:
        TypeError: if either image is not uint8.
        ValueError: if the images are not planes of one shape.
    """
    original, output = _planes(original, output)
    return _decibels(_mean_squared_error(original, output))


def ssim(original: ArrayLike, output: ArrayLike) -> float:
    """Computes structural similarity over 8 x 8 uniform windows: the SSIM of the DMCNN paper.

    Equation 13 of Wang, Bovik, Sheikh, Simoncelli, *Image quality assessment: from error visibility
    to structural similarity*, IEEE TIP 2004, with K1 = 0.01, K2 = 0.03, variances and covariances
    of a population (divided by 64, not 63), averaged over every window that lies inside the image.

    Args:
        original: uint8 ``[H, W]``, both sides at least 8.
        output: uint8 ``[H, W]``.

    Returns:
        SSIM, at most 1; 1 for identical images.

    Raises:
        TypeError: if either image is not uint8.
        ValueError: if the images are not planes of one shape, or are smaller than 8 x 8.
    """
    original, output = _planes(original, output, smallest=8, measure="SSIM over 8 x 8 windows")
    return _mean_similarity(original, output, _uniform_8)


def ssim_gauss(original: ArrayLike, output: ArrayLike) -> float:
    """Computes structural similarity over 11 x 11 Gaussian windows: the SSIM of today's papers.

    The window (sigma 1.5) is that of the paper of 2004; all else is as in ``ssim``. Equals
    scikit-image's
    ``structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)``.

    Args:
        original: uint8 ``[H, W]``, both sides at least 11.
        output: uint8 ``[H, W]``.

    Returns:
        SSIM, at most 1; 1 for identical images.

    Raises:
        TypeError: if either image is not uint8.
        ValueError: if the images are not planes of one shape, or are smaller than 11 x 11.
    """
    original, output = _planes(
        original, output, smallest=SMALLEST_SIDE, measure="SSIM over 11 x 11 windows"
    )
    return _mean_similarity(original, output, _gauss_11)


def psnr_b(original: ArrayLike, output: ArrayLike) -> float:
    """Computes PSNR with the blocking effect of the output added to the MSE, in dB.

    Yim and Bovik, *Quality assessment of deblocked images*, IEEE TIP 2011, on the 8 x 8 grid. Not
    symmetric: only ``output`` is searched for block edges.

    Args:
        original: uint8 ``[H, W]``, both sides at least 8.
        output: uint8 ``[H, W]``.

    Returns:
        dB. Identical images have infinite PSNR-B only if pixels differ no more across block edges
        than elsewhere, since an original too can have an edge on the grid by chance.

    Raises:
        TypeError: if either image is not uint8.
        ValueError: if the images are not planes of one shape, or are smaller than 8 x 8.
    """
    original, output = _planes(original, output, smallest=_BLOCK, measure="PSNR-B")
    return _decibels(_mean_squared_error(original, output) + _blocking_effect(output))


def _blocking_effect(plane: np.ndarray) -> float:
    """Returns how much more neighbours differ across block edges than elsewhere, squared levels.

    All differences across the lines of the 8 x 8 grid are summed, but their *number* is taken as H
    (W/8 - 1) + W (H/8 - 1), not rounded: slightly less than the true number if a side is not a
    multiple of 8. Published figures are computed in this way.
    """
    height, width = plane.shape
    across = np.square(np.diff(plane.astype(np.int64), axis=1)).sum(axis=0)  # [W - 1]
    down = np.square(np.diff(plane.astype(np.int64), axis=0)).sum(axis=1)  # [H - 1]

    edge = int(across[_BLOCK - 1 :: _BLOCK].sum() + down[_BLOCK - 1 :: _BLOCK].sum())
    elsewhere = int(across.sum() + down.sum()) - edge
    edges = height * (width / _BLOCK - 1) + width * (height / _BLOCK - 1)
    if edges == 0:  # a single block has no edges
        return 0.0
    pairs = height * (width - 1) + width * (height - 1)
    excess = edge / edges - elsewhere / (pairs - edges)
    return max(excess, 0.0) * math.log2(_BLOCK) / math.log2(min(height, width))


def _mean_similarity(
    original: np.ndarray, output: np.ndarray, window: Callable[[np.ndarray], np.ndarray]
) -> float:
    x, y = original.astype(np.int32), output.astype(np.int32)
    # The formula needs squares and variances only as sums over the two images.
    mean_x, mean_y, mean_squares, mean_product = (
        window(plane) for plane in (x, y, x * x + y * y, x * y)
    )
    squared_means, product_of_means = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    variances = mean_squares - squared_means
    covariance = mean_product - product_of_means
    luminance = (2 * product_of_means + _C1) / (squared_means + _C1)
    structure = (2 * covariance + _C2) / (variances + _C2)
    return float(np.mean(luminance * structure))


def _uniform_8(plane: np.ndarray) -> np.ndarray:
    """Returns the means over all 8 x 8 windows inside the plane, float64 ``[H - 7, W - 7]``."""
    # Sums of 2, then 4, then 8 neighbours; integers below 128 * 255², so exact.
    for shift in (1, 2, 4):
        plane = plane[shift:] + plane[:-shift]
        plane = plane[:, shift:] + plane[:, :-shift]
    return plane / 64


def _gauss_11(plane: np.ndarray) -> np.ndarray:
    """Returns Gaussian means over all 11 x 11 windows inside, float64 ``[H - 10, W - 10]``."""
    offsets = np.arange(-_GAUSS_RADIUS, _GAUSS_RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * _GAUSS_SIGMA**2))
    weights /= weights.sum()
    plane = plane.astype(np.float64)
    for _ in range(2):  # rows, then columns: each pass leaves the result transposed
        length = len(plane) - 2 * _GAUSS_RADIUS
        plane = sum(weight * plane[i : i + length] for i, weight in enumerate(weights)).T
    return plane


def bootstrap(
    differences: Sequence[float], resamples: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """Returns the mean of paired differences and its 95 % interval, by resampling images.

    Args:
        differences: one for each image.
        resamples: how many sets of that many images are drawn, with replacement.
        seed: seed of the random draws.

    Returns:
        {"mean", "low", "high"}: the mean, and the 2.5 and 97.5 % quantiles of the resampled means.
    """
    values = np.asarray(differences, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def format_gain(gain: Mapping[str, float]) -> str:
    """Formats a result of `bootstrap`, such as "+1.446 (+1.350 … +1.548)"."""
    return f"{gain['mean']:+.3f} ({gain['low']:+.3f} … {gain['high']:+.3f})"


def _mean_squared_error(original: np.ndarray, output: np.ndarray) -> float:
    return float(np.mean(np.square(original.astype(np.int32) - output)))


def _decibels(squared_error: float) -> float:
    return 10 * math.log10(_PEAK**2 / squared_error) if squared_error else math.inf


def _planes(
    original: ArrayLike, output: ArrayLike, smallest: int = 1, measure: str = "PSNR"
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the two images as NumPy arrays; raises unless they are planes of one shape."""
    original, output = np.asarray(original), np.asarray(output)
    for name, plane in (("original", original), ("output", output)):
        if plane.dtype != np.uint8:
            raise TypeError(
                f"{name} is {plane.dtype}; expected uint8, levels 0 to 255, rounded and clipped."
            )
    if original.ndim != 2 or original.shape != output.shape:
        raise ValueError(
            f"original has shape {original.shape} and output {output.shape}; "
            "expected two planes of one shape [H, W]."
        )
    if min(original.shape) < smallest:
        raise ValueError(
            f"the image is {original.shape[0]} x {original.shape[1]} (height x width); "
            f"{measure} needs at least {smallest} x {smallest}."
        )
    return original, output
