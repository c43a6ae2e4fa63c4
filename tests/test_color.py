"""Colour conversion against libjpeg, Pillow, scikit-image and colours worked out by hand."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2ycbcr

from dmcnn_jax.images import color

RANGES = ("full", "studio")


@pytest.fixture(scope="module")
def colors():
    """Random colours and every corner of the cube: uint8 ``[600, 800, 3]``."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (600, 800, 3), dtype=np.uint8)
    levels = np.array([0, 1, 127, 128, 254, 255], np.uint8)
    corners = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 3)
    rgb.reshape(-1, 3)[: len(corners)] = corners
    return rgb


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "jpeg", **options)
    return file


def decode(file, mode):
    """A colour JPEG as ``mode``: "RGB", or "YCbCr" for the planes before libjpeg's conversion."""
    with Image.open(file) as image:
        image.draft(mode, image.size)
        assert image.mode == mode
        return np.asarray(image)


def test_full_y_is_pillows(colors):
    np.testing.assert_array_equal(
        color.rgb_to_y(colors, "full"), np.asarray(Image.fromarray(colors).convert("L"))
    )


def test_full_forward_is_libjpegs(colors):
    # At quality 100 every step is 1 and a flat block is one DC coefficient, 8 times its level: the
    # file holds the converted colour exactly.
    tiles = np.repeat(np.repeat(colors[:60, :80], 8, 0), 8, 1)
    file = jpeg(Image.fromarray(tiles), quality=100, subsampling=0)
    np.testing.assert_array_equal(
        color.rgb_to_ycbcr(colors[:60, :80], "full"), decode(file, "YCbCr")[::8, ::8]
    )


@pytest.mark.parametrize("quality", [3, 100])
def test_full_backward_is_libjpegs(colors, quality):
    file = jpeg(Image.fromarray(colors), quality=quality, subsampling=0)
    np.testing.assert_array_equal(
        color.ycbcr_to_rgb(decode(file, "YCbCr"), "full"), decode(file, "RGB")
    )


def test_studio_is_the_rounded_matrix(colors):
    # scikit-image has the same matrix in floating point. On a tie, either neighbour is as near.
    exact = rgb2ycbcr(colors)
    np.testing.assert_allclose(color.rgb_to_ycbcr(colors, "studio"), exact, rtol=0, atol=0.5 + 1e-9)
    is_tie = np.abs(exact % 1 - 0.5) < 1e-9
    np.testing.assert_array_equal(
        color.rgb_to_ycbcr(colors, "studio")[~is_tie], np.round(exact)[~is_tie]
    )


@pytest.mark.parametrize("color_of_tie", [(0, 204, 68), (2, 44, 141), (11, 205, 34)])
def test_studio_tie_rounds_up(color_of_tie):
    exact = 16 + np.dot(color_of_tie, [65481, 128553, 24966]) / 255000
    assert exact % 1 == 0.5
    assert color.rgb_to_y(np.uint8([color_of_tie]), "studio") == exact + 0.5


@pytest.mark.parametrize(
    ("rgb", "full", "studio"),
    [
        ((0, 0, 0), (0, 128, 128), (16, 128, 128)),
        ((255, 255, 255), (255, 128, 128), (235, 128, 128)),
        ((255, 0, 0), (76, 85, 255), (81, 90, 240)),
        ((0, 255, 0), (150, 44, 21), (145, 54, 34)),
        ((0, 0, 255), (29, 255, 107), (41, 240, 110)),
    ],
)
def test_primaries(rgb, full, studio):
    np.testing.assert_array_equal(color.rgb_to_ycbcr(np.uint8(rgb), "full"), full)
    np.testing.assert_array_equal(color.rgb_to_ycbcr(np.uint8(rgb), "studio"), studio)


@pytest.mark.parametrize("range", RANGES)
def test_y_is_the_first_of_ycbcr(colors, range):
    for rgb in (colors, colors.astype(np.float32)):
        y = color.rgb_to_y(rgb, range)
        assert y.dtype == rgb.dtype
        np.testing.assert_array_equal(y, color.rgb_to_ycbcr(rgb, range)[..., 0])


@pytest.mark.parametrize("range", RANGES)
def test_float_agrees_with_uint8(colors, range):
    exact = color.rgb_to_ycbcr(colors.astype(np.float64), range)
    # 16-bit constants are off by up to 255 / 2**17 each, MATLAB's three decimals by less.
    np.testing.assert_allclose(
        color.rgb_to_ycbcr(colors, range), np.clip(exact, 0, 255), rtol=0, atol=0.51
    )
    np.testing.assert_allclose(
        color.ycbcr_to_rgb(colors, range),
        np.clip(color.ycbcr_to_rgb(colors.astype(np.float64), range), 0, 255),
        rtol=0,
        atol=1.01 if range == "full" else 0.51,  # libjpeg rounds the two terms of a sum apart
    )


@pytest.mark.parametrize("range", RANGES)
def test_float_comes_back_out_of_gamut_too(range):
    rgb = np.random.default_rng(1).uniform(-50, 300, (2, 30, 40, 3))
    for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 2e-4)):
        there = color.rgb_to_ycbcr(rgb.astype(dtype), range)
        back = color.ycbcr_to_rgb(there, range)
        assert there.dtype == back.dtype == dtype
        np.testing.assert_allclose(back, rgb, rtol=0, atol=tolerance)


@pytest.mark.parametrize("range", RANGES)
def test_gray_is_exactly_gray_in_floating_point(range):
    y = np.random.default_rng(2).uniform(0, 255, 5000).astype(np.float32)
    gray = np.stack([y, np.full_like(y, 128), np.full_like(y, 128)], axis=-1)
    for convert in (color.ycbcr_to_rgb, jax.jit(color.ycbcr_to_rgb, static_argnums=1)):
        rgb = np.asarray(convert(gray, range))
        np.testing.assert_array_equal(rgb, rgb[:, :1].repeat(3, axis=1))


@pytest.mark.parametrize("range", RANGES)
@pytest.mark.parametrize("function", [color.rgb_to_y, color.rgb_to_ycbcr, color.ycbcr_to_rgb])
def test_jax_agrees(colors, function, range):
    jitted = jax.jit(function, static_argnums=1)
    np.testing.assert_array_equal(jitted(jnp.asarray(colors), range), function(colors, range))
    floats = colors.astype(np.float32)
    np.testing.assert_allclose(
        jitted(jnp.asarray(floats), range), function(floats, range), atol=1e-3
    )


@pytest.mark.parametrize("function", [color.rgb_to_y, color.rgb_to_ycbcr, color.ycbcr_to_rgb])
def test_errors_name_the_mistake(function):
    with pytest.raises(TypeError, match=r"int32.*expected uint8"):
        function(np.zeros((4, 4, 3), np.int32), "full")
    with pytest.raises(ValueError, match=r"\(4, 4\).*channels last"):
        function(np.zeros((4, 4), np.uint8), "full")
    with pytest.raises(ValueError, match=r"'jpeg'.*studio"):
        function(np.zeros((4, 4, 3), np.uint8), "jpeg")


def test_weights_are_those_of_bt_601(colors):
    """ITU-R BT.601, table 1: 0.299, 0.587, 0.114; and of the conversion to Cb and Cr."""
    np.testing.assert_allclose(color.LUMA_WEIGHTS, [0.299, 0.587, 0.114], rtol=1e-15)
    rgb = colors[:50].astype(np.float64)
    weights = np.array([color.LUMA_WEIGHTS, color.CB_WEIGHTS, color.CR_WEIGHTS])
    np.testing.assert_allclose(
        color.rgb_to_ycbcr(rgb, "full"), rgb @ weights.T + [0, 128, 128], atol=1e-10
    )
