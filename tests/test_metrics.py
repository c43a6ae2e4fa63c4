"""The measures against scikit-image, plain loops, cases worked by hand, and published figures."""

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from dmcnn_jax.images import color, metrics

SIZES = [(8, 8), (8, 9), (11, 11), (13, 29), (16, 24), (23, 40), (37, 61)]


def pair(rng, shape):
    """An image with structure, and one like it: uint8 ``[H, W]`` both."""
    rows, columns = np.indices(shape)
    original = 128 + 60 * np.sin(rows / 5) + 50 * np.cos(columns / 7) + rng.normal(0, 9, shape)
    output = original + rng.normal(0, 12, shape) + 8 * (columns // 8 % 2)
    return (np.clip(np.rint(a), 0, 255).astype(np.uint8) for a in (original, output))


def ssim_by_loops(x, y, weights):
    """Equation 13 of Wang et al., one window at a time, moments taken about the mean."""
    side = len(weights)
    values = []
    for i in range(x.shape[0] - side + 1):
        for j in range(x.shape[1] - side + 1):
            a = x[i : i + side, j : j + side].astype(float)
            b = y[i : i + side, j : j + side].astype(float)
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            variance_a = (weights * (a - mean_a) ** 2).sum()
            variance_b = (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                ((2 * mean_a * mean_b + 6.5025) * (2 * covariance + 58.5225))
                / ((mean_a**2 + mean_b**2 + 6.5025) * (variance_a + variance_b + 58.5225))
            )
    return np.mean(values)


def psnr_b_by_loops(x, y):
    """Yim and Bovik's definition, one pair of neighbours at a time, edges counted as published."""
    height, width = x.shape
    edge = other = 0.0
    for i in range(height):
        for j in range(width):
            for di, dj, at_edge in ((0, 1, (j + 1) % 8 == 0), (1, 0, (i + 1) % 8 == 0)):
                if i + di < height and j + dj < width:
                    square = (float(y[i, j]) - float(y[i + di, j + dj])) ** 2
                    edge, other = edge + square * at_edge, other + square * (not at_edge)
    edges = height * (width / 8 - 1) + width * (height / 8 - 1)
    others = height * (width - 1) + width * (height - 1) - edges
    effect = 0.0
    if edges and edge / edges > other / others:
        effect = 3 / math.log2(min(height, width)) * (edge / edges - other / others)
    error = ((x.astype(float) - y) ** 2).mean()
    return 10 * math.log10(65025 / (error + effect))


@pytest.mark.parametrize("shape", SIZES)
def test_psnr_is_scikit_images(rng, shape):
    original, output = pair(rng, shape)
    assert metrics.psnr(original, output) == pytest.approx(
        peak_signal_noise_ratio(original, output), abs=1e-10
    )


@pytest.mark.parametrize("shape", SIZES)
def test_ssim_is_the_formula(rng, shape):
    original, output = pair(rng, shape)
    expected = ssim_by_loops(original, output, np.full((8, 8), 1 / 64))
    assert metrics.ssim(original, output) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("shape", [size for size in SIZES if min(size) >= 11])
def test_ssim_gauss_is_the_formula_and_scikit_images(rng, shape):
    original, output = pair(rng, shape)
    line = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    weights = np.outer(line, line) / line.sum() ** 2
    ours = metrics.ssim_gauss(original, output)
    assert ours == pytest.approx(ssim_by_loops(original, output, weights), abs=1e-10)
    theirs = structural_similarity(
        original, output, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ours == pytest.approx(theirs, abs=1e-10)


@pytest.mark.parametrize("shape", SIZES)
def test_psnr_b_is_the_formula(rng, shape):
    original, output = pair(rng, shape)
    assert metrics.psnr_b(original, output) == pytest.approx(
        psnr_b_by_loops(original, output), abs=1e-10
    )
    assert metrics.psnr_b(output, original) == pytest.approx(
        psnr_b_by_loops(output, original), abs=1e-10
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(11, 40), st.integers(11, 40), st.integers(0, 2**32 - 1))
def test_noise_of_any_size(height, width, seed):
    original, output = np.random.default_rng(seed).integers(
        0, 256, (2, height, width), dtype=np.uint8
    )
    measured = metrics.measure(original, output)
    assert measured["psnr"] == pytest.approx(peak_signal_noise_ratio(original, output))
    assert measured["ssim_gauss"] == pytest.approx(
        structural_similarity(
            original, output, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        ),
        abs=1e-10,
    )
    assert measured["psnr_b"] == pytest.approx(psnr_b_by_loops(original, output))
    assert measured["psnr_b"] <= measured["psnr"]
    assert -1 <= measured["ssim"] <= 1


def seamless(rng):
    """Noise whose 8 x 8 blocks join without a step: uint8 ``[32, 40]``."""
    rows, columns = np.arange(32), np.arange(40)
    rows[8::8] -= 1
    columns[8::8] -= 1
    return rng.integers(100, 120, (32, 40), dtype=np.uint8)[rows][:, columns]


def test_identical_images(rng):
    plane = seamless(rng)
    assert metrics.measure(plane, plane) == {
        "psnr": math.inf,
        "ssim": 1.0,
        "ssim_gauss": 1.0,
        "psnr_b": math.inf,
    }


def test_identical_images_with_blocks_have_a_finite_psnr_b():
    # Two flat blocks, 10 levels apart: 8 pairs at the edge, N_H = 8 (16 / 8 - 1) = 8 of them,
    # N_V = 0, nothing elsewhere. Effect: 100 * log2(8) / log2(8).
    plane = np.repeat(np.uint8([[0, 10]]), 8, axis=0).repeat(8, axis=1)
    assert metrics.psnr(plane, plane) == math.inf
    assert metrics.psnr_b(plane, plane) == pytest.approx(10 * math.log10(65025 / 100))


def test_constant_images():
    # No variance: what is left of SSIM is the luminance term. Nothing differs: no blocking.
    black, gray = np.zeros((24, 20), np.uint8), np.full((24, 20), 10, np.uint8)
    measured = metrics.measure(black, gray)
    psnr = 20 * math.log10(255 / 10)
    similarity = 6.5025 / (100 + 6.5025)
    assert measured == pytest.approx(
        {"psnr": psnr, "ssim": similarity, "ssim_gauss": similarity, "psnr_b": psnr}
    )


def test_one_block_has_no_block_edges(rng):
    original, output = rng.integers(0, 256, (2, 8, 8), dtype=np.uint8)
    assert metrics.psnr_b(original, output) == metrics.psnr(original, output)


def test_blocks_are_looked_for_in_the_output_alone(rng):
    plane = seamless(rng)
    blocky = plane.copy()
    blocky[8:16] += 50
    assert metrics.psnr_b(plane, blocky) < metrics.psnr(plane, blocky)
    assert metrics.psnr_b(blocky, plane) == metrics.psnr(blocky, plane)


def test_mean():
    rows = [{"psnr": 30.0, "ssim": 0.5}, {"psnr": 33.0, "ssim": 0.75}]
    assert metrics.mean(rows) == {"psnr": 31.5, "ssim": 0.625}
    assert metrics.mean([*rows, {"psnr": math.inf, "ssim": 1.0}]) == {
        "psnr": math.inf,
        "ssim": 0.75,
    }


@pytest.mark.parametrize(
    ("quality", "psnr", "ssim", "ssim_gauss", "psnr_b"),
    [(10, 27.770, 0.7905, 0.7730, 25.333), (20, 30.072, 0.8683, 0.8512, 27.566)],
)
def test_published_figures_of_live1(live1, quality, psnr, ssim, ssim_gauss, psnr_b):
    # Zhang et al. (ICIP 2018) print 27.77 / .791 / 25.33 and 30.07 / .868 / 27.57.
    measured = []
    for path in live1:
        with Image.open(path) as image:
            original = color.rgb_to_y(np.asarray(image.convert("RGB")), "studio")
        file = io.BytesIO()
        Image.fromarray(original).save(file, "jpeg", quality=quality)
        measured.append(metrics.measure(original, np.asarray(Image.open(file))))
    assert len(measured) == 29
    mean = metrics.mean(measured)
    assert mean["psnr"] == pytest.approx(psnr, abs=5e-4)
    assert mean["ssim"] == pytest.approx(ssim, abs=5e-5)
    assert mean["ssim_gauss"] == pytest.approx(ssim_gauss, abs=5e-5)
    assert mean["psnr_b"] == pytest.approx(psnr_b, abs=5e-4)


@pytest.mark.parametrize(
    "measure", [metrics.measure, metrics.psnr, metrics.ssim, metrics.ssim_gauss, metrics.psnr_b]
)
def test_wrong_images_are_refused(measure):
    plane = np.zeros((16, 16), np.uint8)
    with pytest.raises(TypeError, match=r"output is float64; expected uint8"):
        measure(plane, plane / 255)
    with pytest.raises(ValueError, match=r"\(16, 16\) and output \(16, 8\)"):
        measure(plane, plane[:, :8])
    with pytest.raises(ValueError, match=r"\(1, 16, 16\)"):
        measure(plane[None], plane[None])


@pytest.mark.parametrize(
    ("measure", "smallest"), [(metrics.ssim, 8), (metrics.ssim_gauss, 11), (metrics.psnr_b, 8)]
)
def test_images_smaller_than_the_window_are_refused(measure, smallest):
    plane = np.zeros((40, smallest), np.uint8)
    measure(plane, plane)
    with pytest.raises(
        ValueError, match=rf"{smallest - 1} x 40 .*at least {smallest} x {smallest}"
    ):
        measure(plane[:, 1:].T, plane[:, 1:].T)


def test_mean_refuses_nothing_and_unlike_things():
    with pytest.raises(ValueError, match="at least one image"):
        metrics.mean([])
    with pytest.raises(ValueError, match=r"\['ssim'\].*\['psnr'\]"):
        metrics.mean([{"psnr": 1.0}, {"ssim": 1.0}])
