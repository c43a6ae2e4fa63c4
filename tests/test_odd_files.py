"""JPEG files that break the rules in ways that libjpeg bears with: read, with a note."""

import io
import os
import re
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jpeg_cases
import numpy as np
import pytest
from jpeg_cases import full_progression, segment
from PIL import Image

from dmcnn_jax.jpeg import JpegError, entropy, read


@pytest.fixture(scope="module")
def picture():
    """A colour picture with structure: uint8 [75, 101, 3]."""
    rows, columns = np.indices((75, 101))
    waves = [np.sin(rows / a) + np.cos(columns / b) for a, b in ((5, 9), (7, 4), (11, 6))]
    return np.clip(np.rint(128 + 50 * np.stack(waves, axis=-1)), 0, 255).astype(np.uint8)


def assert_same_image(odd, plain, *notes):
    """The odd file is whole, has the plain file's coefficients, and says what is odd."""
    file, expected = read(odd), read(plain)
    assert not file.truncated
    assert file.notes == notes
    assert (file.height, file.width) == (expected.height, expected.width)
    for found, component in zip(file.components, expected.components, strict=True):
        np.testing.assert_array_equal(found.coefficients, component.coefficients)


def pillow_pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}])
@pytest.mark.parametrize("size", [17, 599, 70_000])
def test_padding_of_any_length_before_the_end(picture, options, size):
    data = jpeg_cases.pillow(picture, **options)
    padded = data[:-2] + bytes(size) + data[-2:]
    np.testing.assert_array_equal(pillow_pixels(padded), pillow_pixels(data))
    (note,) = read(padded).notes
    assert_same_image(padded, data, note)
    found = re.fullmatch(r"at least (\d+) stray bytes? after the image data", note)
    assert size - 8 < int(found[1]) <= size  # libjpeg reads a few bytes ahead


def test_padding_that_may_be_image_data_is_doubted(picture, rng):
    data = jpeg_cases.pillow(picture)
    tail = rng.integers(0, 255, 600, dtype=np.uint8).tobytes()  # without 255
    (note,) = read(data[:-2] + tail + data[-2:]).notes
    assert note.endswith("; if the picture looks broken, the file is damaged")
    assert_same_image(data[:-2] + tail + data[-2:], data, note)


@pytest.mark.parametrize("restart", [0, 3])
@pytest.mark.parametrize("number", [2, 40])
def test_surplus_restart_markers(picture, restart, number):
    data = jpeg_cases.pillow(picture, restart_marker_blocks=restart)
    surplus = b"".join(bytes((0xFF, 0xD0 + i % 5)) for i in range(number))
    np.testing.assert_array_equal(pillow_pixels(data[:-2] + surplus), pillow_pixels(data))
    assert_same_image(data[:-2] + surplus + data[-2:], data, f"{number} surplus restart markers")


def test_restart_markers_that_nothing_announces_are_damage(picture):
    """The first is taken for the end of the data."""
    parts = jpeg_cases.segments_of(jpeg_cases.pillow(picture, restart_marker_blocks=3))
    data = b"".join(part for marker, part in parts if marker != 0xDD)
    with pytest.raises(JpegError, match="the data of scan 1 ends early"):
        read(data)
    assert read(data, allow_truncated=True).damage


@pytest.mark.parametrize("marker", [0xE7, 0xFE, 0xE1])
@pytest.mark.parametrize("length", [0, 1])
def test_metadata_segments_of_impossible_lengths(picture, marker, length):
    data = jpeg_cases.pillow(picture)
    odd = data[:20] + bytes((0xFF, marker, 0, length)) + data[20:]
    np.testing.assert_array_equal(pillow_pixels(odd), pillow_pixels(data))
    note = "1 metadata segment of an impossible length, read as empty"
    assert_same_image(odd, data, note)


@pytest.mark.parametrize("marker", [0xC0, 0xC4, 0xDB, 0xDD])
def test_other_segments_of_impossible_lengths_are_refused(picture, marker):
    data = jpeg_cases.pillow(picture, restart_marker_blocks=3)
    start = data.index(bytes((0xFF, marker)))
    with pytest.raises(JpegError, match=f"marker ff {marker:02x} .* gives its length as 1"):
        read(data[: start + 2] + b"\0\1" + data[start + 4 :])


def without_height(data, lines):
    """A file whose frame has height 0, and whose first scan a DNL segment follows."""
    parts = []
    for marker, part in jpeg_cases.segments_of(data):
        if marker in (0xC0, 0xC1, 0xC2):
            part = part[:5] + b"\0\0" + part[7:]
        parts.append(part)
        if marker == 0xDA and lines is not None:
            parts.append(segment(0xDC, struct.pack(">H", lines)))
            lines = None
    return b"".join(parts)


@pytest.mark.parametrize("kind", ["interleaved", "in three scans", "progressive"])
def test_a_height_that_follows_the_first_scan(rng, kind):
    written = jpeg_cases.planes(rng, 45, 30, [(2, 2), (1, 1), (1, 1)])
    scans = {"in three scans": [(0,), (1,), (2,)], "progressive": full_progression(3)}.get(kind)
    data = jpeg_cases.write(45, 30, written, scans)
    assert_same_image(
        without_height(data, 45), data, "the height is given after the image data (DNL)"
    )


@pytest.mark.parametrize("lines", [None, 0])
def test_a_height_that_is_nowhere_is_refused_without_wrong_advice(picture, lines):
    with pytest.raises(JpegError, match=r"height as 0, and no DNL .*: get the file anew") as caught:
        read(without_height(jpeg_cases.pillow(picture), lines), allow_truncated=True)
    assert "jpegtran" not in str(caught.value)  # which does not read it either


def test_a_height_that_the_data_does_not_reach_is_damage(picture):
    with pytest.raises(JpegError, match="truncated or damaged"):
        read(without_height(jpeg_cases.pillow(picture), 300))
    with pytest.raises(JpegError, match="limit of 200000000"):
        read(without_height(jpeg_cases.pillow(picture[:, :1].repeat(4000, axis=1)), 65_000))


def with_order(data, order):
    """A file whose interleaved scan names its components in another order."""
    start = data.index(b"\xff\xda") + 5
    pairs = [data[start + 2 * i : start + 2 * i + 2] for i in range(3)]
    return data[:start] + b"".join(pairs[i] for i in order) + data[start + 6 :]


@pytest.mark.parametrize("order", [(2, 1, 0), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1)])
def test_components_out_of_order_are_refused_before_libjpeg_crashes(picture, order, monkeypatch):
    data = with_order(jpeg_cases.pillow(picture), order)
    with pytest.raises(OSError, match="broken data stream"):
        pillow_pixels(data)
    monkeypatch.setattr(entropy, "decode", None)
    with pytest.raises(JpegError, match=r"out of the frame's order, .*can save it again"):
        read(data)


def test_an_order_that_libjpeg_takes_is_read(rng):
    written = jpeg_cases.planes(rng, 20, 30, [(2, 2), (1, 1), (1, 1)])
    plain = jpeg_cases.write(20, 30, written, [(0,), (1, 2)])
    assert_same_image(jpeg_cases.write(20, 30, written, [(0,), (2, 1)]), plain)


def test_stray_pieces_are_counted(picture):
    data = jpeg_cases.pillow(picture)
    odd = data[:2] + b"\0\xff\xd0" * 15_000 + data[2:]
    note = "15000 stray bytes between segments in 15000 places"
    assert_same_image(odd, data, note)


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (b"\xff\x12", "marker ff 12 at byte .* runs past the end of the file"),
        (b"\xff\xe3\x40\0", "marker ff e3 at byte .* runs past the end of the file"),
        (b"\xff\xf1\0\2", "marker ff f1 at byte .* is not allowed there"),
        (b"\xff\xd8\xff\xe0", "a second image begins within the first"),
    ],
)
def test_nonsense_after_a_complete_image(picture, tail, reason):
    """All pixels are decoded by then, although libjpeg stops there with an error."""
    data = jpeg_cases.pillow(picture)
    odd = data[:-2] + tail
    (note,) = read(odd).notes
    assert note.startswith("after the image data: ")
    assert_same_image(odd, data, note)
    assert re.search(reason, note)


def laborious(side, scans):
    """A gray picture of zeros in many progressive scans, each of which takes libjpeg its time."""
    blocks = (side // 8) ** 2
    runs, rest = divmod(blocks, 0x7FFF)
    # One code, a zero bit, for the longest run of ended blocks; another for runs of one block.
    bits = ("0" + "1" * 14) * runs + "10" * rest
    bits += "1" * (-len(bits) % 8)
    ac = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    parts = [
        b"\xff\xd8",
        segment(0xDB, b"\0" + b"\x10" * 64),
        segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0"),
        segment(0xC4, b"\0" + bytes([1] + [0] * 15) + b"\0"),
        segment(0xC4, b"\x10" + bytes([1, 1] + [0] * 14) + b"\xe0\0"),
        segment(0xDA, b"\1\1\0" + bytes(3)),
        bytes(blocks // 8),
    ]
    progression = [(k, high, low) for k in range(1, 64) for high, low in ((0, 6), (6, 5), (5, 4),
                   (4, 3), (3, 2), (2, 1), (1, 0))]  # fmt: skip
    for k, high, low in progression[: scans - 1]:
        parts += [segment(0xDA, bytes((1, 1, 0, k, k, high << 4 | low))), ac]
    return b"".join([*parts, b"\xff\xd9"])


def test_a_laborious_file_is_whole():
    file = read(laborious(512, 442))
    assert not file.truncated and not file.notes
    assert not file.components[0].coefficients.any()


def test_a_file_that_takes_too_long_is_refused(monkeypatch):
    for name in ("SECONDS_PER_BLOCK", "SECONDS_PER_BLOCK_AND_SCAN", "SECONDS_PER_BYTE"):
        monkeypatch.setattr(entropy, name, 0.0)
    monkeypatch.setattr(entropy, "TIME_LIMIT", 0.2)
    with pytest.raises(JpegError, match=r"^x: damaged: libjpeg took over 0 s$"):
        read(laborious(4096, 442), name="x")


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_libjpeg_ends_with_its_client_in_the_middle_of_a_file(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(laborious(6144, 442))  # several seconds of work
    script = """
        import os, sys, threading, time
        from dmcnn_jax.jpeg import entropy, read
        threading.Thread(target=read, args=[sys.argv[1]], daemon=True).start()
        while entropy.worker is None:
            time.sleep(0.01)
        time.sleep(0.5)
        print(entropy.worker.process.pid, flush=True)
        os.kill(os.getpid(), 9)
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), path],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    for _ in range(20):
        if has_ended(int(process.stdout)):
            assert os.listdir(tmp_path) == ["x.jpg"]  # no copy stays on the disk
            return
        time.sleep(0.1)
    raise AssertionError(f"process {process.stdout.strip()} is still there")


def has_ended(number):
    """Whether a process has ended, although its new parent may not have asked for it yet."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{number}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"
