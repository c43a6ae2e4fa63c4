"""Reading JPEG files: against what was written, against libjpeg, and against malice."""

import dataclasses
import io
import os
import re
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from pathlib import Path

import jpeg_cases
import jpeglib
import lengths
import numpy as np
import pytest
from jpeg_cases import Plane, Scan, adobe, full_progression, jfif, segment
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.cli.process import first_line
from dmcnn_jax.jpeg import JpegError, JpegFile, decode_planes, entropy, markers, read

SAMPLING = {
    "gray": [(1, 1)],
    "gray, factors 2x2": [(2, 2)],
    "4:4:4": [(1, 1)] * 3,
    "4:4:4, factors 2x1": [(1, 2)] * 3,
    "four inks": [(1, 1)] * 4,
    "YCCK, 4:2:0": [(2, 2), (1, 1), (1, 1), (2, 2)],
    "4:2:2": [(1, 2), (1, 1), (1, 1)],
    "4:2:0": [(2, 2), (1, 1), (1, 1)],
    "4:4:0": [(2, 1), (1, 1), (1, 1)],
    "4:1:1": [(1, 4), (1, 1), (1, 1)],
    "4:1:0": [(2, 4), (1, 1), (1, 1)],
    "3x1": [(1, 3), (1, 1), (1, 1)],
    "chroma unlike": [(2, 2), (2, 1), (1, 2)],
    "luma small": [(1, 1), (2, 2), (2, 2)],
}
SIZES = [(1, 1), (16, 17), (37, 61), (71, 7)]


@pytest.fixture(scope="module")
def picture():
    """A colour picture with structure and noise: uint8 [75, 101, 3]."""
    rng = np.random.default_rng(5)
    rows, columns = np.indices((75, 101))
    waves = [np.sin(rows / a) + np.cos(columns / b) for a, b in ((5, 9), (7, 4), (11, 6))]
    noisy = 128 + 50 * np.stack(waves, axis=-1) + rng.normal(0, 6, (75, 101, 3))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def scans_of(kind, count):
    return {
        "sequential": None,
        "sequential, not interleaved": [(i,) for i in range(count)],
        "sequential, luma apart": [(0,), (1, 2)] if count == 3 else None,
        "progressive": full_progression(count),
        "progressive, not interleaved": full_progression(count, interleaved=False),
        "progressive, spectral only": [
            Scan(tuple(range(count)), 0, 0),
            *(Scan((i,), 1, 63) for i in range(count)),
        ],
    }[kind]


@pytest.mark.parametrize("restart", [0, 2])
@pytest.mark.parametrize(
    "kind",
    [
        "sequential",
        "sequential, not interleaved",
        "sequential, luma apart",
        "progressive",
        "progressive, not interleaved",
        "progressive, spectral only",
    ],
)
@pytest.mark.parametrize("sampling", SAMPLING)
def test_reads_what_was_written(rng, sampling, kind, restart):
    factors = SAMPLING[sampling]
    down, across = max(v for v, _ in factors), max(h for _, h in factors)
    for height, width in SIZES:
        written = jpeg_cases.planes(rng, height, width, factors)
        scans = scans_of(kind, len(factors))
        file = read(jpeg_cases.write(height, width, written, scans, restart=restart))
        assert (file.height, file.width) == (height, width)
        assert file.color == {1: "gray", 3: "ycbcr", 4: "cmyk"}[len(factors)]
        assert file.progressive == kind.startswith("progressive")
        assert file.restart_interval == restart
        assert not file.truncated and not file.notes
        assert len(file.components) == len(factors)
        for i, (component, plane) in enumerate(zip(file.components, written, strict=True)):
            v, h = factors[i]
            assert component.id == i + 1
            assert (component.vertical, component.horizontal) == (v, h)
            assert component.subsampling == (down // v, across // h)
            assert component.height == -(-height // component.subsampling[0])
            assert component.width == -(-width // component.subsampling[1])
            assert component.coefficients.dtype == np.int16
            assert component.table.dtype == np.int32
            np.testing.assert_array_equal(component.coefficients, plane.coefficients)
            np.testing.assert_array_equal(component.table, plane.table)


@pytest.mark.parametrize("kind", ["sequential", "progressive"])
@pytest.mark.parametrize("sampling", SAMPLING)
def test_planes_are_libjpegs(rng, sampling, kind):
    """Each plane as Pillow decodes a gray file of that component alone, and luma from the file."""
    factors = SAMPLING[sampling]
    for height, width in SIZES:
        written = jpeg_cases.planes(rng, height, width, factors, table_limit=30, spread=9)
        data = jpeg_cases.write(height, width, written, scans_of(kind, len(factors)))
        decoded = decode_planes(read(data))
        for plane, pixels in zip(written, decoded, strict=True):
            assert pixels.dtype == np.uint8
            alone = dataclasses.replace(plane, vertical=1, horizontal=1)
            gray = Image.open(io.BytesIO(jpeg_cases.write(*pixels.shape, [alone])))
            np.testing.assert_array_equal(pixels, np.asarray(gray))
        if decoded[0].shape == (height, width) and len(factors) < 4:
            image = Image.open(io.BytesIO(data))
            image.draft("L", image.size)
            np.testing.assert_array_equal(decoded[0], np.asarray(image))


PILLOW_KINDS = {
    "gray": dict(mode="L"),
    "gray progressive": dict(mode="L", progressive=True),
    "4:2:0": dict(),
    "4:2:2": dict(subsampling="4:2:2"),
    "4:4:4": dict(subsampling="4:4:4"),
    "quality 1": dict(quality=1),
    "quality 100": dict(quality=100, subsampling="4:4:4"),
    "optimised": dict(optimize=True),
    "progressive": dict(progressive=True),
    "progressive 4:4:4": dict(progressive=True, subsampling="4:4:4", quality=95),
    "restart blocks": dict(restart_marker_blocks=3),
    "restart rows": dict(restart_marker_rows=1, progressive=True),
    "one table": dict(qtables=[list(range(1, 65))]),
    "three tables": dict(qtables=[[5] * 64, [6] * 64, [7] * 64]),
    "rgb": dict(keep_rgb=True),
    "rgb progressive": dict(keep_rgb=True, progressive=True),
}


@pytest.mark.parametrize("kind", PILLOW_KINDS)
def test_pillows_files(tmp_path, picture, kind):
    options = {"quality": 60, **PILLOW_KINDS[kind]}
    if "qtables" in options:
        del options["quality"]
    for height, width in ((75, 101), (16, 32), (3, 5), (1, 1)):
        path = tmp_path / "file.jpg"
        path.write_bytes(jpeg_cases.pillow(picture[:height, :width], **options))
        file = read(path)
        expected = jpeglib.read_dct(path)
        for component, name, slot in zip(
            file.components, ("Y", "Cb", "Cr"), expected.quant_tbl_no, strict=False
        ):
            blocks = getattr(expected, name)
            coefficients = component.coefficients.reshape(blocks.shape)
            np.testing.assert_array_equal(coefficients, blocks)
            np.testing.assert_array_equal(component.table, expected.qt[slot])
        assert file.progressive == options.get("progressive", False)
        planes = decode_planes(file)
        with Image.open(path) as image:
            if file.color == "ycbcr":
                image.draft("YCbCr", None)
            assert file.color == {"L": "gray", "RGB": "rgb", "YCbCr": "ycbcr"}[image.mode]
            pixels = np.atleast_3d(np.asarray(image))
        for i, (component, plane) in enumerate(zip(file.components, planes, strict=True)):
            assert plane.shape == (component.height, component.width)
            if component.subsampling == (1, 1):
                np.testing.assert_array_equal(plane, pixels[..., i])


@pytest.mark.parametrize("name", jpeg.SUBSAMPLING_FACTORS)
def test_subsamplings_by_name_are_pillows(picture, name):
    """And chroma is brought to full size as Pillow does it."""
    data = jpeg_cases.pillow(picture, quality=60, subsampling=name)
    file = read(data)
    assert [c.subsampling for c in file.components[1:]] == 2 * [jpeg.SUBSAMPLING_FACTORS[name]]
    with Image.open(io.BytesIO(data)) as image:
        image.draft("YCbCr", None)
        pixels = np.asarray(image)
    for i, (component, plane) in enumerate(zip(file.components, decode_planes(file), strict=True)):
        full = jpeg.upsample(plane, component.subsampling)
        np.testing.assert_array_equal(full[: file.height, : file.width], pixels[..., i])
        rows = jpeg.upsample_rows(plane, component.subsampling, 13, 40)
        np.testing.assert_array_equal(rows, full[13:40])


def test_a_photograph(photographs):
    pixels = photographs["chelsea"]
    data = jpeg_cases.pillow(pixels, quality=85)
    (plane,) = decode_planes(read(data))
    np.testing.assert_array_equal(plane, np.asarray(Image.open(io.BytesIO(data))))


def test_tables_of_16_bits(rng):
    written = jpeg_cases.planes(rng, 20, 30, [(1, 1)] * 3, table_limit=65535, spread=2)
    written[1].table[:] = 255
    file = read(jpeg_cases.write(20, 30, written, frame=0xC1))
    for component, plane in zip(file.components, written, strict=True):
        np.testing.assert_array_equal(component.table, plane.table)


def test_tables_that_change_between_scans(rng):
    """What counts is the table at a component's first scan."""
    written = jpeg_cases.planes(rng, 20, 30, [(1, 1)] * 3)
    for plane in written[1:]:
        plane.table = written[0].table
    parts = jpeg_cases.segments_of(jpeg_cases.write(20, 30, written, [(0,), (1,), (2,)]))
    second = [i for i, (marker, _) in enumerate(parts) if marker == 0xDA][1]
    parts.insert(second, (0xDB, segment(0xDB, b"\0" + b"\x09" * 64)))
    file = read(b"".join(part for _, part in parts))
    np.testing.assert_array_equal(file.components[0].table, written[0].table)
    assert (file.components[1].table == 9).all() and (file.components[2].table == 9).all()


def test_extreme_coefficients(rng):
    coefficients = rng.choice([-1023, 0, 1023], (3, 4, 64))
    coefficients[..., 0] = rng.choice([-1024, 1023], (3, 4))
    for scans in (None, full_progression(1)):
        data = jpeg_cases.write(24, 32, [Plane(coefficients, np.ones((8, 8), int))], scans)
        np.testing.assert_array_equal(read(data).components[0].coefficients, coefficients)


def test_motion_jpeg_without_huffman_tables(picture):
    """Its frames mean T.81's typical tables, which are Pillow's too."""
    data = jpeg_cases.pillow(picture)
    parts = [part for marker, part in jpeg_cases.segments_of(data) if marker != 0xC4]
    for found, expected in zip(
        read(b"".join(parts)).components, read(data).components, strict=True
    ):
        np.testing.assert_array_equal(found.coefficients, expected.coefficients)


# ---------------------------------------------------------------------------------------------
# Refused by name


def patched(data, marker, offset, new):
    """The file with bytes of its first such segment replaced, offsets counted from its length."""
    out = bytearray(data)
    start = data.index(bytes([0xFF, marker])) + 2 + offset
    out[start : start + len(new)] = new
    return bytes(out)


def with_frame(data, number):
    return data.replace(b"\xff\xc0", bytes([0xFF, number]), 1)


def refused_files():
    rng = np.random.default_rng(3)
    color = jpeg_cases.planes(rng, 20, 30, [(2, 2), (1, 1), (1, 1)])
    plain = jpeg_cases.write(20, 30, color)
    fraction = jpeg_cases.planes(rng, 20, 30, [(1, 3), (1, 2), (1, 1)])
    image = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))

    def pillow(kind, converted=image):
        buffer = io.BytesIO()
        converted.save(buffer, kind)
        return buffer.getvalue()

    return {
        "lossless": (with_frame(plain, 0xC3), "lossless JPEG"),
        "hierarchical": (with_frame(plain, 0xC5), "hierarchical JPEG"),
        "hierarchical, DHP": (
            jpeg_cases.write(20, 30, color, segments=segment(0xDE, bytes(15))),
            "hierarchical JPEG",
        ),
        "arithmetic": (with_frame(plain, 0xC9), "arithmetic-coded JPEG.*jpegtran"),
        "arithmetic progressive": (with_frame(plain, 0xCA), "arithmetic-coded progressive"),
        "JPEG-LS": (with_frame(plain, 0xF7), "JPEG-LS"),
        "12 bits": (jpeg_cases.write(20, 30, color, precision=12, frame=0xC1), "12 bits"),
        "two components": (jpeg_cases.write(20, 30, color[1:]), "2 components; expected 1"),
        "five components": (patched(plain, 0xC0, 7, b"\5"), "5 components; expected 1"),
        "frame too short": (
            patched(plain, 0xC0, 7, b"\1"),
            "frame header has 15 bytes; expected 9",
        ),
        "no height": (patched(plain, 0xC0, 3, b"\0\0"), "height as 0, and no DNL"),
        "no width": (patched(plain, 0xC0, 5, b"\0\0"), "width as 0"),
        "too long": (patched(plain, 0xC0, 3, b"\xff\xff"), "30 x 65535 pixels; .* 65500"),
        "too large": (patched(plain, 0xC0, 3, b"\xff\0\xff\0"), "65280 x 65280 .* limit"),
        "too little": (patched(plain, 0xC0, 3, b"\x20\0\x20\0"), "can't hold the 8192 x 8192"),
        "factor 0": (patched(plain, 0xC0, 9, b"\x02"), "sampling factors 0 x 2"),
        "factor 5": (patched(plain, 0xC0, 9, b"\x25"), "sampling factors 2 x 5"),
        "fraction": (jpeg_cases.write(20, 30, fraction), "smaller by a fraction"),
        "interleaved too much": (patched(plain, 0xC0, 9, b"\x44"), "interleaves over 10"),
        "same number": (jpeg_cases.write(20, 30, color, ids=(1, 2, 2)), "same number"),
        "table 4": (patched(plain, 0xC0, 10, b"\4"), "quantisation table 4; expected 0 to 3"),
        "table missing": (patched(plain, 0xC0, 10, b"\3"), "quantisation table 3 is missing"),
        "zero step": (patched(plain, 0xDB, 9, b"\0"), "table 0 has a zero step; expected 1 to 255"),
        "table cut": (patched(plain, 0xDB, 0, b"\0\x42"), "quantisation table.* malformed"),
        "Huffman counts": (patched(plain, 0xC4, 3, b"\xff" * 16), "Huffman table .* malformed"),
        "Huffman codes": (patched(plain, 0xC4, 3, b"\x10\0\0\0\0"), "more codes than fit"),
        "Huffman symbols": (patched(plain, 0xC4, 19, b"\x10"), "undefined symbols"),
        "scan without frame": (plain.replace(b"\xff\xc0", b"\xff\xe1", 1), "before the frame"),
        "scan of strangers": (patched(plain, 0xDA, 3, b"\7"), "component 7"),
        "two frames": (
            plain[:2]
            + plain[2:].replace(
                b"\xff\xc4",
                plain[plain.index(b"\xff\xc0") : plain.index(b"\xff\xc4")] + b"\xff\xc4",
                1,
            ),
            "two frame",
        ),
        "progressive, impossible": (
            jpeg_cases.write(20, 30, color, [Scan((0, 1, 2), 0, 0, 3, 1)]),
            "impossible",
        ),
        "progressive, AC first": (
            jpeg_cases.write(20, 30, color[:1], [Scan((0,), 1, 63)]),
            "before the DC scan",
        ),
        "reserved marker": (plain[:2] + b"\xff\xf1\0\2" + plain[2:], "marker ff f1 at byte 2"),
        "image in image": (plain[:2] + plain, "second image"),
        "no image": (b"\xff\xd8" + jfif() + b"\xff\xd9", "no image data"),
        "header cut": (plain[: plain.index(b"\xff\xda") - 3], "past the end"),
        "only a start": (b"\xff\xd8", "within its header"),
        "empty": (b"", "an empty file"),
        "text": (b"hello, world", "begins with 68 65 6c 6c"),
        "web page": (b"<!DOCTYPE html><html>", "web page"),
        "PNG": (pillow("PNG"), "a PNG image"),
        "GIF": (pillow("GIF"), "a GIF image"),
        "WebP": (pillow("WEBP"), "a WebP image"),
        "TIFF": (pillow("TIFF"), "a TIFF or raw image"),
        "BMP": (pillow("BMP"), "a BMP image"),
        "JPEG XL": (b"\xff\x0a" + bytes(20), "JPEG XL"),
        "segments without end": (b"\xff\xd8" + b"\xff\xfe\0\2" * 50_000, "over 20000 marker"),
    }


REFUSED = refused_files()


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("allow_truncated", [False, True])
def test_refused_by_name(case, allow_truncated):
    data, reason = REFUSED[case]
    with pytest.raises(JpegError, match=reason) as caught:
        read(data, name="holiday.jpg", allow_truncated=allow_truncated)
    message = str(caught.value)
    assert message.startswith("holiday.jpg: ") and "\n" not in message


def test_absurd_sizes_cost_nothing(monkeypatch, rng):
    """They are refused before memory is set aside."""
    monkeypatch.setattr(entropy, "decode", None)
    data = jpeg_cases.write(20, 30, jpeg_cases.planes(rng, 20, 30, [(1, 1)] * 3))
    huge = patched(data, 0xC0, 3, struct.pack(">HH", 65500, 65500))
    tracemalloc.start()
    for allow_truncated in (False, True):
        with pytest.raises(JpegError, match="limit of 200000000; raise max_pixels"):
            read(huge, allow_truncated=allow_truncated)
        with pytest.raises(JpegError, match="can't hold the 65500 x 65500"):
            read(huge, max_pixels=10**10, allow_truncated=allow_truncated)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_the_limit_on_pixels(picture):
    data = jpeg_cases.pillow(picture)
    assert read(data, max_pixels=75 * 101).width == 101
    with pytest.raises(JpegError, match="101 x 75 pixels exceed the limit of 7574"):
        read(data, max_pixels=75 * 101 - 1)


# ---------------------------------------------------------------------------------------------
# Truncated and damaged files


@pytest.mark.parametrize("kind", ["sequential", "sequential, not interleaved", "progressive"])
@pytest.mark.parametrize("restart", [0, 4])
def test_every_truncation(rng, kind, restart):
    """A file cut anywhere is refused, or nothing of the image is missing; and can be allowed."""
    written = jpeg_cases.planes(rng, 33, 41, [(2, 2), (1, 1), (1, 1)])
    data = jpeg_cases.write(33, 41, written, scans_of(kind, 3), restart=restart)
    first_scan = data.index(b"\xff\xda") + 14
    whole, previous = 0, -1
    for length in range(len(data)):
        cut = data[:length]
        try:
            file = read(cut)
        except JpegError:
            pass
        else:
            # Only the end marker is missing, in whole or in part.
            assert length >= len(data) - 2 and not file.truncated
            assert "end-of-image marker" in file.notes[0]
            whole += 1
            continue
        if length % 7:
            continue
        if length < first_scan:
            with pytest.raises(JpegError):
                read(cut, allow_truncated=True)
            continue
        try:
            file = read(cut, allow_truncated=True)
        except JpegError as error:
            assert "can't hold" in str(error) or "missing" in str(error)
            continue
        assert file.truncated and file.damage
        right = (file.components[0].coefficients == written[0].coefficients).all(axis=-1).sum()
        if kind != "progressive":
            # What came is right, and the more the further the file goes; one block may be in half.
            assert right >= previous - 1
            previous = right
    assert whole == 2
    assert previous in (-1, written[0].coefficients.shape[0] * written[0].coefficients.shape[1])


def test_truncated_blocks_are_gray(rng):
    (plane,) = jpeg_cases.planes(rng, 64, 64, [(1, 1)])
    plane.coefficients[..., 0] += 60
    data = jpeg_cases.write(64, 64, [plane])
    with pytest.raises(JpegError, match=r"x: truncated or damaged: .*; allow_truncated=True reads"):
        read(data[: len(data) * 2 // 3], name="x")
    file = read(data[: len(data) * 2 // 3], allow_truncated=True)
    (component,) = file.components
    np.testing.assert_array_equal(component.coefficients[:4], plane.coefficients[:4])
    assert not component.coefficients[7].any()
    assert (decode_planes(file)[0][-8:] == 128).all()


def test_no_end_marker_but_whole(picture):
    for options in ({}, {"progressive": True}):
        data = jpeg_cases.pillow(picture, **options)
        file = read(data[:-2])
        assert not file.truncated and file.notes == ("the end-of-image marker is missing",)
        np.testing.assert_array_equal(decode_planes(file)[0], decode_planes(read(data))[0])


def test_what_follows_the_image_is_ignored(picture):
    """Motion photos, pictures in several sizes, padding."""
    data = jpeg_cases.pillow(picture)
    for tail in (b"\0" * 1000, data, b"\xff\xd8\xff", b"ftypmp42" + bytes(range(256)) * 10):
        file = read(data + tail)
        assert not file.truncated and not file.notes
        np.testing.assert_array_equal(decode_planes(file)[0], decode_planes(read(data))[0])


def test_stray_bytes(picture):
    data = jpeg_cases.pillow(picture)
    scan = data.index(b"\xff\xda")
    file = read(data[:scan] + b"\0\1\2" + data[scan:])
    assert file.notes == ("3 stray bytes between segments",)
    file = read(data[:-2] + b"\x12\x34" * 8 + data[-2:])
    assert not file.truncated
    assert re.fullmatch(r"at least \d+ stray bytes after the image data", file.notes[0])
    filled = data.replace(b"\xff\xda", b"\xff\xff\xff\xda", 1)
    assert read(filled).notes == ()


def test_progression_that_stops_short(rng):
    written = jpeg_cases.planes(rng, 40, 40, [(1, 1)] * 3)
    scans = full_progression(3)
    for keep in range(1, len(scans)):
        data = jpeg_cases.write(40, 40, written, scans[:keep])
        with pytest.raises(JpegError, match=f"before all of its scans .{keep} of"):
            read(data)
        file = read(data, allow_truncated=True)
        assert file.truncated
    # All but the last bit of the last component's AC coefficients.
    for component, plane in zip(file.components[:2], written, strict=False):
        np.testing.assert_array_equal(component.coefficients, plane.coefficients)
    last = file.components[2].coefficients.astype(int)
    np.testing.assert_array_equal(
        last[..., 1:], np.fix(written[2].coefficients[..., 1:] / 2).astype(int) * 2
    )


def test_scans_that_repeat(rng):
    written = jpeg_cases.planes(rng, 40, 40, [(1, 1)] * 3)
    data = jpeg_cases.write(40, 40, written, [(0,), (1,), (1,), (2,)])
    with pytest.raises(JpegError, match="component 2 comes twice"):
        read(data)
    scans = full_progression(3)
    with pytest.raises(JpegError, match="does not continue"):
        read(jpeg_cases.write(40, 40, written, [*scans, scans[-1]]))
    with pytest.raises(JpegError, match="ends before all of its scans; allow"):
        read(jpeg_cases.write(40, 40, written, [(0,), (1,)]))


def test_restart_markers_that_are_wrong(rng):
    (plane,) = jpeg_cases.planes(rng, 64, 64, [(1, 1)])
    data = jpeg_cases.write(64, 64, [plane], restart=4)
    third = data.index(b"\xff\xd2")
    for broken in (
        data[:third] + data[third + 2 :],
        data[:third] + b"\xff\xd5" + data[third + 2 :],
        data[:third] + data[data.index(b"\xff\xd3") :],
    ):
        with pytest.raises(JpegError, match="restart markers"):
            read(broken)
        file = read(broken, allow_truncated=True)
        assert "restart markers" in file.damage
        np.testing.assert_array_equal(
            file.components[0].coefficients[0], plane.coefficients[0]
        )  # the first row comes before it
    # One more than needed, at the end, is common and harmless.
    assert not read(data[:-2] + b"\xff\xd7" + data[-2:]).truncated


# ---------------------------------------------------------------------------------------------
# Colour and metadata


@pytest.mark.parametrize("ids", [(1, 2, 3), (0, 1, 2), (82, 71, 66), (82, 71, 67)])
@pytest.mark.parametrize("with_jfif", [False, True])
@pytest.mark.parametrize("transform", [None, 0, 1, 2])
def test_color_is_libjpegs(rng, ids, with_jfif, transform):
    """Pillow's pixels are the planes themselves if, and only if, libjpeg takes them for RGB."""
    marked = (jfif() if with_jfif else b"") + (adobe(transform) if transform is not None else b"")
    written = jpeg_cases.planes(rng, 8, 8, [(1, 1)] * 3)
    data = jpeg_cases.write(8, 8, written, ids=ids, segments=marked)
    file = read(data)
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    as_they_are = np.array_equal(np.stack(decode_planes(file), axis=-1), pixels)
    assert file.color == ("rgb" if as_they_are else "ycbcr")


def test_metadata_as_pillow_reads_it(picture, rng):
    exif = Image.Exif()
    exif[0x112] = 6
    exif[0x10F] = "Camera"
    options = {
        "exif": exif,
        "icc_profile": rng.bytes(150_000),
        "xmp": b"<x:xmpmeta/>",
        "dpi": (300, 200),
        "comment": b"a remark",
    }
    data = jpeg_cases.pillow(picture, **options)
    info = Image.open(io.BytesIO(data)).info
    metadata = read(data).metadata
    assert metadata.exif == info["exif"]
    assert metadata.orientation == 6
    assert metadata.icc == options["icc_profile"]
    assert metadata.xmp == options["xmp"] == info["xmp"]
    assert metadata.resolution == (300, 200) == info["dpi"]
    assert metadata.comments == (b"a remark",)


def test_without_metadata(picture):
    metadata = read(jpeg_cases.pillow(picture)).metadata
    assert metadata == type(metadata)()


def tiff(order, *entries):
    """A TIFF structure of one directory: entries are (tag, kind, value of 4 bytes)."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(entries))
    for tag, kind, value in entries:
        directory += struct.pack(f"{order}HHI", tag, kind, 1) + value
    return mark + struct.pack(f"{order}I", 8) + directory + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_orientation_and_resolution(rng, order):
    short = struct.pack(f"{order}HH", 3, 0)
    x = struct.pack(f"{order}I", 8 + 2 + 4 * 12 + 4)
    body = tiff(order, (0x112, 3, short), (0x11A, 5, x), (0x11B, 5, x), (0x128, 3, short))
    body += struct.pack(f"{order}II", 200, 4)
    written = jpeg_cases.planes(rng, 8, 8, [(1, 1)])

    def metadata(*segments):
        return read(jpeg_cases.write(8, 8, written, segments=b"".join(segments))).metadata

    found = metadata(segment(0xE1, b"Exif\0\0" + body))
    assert found.orientation == 3
    assert found.resolution == (127, 127)  # 50 a centimetre
    assert found.exif == b"Exif\0\0" + body
    # JFIF's goes first, unless it gives only a shape; and in centimetres too.
    assert metadata(jfif(2, 100, 50), segment(0xE1, b"Exif\0\0" + body)).resolution == (254, 127)
    assert metadata(jfif(0, 1, 1), segment(0xE1, b"Exif\0\0" + body)).resolution == (127, 127)
    assert metadata(jfif(2, 65535, 65535)).resolution is None  # more than formats hold
    # In two segments, and twice.
    halves = segment(0xE1, b"Exif\0\0" + body[:40]) + segment(0xE1, b"Exif\0\0" + body[40:])
    assert metadata(halves).exif == b"Exif\0\0" + body
    assert metadata(2 * segment(0xE1, b"Exif\0\0" + body)).exif == b"Exif\0\0" + body
    # Cut within its entries, it is handed on as it is and read as far as it goes.
    for length in range(len(body)):
        cut = metadata(segment(0xE1, b"Exif\0\0" + body[:length]))
        entries = length >= (9 if order == "<" else 10)  # the number of entries is not 0
        assert cut.exif == (b"Exif\0\0" + body[:length] if entries else None)
        assert cut.orientation in (1, 3)
    for nonsense in (0, 9, 65535):
        odd = tiff(order, (0x112, 3, struct.pack(f"{order}HH", nonsense, 0)))
        assert metadata(segment(0xE1, b"Exif\0\0" + odd)).orientation == 1


def test_broken_color_profiles_are_left_out(rng):
    written = jpeg_cases.planes(rng, 8, 8, [(1, 1)])

    def part(number, count, payload):
        return segment(0xE2, b"ICC_PROFILE\0" + bytes([number, count]) + payload)

    def profile(*parts):
        file = read(jpeg_cases.write(8, 8, written, segments=b"".join(parts)))
        return file.metadata.icc, file.notes

    assert profile(part(2, 2, b"cd"), part(1, 2, b"ab")) == (b"abcd", ())
    icc, notes = profile(part(1, 3, b"ab"), part(3, 3, b"ef"))
    assert icc is None and notes == ("the colour profile is incomplete (2 of 3 parts)",)
    assert profile(part(1, 1, b"ab"), part(2, 2, b"cd"))[0] is None
    assert profile(part(0, 0, b"ab"))[0] is None
    assert profile(segment(0xE2, b"ICC_PROFILE\0")) == (None, ())


def test_many_segments(picture):
    """Where jpeglib's own reader gives up at 50."""
    data = jpeg_cases.pillow(picture)
    file = read(data[:2] + segment(0xE5, b"0123") * 500 + data[2:])
    np.testing.assert_array_equal(decode_planes(file)[0], decode_planes(read(data))[0])


def test_a_thumbnail_is_not_the_image(rng, picture):
    data = jpeg_cases.pillow(picture)
    thumbnail = jpeg_cases.pillow(picture[:16, :16])
    inside = segment(0xE1, b"Exif\0\0" + tiff("<") + thumbnail)
    assert read(data[:2] + inside + data[2:]).width == 101


# ---------------------------------------------------------------------------------------------
# Where files come from


def test_sources(tmp_path, picture, monkeypatch):
    data = jpeg_cases.pillow(picture)
    path = tmp_path / "Größe 1.jpg"
    path.write_bytes(data)
    monkeypatch.chdir(tmp_path)
    expected = read(data)
    assert isinstance(expected, JpegFile) and expected.name == "<bytes>"
    for source, name in (
        (path, str(path)),
        (str(path), str(path)),
        (path.name, path.name),
        (os.fsencode(path.name).decode(), path.name),
        (bytearray(data), "<bytes>"),
        (memoryview(data), "<bytes>"),
        (io.BytesIO(data), "<file>"),
    ):
        file = read(source)
        assert file.name == name
        for found, wanted in zip(file.components, expected.components, strict=True):
            np.testing.assert_array_equal(found.coefficients, wanted.coefficients)
    with open(path, "rb") as source:
        assert read(source).name == str(path)
    with open(path, "rb") as source:
        assert read(source, name="it").name == "it"
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "absent.jpg")
    with pytest.raises(
        TypeError, match="source is JpegImageFile; expected a path, bytes or a binary file"
    ):
        read(Image.open(path))
    with open(path, encoding="latin-1") as source, pytest.raises(TypeError, match="binary mode"):
        read(source)


@pytest.mark.skipif(os.name != "posix", reason="such names are POSIX")
def test_names_stay_on_one_line(tmp_path):
    path = tmp_path / "a\nb\x1b\udcff.jpg"
    path.write_bytes(b"no")
    with pytest.raises(JpegError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{tmp_path}/a\\nb\\x1b\\udcff.jpg: not a JPEG file")
    str(caught.value).encode()


def test_an_endless_stream_that_is_no_jpeg():
    class Zeros:
        def read(self, size=-1):
            assert size >= 0, "read to the end"
            return bytes(size)

    with pytest.raises(JpegError, match="<file>: not a JPEG file"):
        read(Zeros())


def test_what_is_read_is_read_only(picture):
    component = read(jpeg_cases.pillow(picture)).components[0]
    with pytest.raises(ValueError, match="read-only"):
        component.coefficients[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        component.table[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        component.id = 3


# ---------------------------------------------------------------------------------------------
# The process that decodes

needs_signals = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")


def test_warnings_of_libjpeg_are_not_printed(capfd, rng):
    (plane,) = jpeg_cases.planes(rng, 64, 64, [(1, 1)])
    data = jpeg_cases.write(64, 64, [plane])
    assert read(data[:-40], allow_truncated=True).damage
    assert capfd.readouterr() == ("", "")


def fresh_worker():
    if entropy.worker is not None:
        entropy.worker.stop()
        entropy.worker = None


@pytest.mark.parametrize("place", ["memory", "deleted file", "named file"])
def test_libjpeg_reads_a_copy_that_does_not_stay(tmp_path, picture, monkeypatch, place):
    """Also where the system has no files in memory, or no names of open files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if place != "memory":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    if place == "named file":
        monkeypatch.setattr("dmcnn_jax.jpeg.memory_file._DESCRIPTORS", ())
    data = jpeg_cases.pillow(picture)
    expected = read(data)
    fresh_worker()
    for stream in (data, jpeg_cases.pillow(picture[:8]), data):
        file = read(stream)
    for found, component in zip(file.components, expected.components, strict=True):
        np.testing.assert_array_equal(found.coefficients, component.coefficients)
    # While it waits for the next file it holds no copy of the last one.
    assert os.path.getsize(entropy.worker.source.path) == 0
    assert len(list(tmp_path.iterdir())) == (place == "named file")
    with pytest.raises(JpegError):
        read(data[:-300] + b"\xff\xd9")
    fresh_worker()
    assert not list(tmp_path.iterdir())


def test_no_space_for_the_copy_is_one_clear_line(picture, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    read(jpeg_cases.pillow(picture))
    monkeypatch.setattr("dmcnn_jax.jpeg.memory_file.os.write", refuse)
    with pytest.raises(OSError, match="a copy of the file in memory") as caught:
        read(jpeg_cases.pillow(picture))
    assert first_line(caught.value) == "a copy of the file in memory: No space left on device"
    monkeypatch.undo()
    assert read(jpeg_cases.pillow(picture)).width == 101


@needs_signals
def test_a_crash_costs_one_file(picture):
    data = jpeg_cases.pillow(picture)
    read(data)
    process = entropy.worker.process
    os.kill(process.pid, signal.SIGSTOP)
    threading.Timer(0.3, lambda: [os.kill(process.pid, s) for s in (11, signal.SIGCONT)]).start()
    with pytest.raises(JpegError, match=r"^x: damaged: libjpeg crashed \(SIGSEGV\)$"):
        read(data, name="x")
    assert read(data).width == 101


@needs_signals
def test_a_hang_costs_one_file(picture, monkeypatch):
    data = jpeg_cases.pillow(picture)
    read(data)
    monkeypatch.setattr(entropy, "TIME_LIMIT", 0.3)
    os.kill(entropy.worker.process.pid, signal.SIGSTOP)
    with pytest.raises(JpegError, match=r"^x: damaged: libjpeg took over 0 s$"):
        read(data, name="x")
    monkeypatch.undo()
    assert read(data).width == 101


def test_a_death_between_files_costs_none(picture):
    data = jpeg_cases.pillow(picture)
    read(data)
    entropy.worker.process.kill()
    entropy.worker.process.wait()
    assert read(data).width == 101


@needs_signals
def test_an_interrupt_leaves_no_half_answer(picture):
    data = jpeg_cases.pillow(picture)
    read(data)
    os.kill(entropy.worker.process.pid, signal.SIGSTOP)
    main = threading.main_thread().ident
    threading.Timer(0.3, signal.pthread_kill, [main, signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        read(data)
    assert read(jpeg_cases.pillow(picture[:8])).height == 8


def test_threads(rng):
    files = []
    for i in range(8):
        written = jpeg_cases.planes(rng, 40 + i, 50, [(1, 1)])
        files.append((jpeg_cases.write(40 + i, 50, written), written[0].coefficients))
    failures = []

    def work(seed):
        for i in np.random.default_rng(seed).integers(0, len(files), 40):
            data, expected = files[i]
            if not np.array_equal(read(data).components[0].coefficients, expected):
                failures.append(i)

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def run_script(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )


@needs_signals
def test_forked_processes_have_their_own(tmp_path, picture):
    path = tmp_path / "x.jpg"
    path.write_bytes(jpeg_cases.pillow(picture))
    script = """
        import os, sys, warnings
        warnings.simplefilter("ignore")
        from dmcnn_jax.jpeg import entropy, read
        read(sys.argv[1])
        parents = entropy.worker.process.pid
        children = [os.fork() for _ in range(2)]
        for _ in range(20):
            assert read(sys.argv[1]).width == 101
        assert (entropy.worker.process.pid == parents) == all(children)
        for child in children:
            if child and children[-1]:
                assert os.waitpid(child, 0)[1] == 0
        print("ok")
    """
    process = run_script(script, path)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "ok" in output


@needs_signals
@pytest.mark.parametrize("ending", ["", "os.kill(os.getpid(), 9)"])
def test_it_ends_with_its_parent(tmp_path, picture, ending):
    path = tmp_path / "x.jpg"
    path.write_bytes(jpeg_cases.pillow(picture))
    script = f"""
        import os, sys
        from dmcnn_jax.jpeg import entropy, read
        read(sys.argv[1])
        print(entropy.worker.process.pid, flush=True)
        {ending}
    """
    output, _ = run_script(script, path).communicate(timeout=120)
    for _ in range(100):
        try:
            os.kill(int(output), 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError(f"process {output.strip()} is still there")


# ---------------------------------------------------------------------------------------------
# Mutated files


def corpus(picture):
    rng = np.random.default_rng(11)
    exif = Image.Exif()
    exif[0x112] = 6
    rich = {"exif": exif, "icc_profile": rng.bytes(300), "dpi": (72, 72), "comment": b"remark"}
    files = [
        jpeg_cases.pillow(picture, **options)
        for options in (
            dict(mode="L"),
            dict(**rich),
            dict(subsampling="4:4:4", optimize=True),
            dict(progressive=True, **rich),
            dict(restart_marker_blocks=2),
            dict(keep_rgb=True),
        )
    ]
    for sampling in ("gray", "4:2:0", "luma small"):
        factors = SAMPLING[sampling]
        for kind in ("sequential", "sequential, not interleaved", "progressive"):
            written = jpeg_cases.planes(rng, 40, 50, factors)
            scans = scans_of(kind, len(factors))
            files.append(jpeg_cases.write(40, 50, written, scans, restart=5 * (kind[0] == "p")))
    return files


def check_mutations(picture, seeds):
    """Nothing but a sound JpegFile or a JpegError of one line, soon, from one lasting process."""
    files = corpus(picture)
    read(files[0])
    process = entropy.worker.process.pid
    outcomes = {"whole": 0, "damaged": 0, "refused": 0}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        data = jpeg_cases.mutate(rng, files[rng.integers(len(files))])
        start = time.monotonic()
        try:
            file = read(data, name="x.jpg", allow_truncated=bool(seed % 2), max_pixels=10**7)
        except JpegError as error:
            assert str(error).startswith("x.jpg: ") and "\n" not in str(error)
            outcomes["refused"] += 1
        else:
            outcomes["damaged" if file.truncated else "whole"] += 1
            assert file.truncated <= seed % 2
            assert file.height * file.width <= 10**7
            for component in file.components:
                rows, columns = -(-component.height // 8), -(-component.width // 8)
                assert component.coefficients.shape == (rows, columns, 64)
                assert (component.table > 0).all()
            # No more is set aside than the data can account for.
            blocks = sum(component.coefficients.size // 64 for component in file.components)
            assert blocks < 10_000 + 400 * len(data)
        assert time.monotonic() - start < 30, seed
    assert entropy.worker.process.pid == process, "libjpeg crashed"
    assert min(outcomes.values()) > 0, outcomes
    return outcomes


def test_mutated_files(picture):
    check_mutations(picture, range(3000))


@pytest.mark.slow
def test_many_mutated_files(picture):
    check_mutations(picture, range(3000, lengths.length(20_000, 60_000)))


def test_garbage():
    rng = np.random.default_rng(0)
    for size in (0, 1, 2, 3, 4, 10, 100, 1000, 100_000):
        for start in (b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xc0"):
            with pytest.raises(JpegError):
                read(start + rng.bytes(size))


def test_the_parser_is_linear():
    """Time goes with the bytes, however they are arranged."""
    start = time.monotonic()
    for data in (
        b"\xff\xd8" + b"\xff" * 10**7,
        b"\xff\xd8" + b"\0" * 10**7,
        b"\xff\xd8" + b"\xff\xd0" * 10**7,
        b"\xff\xd8" + b"\xff\xe0\0\2" * 10**6,
        b"\xff\xd8" + b"\0\xff\xe0\0\2" * 10**6,
    ):
        with pytest.raises(JpegError):
            markers.parse(data, "x", 10**9)
    assert time.monotonic() - start < 20
