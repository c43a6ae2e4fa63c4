"""16-bit PNG and TIFF files of other programs: what is read, against what was written."""

import io
import re
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from dmcnn_jax.images import formats
from dmcnn_jax.jpeg.metadata import Metadata

# Where the seven passes of an interlaced PNG file begin, and how far apart their pixels are
# (ISO/IEC 15948, 8.2): row, column, rows, columns.
ADAM7 = [
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
]


def filtered(pixels, kinds):
    """Rows of a PNG file (ISO/IEC 15948, 9.2), each filtered as it says; wraps at 8 bits."""
    height, width, channels = pixels.shape
    x = np.zeros((height + 1, width + 1, 2 * channels), int)
    x[1:, 1:] = pixels.astype(">u2").view(np.uint8)
    a, b, c = x[1:, :-1], x[:-1, 1:], x[:-1, :-1]
    distances = np.abs(np.stack([a, b, c]) - (a + b - c))
    paeth = np.take_along_axis(np.stack([a, b, c]), distances.argmin(axis=0)[None], 0)[0]
    guesses = np.stack([np.zeros_like(a), a, b, (a + b) // 2, paeth])
    kinds = np.resize(kinds, height)
    rows = (x[1:, 1:] - guesses[kinds, np.arange(height)]).astype(np.uint8)
    return np.concatenate([kinds.astype(np.uint8)[:, None], rows.reshape(height, -1)], axis=1)


def png(pixels, kinds, interlaced=False):
    height, width, channels = pixels.shape
    parts = [pixels]
    if interlaced:
        parts = [pixels[y::down, x::across] for y, x, down, across in ADAM7]
    rows = b"".join(filtered(part, kinds).tobytes() for part in parts if part.size)
    compressed = zlib.compress(rows, 1)
    middle = len(compressed) // 2
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">2I5B", width, height, 16, color_type, 0, 0, int(interlaced))
    chunks = [(b"IHDR", header), (b"tEXt", b"a\0b")]
    chunks += [(b"IDAT", compressed[:middle]), (b"IDAT", compressed[middle:]), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def opaque(pixels):
    """Pixels as `formats.read` returns them: without alpha, gray as a plane."""
    return pixels[..., :3] if pixels.shape[-1] > 2 else pixels[..., 0]


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    channels=st.integers(1, 4),
    kinds=st.lists(st.integers(0, 4), min_size=1, max_size=20),
    levels=st.sampled_from([1, 300, 65536]),
    interlaced=st.booleans(),
)
def test_png_of_16_bits_is_read_exactly(
    tmp_path_factory, seed, height, width, channels, kinds, levels, interlaced
):
    """Every filter, in every order, of every colour type."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, levels, (height, width, channels)).astype(np.uint16)
    path = tmp_path_factory.getbasetemp() / "filtered.png"
    path.write_bytes(png(pixels, np.array(kinds), interlaced))
    found = formats.read(path)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, opaque(pixels))


@pytest.mark.parametrize("kind", range(5))
def test_the_filters_of_these_tests_are_those_of_png(rng, kind):
    """Pillow reads the upper bytes of what they make."""
    pixels = rng.integers(0, 65536, (30, 20, 3), dtype=np.uint16)
    with Image.open(io.BytesIO(png(pixels, np.array([kind])))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels >> 8)


def test_a_large_png_of_paeths_filter_is_read_in_seconds(tmp_path, rng):
    """Two megapixels took half a minute when rows were decoded in Python."""
    pixels = np.cumsum(rng.integers(-40, 41, (1000, 2000, 3)), axis=1).astype(np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(png(pixels, np.array([4])))
    start = time.monotonic()
    np.testing.assert_array_equal(formats.read(path), pixels)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("shape", [(40, 33, 3), (33, 40), (1, 1, 3), (19, 7, 4)])
def test_png_of_16_bits_of_libpng(tmp_path, rng, shape):
    imagecodecs = pytest.importorskip("imagecodecs", reason="writes 16-bit PNG by libpng")
    pixels = rng.integers(0, 65536, shape, dtype=np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(pixels))
    np.testing.assert_array_equal(
        formats.read(path), pixels[..., :3] if len(shape) == 3 else pixels
    )


@pytest.mark.parametrize("shape", [(300, 7), (13, 9, 3), (700, 40, 3)])
def test_libpng_reads_what_is_written(tmp_path, rng, shape):
    imagecodecs = pytest.importorskip("imagecodecs", reason="reads 16-bit PNG by libpng")
    pixels = (np.cumsum(rng.integers(-99, 99, shape), axis=0) % 65536).astype(np.uint16)
    path = tmp_path / "a.png"
    formats.write(path, pixels, Metadata(), formats.output_format(".png", bits=16))
    np.testing.assert_array_equal(imagecodecs.png_decode(path.read_bytes()), pixels)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data.replace(b"\0\0\0\x09\0\0\0\x07", b"\0\0\0\x09\0\0\0\x08"), "expected"),
        (lambda data: data.replace(b"\0\0\0\x09\0\0\0\x07", b"\0\0\0\x08\0\0\0\x07"), "expected"),
        (lambda data: data[:60], "damaged PNG file"),
    ],
    ids=["fewer pixels", "more pixels", "cut off"],
)
def test_damaged_png_files_are_named(tmp_path, rng, damage, message):
    pixels = rng.integers(0, 65536, (7, 9, 3), dtype=np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(damage(png(pixels, np.arange(5))))
    with pytest.raises(ValueError, match=message) as error:
        formats.read(path)
    assert str(path) in str(error.value)


def test_a_tiff_file_that_claims_an_impossible_width_is_named(tmp_path):
    path = tmp_path / "a.tif"
    Image.new("L", (8, 8)).save(path)
    data = path.read_bytes()
    # The tag ImageWidth, one LONG or SHORT, which Pillow writes.
    entry = re.search(rb"\x00\x01[\x03\x04]\x00\x01\x00\x00\x00\x08\x00\x00\x00", data).start()
    width = struct.pack("<HHII", 256, 4, 1, 2**32 - 1)
    path.write_bytes(data[:entry] + width + data[entry + 12 :])
    with pytest.raises(ValueError, match="damaged picture") as error:
        formats.read(path)
    assert str(path) in str(error.value)


def test_an_unknown_png_filter_is_named(tmp_path, rng):
    data = png(rng.integers(0, 65536, (3, 3, 3), dtype=np.uint16), np.array([0]))
    header, rows = data[:33], bytes([9]) + bytes(18)
    data = io.BytesIO()
    data.write(header)
    for kind, payload in ((b"IDAT", zlib.compress(3 * rows)), (b"IEND", b"")):
        data.write(struct.pack(">I", len(payload)) + kind + payload)
        data.write(struct.pack(">I", zlib.crc32(kind + payload)))
    path = tmp_path / "a.png"
    path.write_bytes(data.getvalue())
    with pytest.raises(ValueError, match="damaged") as error:
        formats.read(path)
    assert str(path) in str(error.value)


def test_png_files_with_more_text_than_pillow_reads_are_named(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("key", "x" * 17_000_000, zip=True)
    path = tmp_path / "a.png"
    Image.new("L", (8, 8)).save(path, pnginfo=text)
    for action in (formats.read, formats.read_size, formats.read_orientation):
        with pytest.raises(ValueError, match="too large") as error:
            action(path)
        assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_files_with_large_profiles_are_read(tmp_path, rng, dtype):
    """Pillow reads profiles up to 1 MiB; its limit is back afterwards."""
    pixels = rng.integers(0, np.iinfo(dtype).max, (9, 7, 3)).astype(dtype)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(2**20)
    path = tmp_path / "a.png"
    formats.write(path, pixels, Metadata(icc=profile), formats.output_format(".png"))
    np.testing.assert_array_equal(formats.read(path), pixels)
    with formats.opening(path) as image:
        assert image.info["icc_profile"] == profile
    with pytest.raises(ValueError, match="too large"), Image.open(path):
        pass


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits"])
@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("tile", [None, (16, 32)])
def test_tiff_of_16_bits_of_other_programs(tmp_path, rng, compression, predictor, byteorder, tile):
    tifffile = pytest.importorskip("tifffile", reason="writes 16-bit TIFF by itself")
    if compression in ("lzw", "packbits") or predictor:
        pytest.importorskip("imagecodecs", reason="tifffile compresses by it")
    if predictor and compression in (None, "packbits"):
        pytest.skip("differences are for deflate and LZW")
    path = tmp_path / "a.tif"
    for shape in ((40, 33, 3), (7, 50), (1, 1, 3), (20, 21, 4)):
        pixels = rng.integers(0, 65536, shape, dtype=np.uint16)
        tifffile.imwrite(
            path,
            pixels,
            compression=compression,
            predictor=predictor,
            byteorder=byteorder,
            tile=tile,
            rowsperstrip=None if tile else 7,
            photometric="rgb" if len(shape) == 3 else "minisblack",
            planarconfig="contig" if len(shape) == 3 else None,
            extratags=[(274, 3, 1, 6, True)],  # Pillow turns such files; here pixels stay
        )
        found = formats.read(path)
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, pixels[..., :3] if len(shape) == 3 else pixels)


def test_tiff_of_16_bits_in_planes_is_refused_by_name(tmp_path, rng):
    tifffile = pytest.importorskip("tifffile", reason="writes 16-bit TIFF by itself")
    path = tmp_path / "a.tif"
    pixels = rng.integers(0, 65536, (3, 20, 30), dtype=np.uint16)
    tifffile.imwrite(path, pixels, photometric="rgb", planarconfig="separate")
    with pytest.raises(ValueError, match=r"PlanarConfiguration 2; expected 1: convert it to PNG"):
        formats.read(path)


@pytest.mark.parametrize("extension", [".png", ".tif"])
@pytest.mark.filterwarnings("ignore")
def test_damage_anywhere_is_a_picture_or_an_error_that_names_the_file(tmp_path, rng, extension):
    pixels = rng.integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    path = tmp_path / f"a{extension}"
    formats.write(path, pixels, Metadata(), formats.output_format(extension, bits=16))
    whole = path.read_bytes()
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        start = rng.integers(len(whole)) if rng.random() < 0.3 else rng.integers(200)
        damaged[start] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(len(whole))] if rng.random() < 0.2 else damaged)
        try:
            formats.read(path)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert refused > 50
