"""The block DCT against SciPy and against the convolution that it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.images import color


def scipy_dct(plane):
    """Float64 coefficients [..., H/8, W/8, 64] of a plane, by SciPy."""
    *lead, height, width = plane.shape
    blocks = plane.reshape(*lead, height // 8, 8, width // 8, 8).swapaxes(-3, -2)
    blocks = scipy.fft.dctn(blocks.astype(np.float64), axes=(-2, -1), norm="ortho")
    return blocks.reshape(*lead, height // 8, width // 8, 64)


@pytest.mark.parametrize("shape", [(8, 8), (16, 40), (3, 24, 8), (2, 3, 56, 56)])
def test_dct_matches_scipy(rng, shape):
    plane = rng.random(shape, dtype=np.float32)
    np.testing.assert_allclose(jpeg.dct(plane), scipy_dct(plane), atol=2e-6)


@pytest.mark.parametrize("shape", [(8, 8), (16, 40), (3, 24, 8), (2, 3, 56, 56)])
def test_idct_inverts_dct(rng, shape):
    plane = rng.random(shape, dtype=np.float32)
    np.testing.assert_allclose(jpeg.idct(jpeg.dct(plane)), plane, atol=2e-6)
    coefficients = jpeg.dct(plane)
    np.testing.assert_allclose(jpeg.dct(jpeg.idct(coefficients)), coefficients, atol=4e-6)


def test_channels_are_natural_order():
    # A horizontal ramp has horizontal frequencies only: channels 0 to 7.
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32), (8, 8))
    across, down = jpeg.dct(ramp)[0, 0], jpeg.dct(ramp.T)[0, 0]
    np.testing.assert_allclose(across[8:], 0, atol=1e-5)
    np.testing.assert_allclose(across.reshape(8, 8).T, down.reshape(8, 8), atol=1e-5)
    np.testing.assert_allclose(across[0], 8 * 3.5, rtol=1e-6)  # 8 times the mean
    assert abs(across[1]) > 10


def test_is_the_fixed_convolution_and_its_transpose(rng):
    plane = rng.random((2, 24, 40), dtype=np.float32)
    kernels = jpeg.BASIS_IMAGES.transpose(1, 2, 0)[:, :, None, :]  # HWIO
    layout = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": lax.Precision.HIGHEST}
    convolved = lax.conv_general_dilated(plane[..., None], kernels, (8, 8), "VALID", **layout)
    transposed = lax.conv_transpose(
        convolved, kernels, (8, 8), "VALID", transpose_kernel=True, **layout
    )
    np.testing.assert_allclose(jpeg.dct(plane), convolved, atol=2e-6)
    np.testing.assert_allclose(jpeg.idct(convolved), transposed[..., 0], atol=2e-6)


def test_gradients_are_the_transposes(rng):
    # The transform is orthonormal: the gradient of <g, dct(x)> is idct(g), and the other way round.
    plane = rng.random((2, 16, 24), dtype=np.float32)
    coefficients = rng.random((2, 2, 3, 64), dtype=np.float32)
    by_plane = jax.grad(lambda x: jnp.vdot(coefficients, jpeg.dct(x)))(plane)
    by_coefficients = jax.grad(lambda x: jnp.vdot(plane, jpeg.idct(x)))(coefficients)
    np.testing.assert_allclose(by_plane, jpeg.idct(coefficients), atol=2e-6)
    np.testing.assert_allclose(by_coefficients, jpeg.dct(plane), atol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_always_float32(rng, dtype):
    plane = jnp.asarray(rng.random((16, 16)), dtype)
    coefficients = jpeg.dct(plane)
    assert coefficients.dtype == jnp.float32
    np.testing.assert_allclose(coefficients, scipy_dct(np.asarray(plane, np.float64)), atol=2e-6)
    assert jpeg.idct(coefficients.astype(dtype)).dtype == jnp.float32


def test_always_highest_precision():
    with jax.default_matmul_precision("bfloat16"):
        jaxpr = str(jax.make_jaxpr(lambda x: jpeg.idct(jpeg.dct(x)))(jnp.zeros((8, 8))))
    assert jaxpr.count("dot_general") == 2
    assert jaxpr.count("Precision.HIGHEST, Precision.HIGHEST") == 2


@settings(max_examples=20, deadline=None)
@given(
    lead=st.lists(st.integers(1, 3), max_size=2),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    dtype=st.sampled_from([np.uint8, np.int16, np.float32]),
)
def test_blocks_by_slicing(lead, rows, columns, dtype):
    plane = np.arange(np.prod(lead, dtype=int) * rows * columns * 64).astype(dtype)
    plane = plane.reshape(*lead, rows * 8, columns * 8)
    blocks = jpeg.to_blocks(plane)
    assert blocks.dtype == dtype
    assert blocks.shape == (*lead, rows, columns, 64)
    for i in range(rows):
        for j in range(columns):
            block = plane[..., 8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
            np.testing.assert_array_equal(blocks[..., i, j, :].reshape(block.shape), block)
    np.testing.assert_array_equal(jpeg.from_blocks(blocks), plane)


def test_interval_by_hand():
    coefficients = np.zeros((2, 1, 1, 64), np.int16)
    coefficients[0, 0, 0, 1] = 3  # u = 1, v = 0
    coefficients[1, 0, 0, 8] = -2  # u = 0, v = 1
    tables = jpeg.quality_table(np.array([50, 50]))
    lower, upper = jpeg.interval(coefficients, tables, margin=0.25)
    assert lower.dtype == upper.dtype == jnp.float32
    assert lower[0, 0, 0, 1] == 3 * 11 - 5.5 - 0.25
    assert upper[0, 0, 0, 1] == 3 * 11 + 5.5 + 0.25
    assert lower[1, 0, 0, 8] == -2 * 12 - 6 - 0.25
    assert upper[1, 0, 0, 8] == -2 * 12 + 6 + 0.25
    assert upper[0, 0, 0, 63] == 99 / 2 + 0.25
    np.testing.assert_array_equal(jpeg.dequantize(coefficients, tables), (lower + upper) / 2)
    narrow_lower, narrow_upper = jpeg.interval(coefficients, tables[0], margin=0)
    np.testing.assert_array_equal(
        narrow_upper - narrow_lower, jnp.broadcast_to(jpeg.per_block(tables[0]), coefficients.shape)
    )


@jax.jit
def quantisation_interval(plane, table):
    return jpeg.interval(jpeg.encode(plane, table), table)


def assert_inside_interval(plane, quality):
    whole = plane[: plane.shape[0] // 8 * 8, : plane.shape[1] // 8 * 8]
    lower, upper = quantisation_interval(whole, jpeg.quality_table(quality))
    exact = scipy_dct(whole.astype(np.float64) - 128)
    assert np.all((exact >= lower) & (exact <= upper))


@pytest.mark.parametrize("quality", [10, 20, 50, 90])
def test_originals_lie_inside_their_interval(photographs, rng, quality):
    for plane in photographs.values():
        assert_inside_interval(plane, quality)
    assert_inside_interval(rng.integers(0, 256, (512, 512), dtype=np.uint8), quality)
    assert_inside_interval(rng.integers(0, 2, (512, 512), dtype=np.uint8) * np.uint8(255), quality)


@pytest.mark.parametrize("quality", [10, 20, 50, 90])
def test_every_block_of_live1_lies_inside_its_interval(live1, quality):
    for path in live1:
        rgb = np.asarray(Image.open(path).convert("RGB"))
        assert_inside_interval(color.rgb_to_y(rgb, range="studio"), quality)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jpeg.dct(np.zeros((8, 12), np.float32)), r"shape \(8, 12\).*pad it"),
        (lambda: jpeg.dct(np.zeros((8, 8), np.uint8)), "plane of dtype uint8"),
        (lambda: jpeg.idct(np.zeros((1, 1, 63), np.float32)), r"shape \(1, 1, 63\)"),
        (lambda: jpeg.idct(np.zeros((1, 1, 64), np.int32)), "coefficients of dtype int32"),
        (lambda: jpeg.from_blocks(np.zeros((64,))), r"shape \(64,\)"),
        (
            lambda: jpeg.interval(np.zeros((1, 1, 64)), jpeg.STANDARD_LUMA),
            "coefficients have dtype float64",
        ),
        (
            lambda: jpeg.interval(np.zeros((1, 1, 64), int), jpeg.STANDARD_LUMA[0]),
            r"table has shape \(8,\)",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
