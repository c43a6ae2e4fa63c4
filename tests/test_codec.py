"""The codec against libjpeg, to the last bit: Pillow for pixels, jpeglib for coefficients."""

import functools
import io

import jax
import jax.numpy as jnp
import jpeglib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.images import color

roundtrip = jax.jit(jpeg.roundtrip)
encode = jax.jit(jpeg.encode)
decode = jax.jit(jpeg.decode)


def pillow_file(plane, **options):
    file = io.BytesIO()
    Image.fromarray(plane).save(file, "JPEG", **options)
    return file


def pillow_options(table):
    return {"qtables": [np.asarray(table).ravel().tolist()]}


def pillow_roundtrip(plane, **options):
    return np.asarray(Image.open(pillow_file(plane, **options)))


def write(folder, plane, **options):
    path = folder / "plane.jpg"
    path.write_bytes(pillow_file(plane, **options).getvalue())
    return str(path)


def libjpeg_coefficients(plane, folder, **options):
    file = jpeglib.read_dct(write(folder, plane, **options))
    return file.Y.reshape(*file.Y.shape[:2], 64), file.qt[0]


def planes_of_every_kind(rng, photograph, count, side):
    """uint8 [count, side, side]: crops, noise over several ranges, black and white, constants."""
    planes = []
    for index in range(count):
        y, x = (rng.integers(0, n - side + 1) for n in photograph.shape)
        kinds = [
            lambda y=y, x=x: photograph[y : y + side, x : x + side],
            lambda: rng.integers(0, 256, (side, side)),
            lambda: rng.integers(0, 2, (side, side)) * 255,
            lambda: np.full((side, side), rng.integers(0, 256)),
            lambda: np.clip(rng.normal(128, 20, (side, side)), 0, 255),
            lambda y=y, x=x: (
                np.kron(rng.integers(0, 2, (side // 4, side // 4)), np.ones((4, 4))) * 255
            ),
        ]
        planes.append(np.asarray(kinds[index % len(kinds)](), np.float64).astype(np.uint8))
    return np.stack(planes)


def test_pixels_of_photographs_at_every_quality(photographs):
    # 22 million pixels: each photograph at every fourth quality. chelsea has 300 x 451 pixels.
    for start, plane in enumerate(photographs.values(), 1):
        for quality in range(start, 101, 4):
            expected = pillow_roundtrip(plane, quality=quality)
            np.testing.assert_array_equal(roundtrip(plane, jpeg.quality_table(quality)), expected)


def test_pixels_of_every_kind_at_every_quality(photographs, rng):
    # 4.8 million pixels in one call, each image with its own quality.
    planes = planes_of_every_kind(rng, photographs["coffee"], 1200, 64)
    qualities = np.arange(1200) // 6 % 100 + 1
    ours = roundtrip(planes, jpeg.quality_table(qualities))
    for plane, quality, decoded in zip(planes, qualities, np.asarray(ours), strict=True):
        np.testing.assert_array_equal(decoded, pillow_roundtrip(plane, quality=int(quality)))


def test_pixels_of_live1(live1):
    # 11 million pixels at the qualities of the tables that papers print.
    for path in live1:
        plane = color.rgb_to_y(np.asarray(Image.open(path).convert("RGB")), range="studio")
        for quality in (10, 20):
            expected = pillow_roundtrip(plane, quality=quality)
            np.testing.assert_array_equal(roundtrip(plane, jpeg.quality_table(quality)), expected)


def odd_tables(rng):
    yield from (np.full((8, 8), step) for step in (1, 2, 3, 7, 16, 64, 127, 128, 200, 255))
    yield from (rng.integers(1, 256, (8, 8)) for _ in range(20))
    yield from (rng.integers(1, 5, (8, 8)) for _ in range(10))
    yield np.where(np.indices((8, 8)).sum(0) % 2, 1, 255)
    yield np.arange(1, 65).reshape(8, 8)


def test_pixels_and_coefficients_with_odd_tables(photographs, rng, tmp_path):
    for table in odd_tables(rng):
        for plane in planes_of_every_kind(rng, photographs["astronaut"], 6, 104):
            options = pillow_options(table)
            coefficients, stored = libjpeg_coefficients(plane, tmp_path, **options)
            np.testing.assert_array_equal(stored, table)
            np.testing.assert_array_equal(encode(plane, table), coefficients)
            np.testing.assert_array_equal(
                decode(coefficients, table), pillow_roundtrip(plane, **options)
            )


def test_tables_of_16_bits(photographs, rng, tmp_path):
    tables = [np.full((8, 8), step) for step in (256, 300, 511, 1000, 8191)]
    tables += [rng.integers(1, 1001, (8, 8)) for _ in range(20)]
    for table in tables:
        for plane in planes_of_every_kind(rng, photographs["astronaut"], 6, 104):
            options = pillow_options(table)
            coefficients, stored = libjpeg_coefficients(plane, tmp_path, **options)
            np.testing.assert_array_equal(stored, table)
            np.testing.assert_array_equal(encode(plane, table), coefficients)
            np.testing.assert_array_equal(
                decode(coefficients, table), pillow_roundtrip(plane, **options)
            )


@pytest.mark.parametrize("quality", [1, 10, 50, 75, 95, 100])
def test_coefficients_of_photographs(photographs, tmp_path, quality):
    for plane in photographs.values():
        coefficients, table = libjpeg_coefficients(plane, tmp_path, quality=quality)
        ours = encode(plane, jpeg.quality_table(quality))
        assert ours.dtype == jnp.int32
        np.testing.assert_array_equal(table, jpeg.quality_table(quality))
        np.testing.assert_array_equal(ours, coefficients)


def test_every_size(rng, tmp_path):
    # Every remainder of either side, on a picture where it matters what the edge is padded with.
    picture = np.cumsum(rng.integers(-9, 10, (24, 24)), axis=1)
    picture = np.clip(picture + 128, 0, 255).astype(np.uint8)
    table = jpeg.quality_table(80)
    for height in range(1, 18):
        width = height * 5 % 17 + 1
        plane = np.ascontiguousarray(picture[:height, :width])
        coefficients, _ = libjpeg_coefficients(plane, tmp_path, quality=80)
        np.testing.assert_array_equal(encode(plane, table), coefficients)
        ours = roundtrip(plane, table)
        np.testing.assert_array_equal(ours, pillow_roundtrip(plane, quality=80))
        whole = np.asarray(decode(coefficients, table))
        assert whole.shape == (-(-height // 8) * 8, -(-width // 8) * 8)
        np.testing.assert_array_equal(whole[:height, :width], ours)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.lists(st.integers(1, 255), min_size=64, max_size=64),
    low=st.integers(0, 255),
    high=st.integers(0, 255),
)
def test_any_pixels_with_any_table(seed, steps, low, high):
    low, high = sorted((low, high))
    plane = np.random.default_rng(seed).integers(low, high + 1, (40, 40)).astype(np.uint8)
    table = np.array(steps).reshape(8, 8)
    expected = pillow_roundtrip(plane, **pillow_options(table))
    np.testing.assert_array_equal(roundtrip(plane, table), expected)


def rounded_half_away(numerator, divisor):
    """By exact integer arithmetic, which is what encode must agree with."""
    magnitude = (2 * np.abs(numerator) + divisor) // (2 * divisor)
    return np.sign(numerator) * magnitude


def test_quantisation_is_exact_at_every_tie(rng):
    # Flat blocks reach every DC value exactly: 8 * (level - 128). Every table step sees its ties.
    levels = np.arange(256, dtype=np.uint8)
    planes = np.broadcast_to(levels[:, None, None], (256, 8, 8))
    dc = 8 * (levels.astype(np.int64) - 128)
    steps = np.concatenate([np.arange(1, 2100), rng.integers(2100, 65536, 200), [65535]])
    tables = np.broadcast_to(steps[:, None, None, None], (len(steps), 1, 8, 8)).astype(np.int32)
    coefficients = jax.jit(jax.vmap(lambda table: jpeg.encode(planes, table)))(tables)
    expected = rounded_half_away(dc[None, :], steps[:, None])
    np.testing.assert_array_equal(coefficients[:, :, 0, 0, 0], expected)
    assert not np.any(coefficients[..., 1:])


def test_crops_at_multiples_of_8_commute(photographs):
    plane = photographs["camera"]
    table = jpeg.quality_table(10)
    whole = np.asarray(roundtrip(plane, table))
    np.testing.assert_array_equal(roundtrip(plane[64:120, 136:192], table), whole[64:120, 136:192])


def test_batches_jit_and_vmap_agree(rng):
    planes = rng.integers(0, 256, (6, 24, 40), dtype=np.uint8)
    tables = jpeg.quality_table(np.array([5, 10, 20, 40, 80, 100]))
    one_by_one = np.stack(
        [jpeg.roundtrip(plane, table) for plane, table in zip(planes, tables, strict=True)]
    )
    for function in (
        jpeg.roundtrip,
        jax.jit(jpeg.roundtrip),
        jax.vmap(jpeg.roundtrip),
        jax.jit(jax.vmap(jpeg.roundtrip)),
    ):
        np.testing.assert_array_equal(function(planes, tables), one_by_one)
    shared = jax.vmap(jpeg.roundtrip, in_axes=(0, None))(planes, tables[2])
    np.testing.assert_array_equal(jpeg.roundtrip(planes, tables[2]), shared)
    nested = jpeg.roundtrip(planes.reshape(2, 3, 24, 40), tables.reshape(2, 3, 8, 8))
    np.testing.assert_array_equal(nested.reshape(6, 24, 40), one_by_one)
    by_column = jpeg.roundtrip(planes.reshape(2, 3, 24, 40), tables[:3])
    np.testing.assert_array_equal(by_column[0], one_by_one[:3])


def test_qualities_can_be_traced(rng):
    planes = rng.integers(0, 256, (3, 16, 16), dtype=np.uint8)
    at_quality = jax.jit(lambda plane, quality: jpeg.roundtrip(plane, jpeg.quality_table(quality)))
    ours = at_quality(planes, jnp.array([7, 33, 92]))
    for plane, quality, decoded in zip(planes, (7, 33, 92), np.asarray(ours), strict=True):
        np.testing.assert_array_equal(decoded, pillow_roundtrip(plane, quality=quality))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64])
def test_coefficients_may_be_stored_in_16_bits(rng, dtype):
    table = jpeg.quality_table(100)
    planes = rng.integers(0, 2, (4, 64, 64), dtype=np.uint8) * np.uint8(255)
    coefficients = np.asarray(jpeg.encode(planes, table)).astype(dtype)
    np.testing.assert_array_equal(
        jpeg.decode(coefficients, table.astype(np.uint16)), jpeg.roundtrip(planes, table)
    )


def test_constants_are_those_of_the_plain_arithmetic():
    # A flat block of level c decodes from DC alone: round(k * Q / 8) + 128, halves up.
    steps = np.arange(1, 1025, dtype=np.int32)
    coefficients = np.zeros((1024, 1, 1, 64), np.int16)
    coefficients[..., 0] = 1
    tables = np.broadcast_to(steps[:, None, None], (1024, 8, 8))
    expected = np.clip((steps + 4) // 8 + 128, 0, 255)
    decoded = np.asarray(jpeg.decode(coefficients, tables))
    np.testing.assert_array_equal(decoded, np.broadcast_to(expected[:, None, None], (1024, 8, 8)))


@pytest.mark.parametrize("step", [1, 3, 16, 255])
def test_coefficients_that_no_encoder_chose(rng, tmp_path, step):
    # As after trellis quantisation or editing, and far past it: up to the documented bound.
    file = jpeglib.read_dct(write(tmp_path, np.zeros((128, 128), np.uint8), quality=50))
    weights = rng.exponential(size=file.Y.shape) * (rng.random(file.Y.shape) < 0.3)
    share = weights / np.maximum(weights.sum(axis=2, keepdims=True), 1)
    signs = rng.choice([-1, 1], file.Y.shape)
    file.Y[:] = np.fix(np.clip(share * signs * (2900 / step), -1023, 1023))
    file.qt[:] = step
    path = str(tmp_path / "crafted.jpg")
    file.write_dct(path)
    decoded = decode(file.Y.reshape(16, 16, 64), np.full((8, 8), step))
    np.testing.assert_array_equal(decoded, np.asarray(Image.open(path).convert("L")))


@pytest.mark.parametrize("dc_only", [True, False])
@pytest.mark.parametrize("step", [1, 65535])
def test_crafted_coefficients_saturate(dc_only, step):
    # No sum wraps: all basis images are positive in the first pixel, so it is white or black.
    coefficients = np.zeros((2, 1, 1, 64), np.int16)
    coefficients[..., : 1 if dc_only else 64] = np.reshape([32767, -32768], (2, 1, 1, 1))
    decoded = jpeg.decode(coefficients, np.full((8, 8), step))
    np.testing.assert_array_equal(decoded[:, 0, 0], [255, 0])


def test_straight_through_gradient(rng):
    plane = rng.uniform(-20, 275, (2, 20, 28)).astype(np.float32)
    weights = rng.normal(size=plane.shape).astype(np.float32)
    tables = jpeg.quality_table(np.array([10, 60]))

    @jax.jit
    def loss(x, table):
        return jnp.vdot(weights, jpeg.simulate(x, table))

    gradient = jax.grad(loss)(plane, tables)
    inside = (plane >= 0) & (plane <= 255)
    np.testing.assert_array_equal(gradient, np.where(inside, weights, 0))
    value, tangent = jax.jvp(
        functools.partial(jpeg.simulate, table=tables), (plane,), (np.ones_like(plane),)
    )
    np.testing.assert_array_equal(tangent, inside)
    assert value.dtype == tangent.dtype == jnp.float32
    levels = np.clip(np.rint(plane), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(value, jpeg.roundtrip(levels, tables))


def test_gradient_of_whole_levels_includes_black_and_white():
    plane = jnp.array([[0.0, 255.0]])
    gradient = jax.grad(lambda x: jpeg.simulate(x, jpeg.STANDARD_LUMA).sum())(plane)
    np.testing.assert_array_equal(gradient, [[1, 1]])


def test_gradient_reaches_through_a_network_in_bfloat16():
    plane = jnp.full((8, 8), 100, jnp.bfloat16)
    gradient = jax.grad(lambda x: jpeg.simulate(x, jpeg.STANDARD_LUMA).sum())(plane)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient, 1)


def test_lowers_for_accelerators():
    plane = jax.ShapeDtypeStruct((2, 56, 50), jnp.uint8)
    table = jax.ShapeDtypeStruct((2, 8, 8), jnp.int32)
    exported = export.export(roundtrip, platforms=["tpu", "cuda"])(plane, table)
    assert exported.platforms == ("tpu", "cuda")
    assert exported.out_avals[0].shape == plane.shape


PLANE = np.zeros((2, 8, 8), np.uint8)
COEFFICIENTS = np.zeros((2, 1, 1, 64), np.int32)
LUMA = jpeg.STANDARD_LUMA


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jpeg.encode(PLANE.astype(np.float32), LUMA), "plane has dtype float32.*simulate"),
        (lambda: jpeg.encode(PLANE[0, 0], LUMA), r"plane has shape \(8,\)"),
        (lambda: jpeg.encode(PLANE[:, :0], LUMA), r"plane has shape \(2, 0, 8\)"),
        (lambda: jpeg.roundtrip(PLANE[0, 0], LUMA), r"plane has shape \(8,\)"),
        (lambda: jpeg.encode(PLANE, LUMA.ravel()), r"table has shape \(64,\)"),
        (lambda: jpeg.encode(PLANE, LUMA.astype(float)), "table has dtype float64"),
        (lambda: jpeg.encode(PLANE, LUMA * 0), "table holds steps from 0 to 0"),
        (lambda: jpeg.encode(PLANE, LUMA * 1000), "to 121000; expected 1..65535"),
        (lambda: jpeg.encode(PLANE, np.stack([LUMA] * 3)), r"tables of shape \(3, 8, 8\) do not"),
        (lambda: jpeg.encode(PLANE[0], np.stack([LUMA])), r"tables of shape \(1, 8, 8\) do not"),
        (lambda: jpeg.decode(COEFFICIENTS * 1.0, LUMA), "coefficients have dtype float"),
        (lambda: jpeg.decode(COEFFICIENTS[..., :63], LUMA), r"shape \(2, 1, 1, 63\)"),
        (lambda: jpeg.decode(COEFFICIENTS, np.stack([LUMA] * 3)), r"\(3, 8, 8\) do not fit"),
        (lambda: jpeg.simulate(PLANE, LUMA), "plane has dtype uint8.*roundtrip"),
        (lambda: jpeg.simulate(PLANE * 1.0, LUMA * 0), "table holds steps from 0 to 0"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
