"""The entropy encoder: the data of libjpeg's scans, and of an encoder written after T.81."""

import jpeg_cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jpeg_cases import segments_of

from dmcnn_jax import jpeg
from dmcnn_jax.jpeg.file_layout import TYPICAL_SEGMENTS, divide, read_scan_header
from dmcnn_jax.jpeg.huffman_encoder import CodedPlane, encode_scan, fill_units, make_code

CODES = {
    "dc": make_code(jpeg_cases.DC_TABLE[:16], jpeg_cases.DC_TABLE[16:]),
    "ac": make_code(jpeg_cases.AC_TABLE[:16], jpeg_cases.AC_TABLE[16:]),
}
FACTORS = (
    [(1, 1)],
    [(1, 1)] * 3,
    [(1, 1)] * 4,
    [(2, 2), (1, 1), (1, 1)],
    [(1, 2), (1, 1), (1, 1)],
    [(4, 1), (1, 1), (1, 1)],
    [(2, 1), (1, 1), (1, 1), (2, 1)],
)


def photo(height, width, seed=0):
    """A picture with edges and noise, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 5 + y / 9), np.cos(x * y / 300), np.sin(y / 3)], -1)
    return np.clip(128 + 90 * waves + rng.normal(0, 15, waves.shape), 0, 255).astype(np.uint8)


def scan_data(data):
    """The bytes of a file up to its first scan's data, and that data."""
    piece = next(p for p in divide(data) if p.kind == "data")
    return data[: piece.start], data[piece.start : piece.end]


def coded(data):
    """The data of a file's only scan, coded anew."""
    head, _ = scan_data(data)
    header, file = read_scan_header(head), jpeg.read(data)
    planes = []
    for tables, component in zip(header.components, file.components, strict=True):
        v, h = (tables.vertical, tables.horizontal) if len(header.components) > 1 else (1, 1)
        filled = fill_units(component.coefficients, v, h)
        planes.append(CodedPlane(filled, v, h, make_code(*tables.dc), make_code(*tables.ac)))
    return encode_scan(planes, restart_interval=header.restart_interval)


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 95, "subsampling": 0},
        {"quality": 60, "subsampling": 1},
        {"quality": 60, "subsampling": 2},
        {"quality": 20, "subsampling": 2, "optimize": True},
        {"quality": 100, "subsampling": 2, "restart_marker_blocks": 2},
        {"quality": 40, "subsampling": 0, "restart_marker_rows": 1, "optimize": True},
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (17, 40), (67, 121)])
def test_libjpegs_scans_come_out_bit_for_bit(size, options):
    data = jpeg_cases.pillow(photo(*size), **options)
    assert coded(data) == scan_data(data)[1]


@pytest.mark.parametrize("channels", [1, 4])
def test_gray_and_cmyk_scans_come_out_bit_for_bit(channels):
    pixels = np.dstack([photo(43, 58), photo(43, 58, 1)])[..., :channels]
    data = jpeg_cases.pillow(
        pixels[..., 0] if channels == 1 else pixels, {1: "L", 4: "CMYK"}[channels], quality=70
    )
    assert coded(data) == scan_data(data)[1]


def test_large_pictures_are_coded_in_bands():
    data = jpeg_cases.pillow(photo(520, 700), quality=30, subsampling=0, restart_marker_blocks=999)
    assert coded(data) == scan_data(data)[1]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    factors=st.sampled_from(FACTORS),
    restart=st.integers(0, 5),
)
def test_data_equal_those_of_an_encoder_after_t81(seed, size, factors, restart):
    planes = jpeg_cases.planes(np.random.default_rng(seed), *size, factors)
    _, expected = scan_data(jpeg_cases.write(*size, planes, restart=restart))
    if len(planes) == 1:
        planes[0].vertical = planes[0].horizontal = 1
    across = max(p.horizontal for p in planes)
    down = max(p.vertical for p in planes)
    units = -(-size[0] // (8 * down)), -(-size[1] // (8 * across))
    padded = []
    for plane in planes:
        rows, columns, _ = plane.coefficients.shape
        below, beside = units[0] * plane.vertical - rows, units[1] * plane.horizontal - columns
        # The other encoder fills up units with zeros.
        coefficients = np.pad(plane.coefficients, ((0, below), (0, beside), (0, 0)))
        padded.append(CodedPlane(coefficients, plane.vertical, plane.horizontal, **CODES))
    assert encode_scan(padded, restart_interval=restart) == expected


def test_padding_with_zeros_clears_the_last_bits_of_each_interval():
    plane = np.zeros((1, 3, 64), int)  # each block has the codes 00000 and 00000000
    planes = [CodedPlane(plane, 1, 1, **CODES)]
    assert encode_scan(planes, restart_interval=2, padding=0) == bytes(4) + b"\xff\xd0" + bytes(2)
    ones = bytes([0, 0, 0, 0b00111111]) + b"\xff\xd0" + bytes([0, 0b00000111])
    assert encode_scan(planes, restart_interval=2) == ones


def test_a_symbol_without_a_code_is_refused():
    plane = np.zeros((1, 1, 64), int)
    plane[..., 1] = 5
    code = make_code(bytes([1] + [0] * 15), b"\0")
    with pytest.raises(ValueError, match="no code in its AC Huffman table"):
        encode_scan([CodedPlane(plane, 1, 1, code, code)])


def test_filling_blocks_repeat_the_dc_before_them_in_the_unit():
    blocks = np.arange(3 * 3 * 64).reshape(3, 3, 64) + 1
    filled = fill_units(blocks, 2, 2)
    assert filled.shape == (4, 4, 64)
    assert (filled[:3, :3] == blocks).all()
    assert not filled[3, :, 1:].any()
    assert not filled[:, 3, 1:].any()
    dc = blocks[..., 0]
    assert filled[:3, 3, 0].tolist() == dc[:, 2].tolist()
    assert filled[3, :, 0].tolist() == [dc[2, 1], dc[2, 1], dc[2, 2], dc[2, 2]]


def test_typical_tables_are_those_that_libjpeg_writes():
    data = jpeg_cases.pillow(photo(8, 8), quality=50)
    assert (
        b"".join(part for marker, part in segments_of(data) if marker == 0xC4) == TYPICAL_SEGMENTS
    )
