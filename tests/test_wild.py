"""Files of the kinds that are found in the wild, by the thousand: read as libjpeg reads them.

Each is a picture of random size, saved in one of Pillow's ways, with metadata at random and with
none, one or several of the oddities that programs and cameras leave behind.
"""

import collections
import io
import struct

import jpeg_cases
import numpy as np
import pytest
from jpeg_cases import segment
from PIL import Image

from dmcnn_jax.jpeg import JpegError, entropy, read
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer


def picture(rng):
    """A picture with smooth and rough parts: uint8 [height, width, 3]."""
    height, width = rng.integers(1, 90, 2)
    rows, columns = np.indices((height, width))
    waves = [np.sin(rows / a) + np.cos(columns / b) for a, b in rng.uniform(2, 20, (3, 2))]
    noise = rng.normal(0, rng.choice([0, 3, 30]), (height, width, 3))
    return np.clip(128 + 50 * np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)


def saved(rng):
    """A file as Pillow writes it, with options and metadata at random."""
    options = {"quality": int(rng.integers(1, 101)), "progressive": bool(rng.integers(2))}
    mode = rng.choice(["L", "RGB", "RGB", "RGB", "CMYK"])
    if mode == "RGB":
        options["subsampling"] = str(rng.choice(["4:4:4", "4:2:2", "4:2:0"]))
        options["keep_rgb"] = bool(rng.random() < 0.1)
    if rng.integers(2):
        options["optimize"] = True
    if rng.random() < 0.3:
        options["restart_marker_blocks"] = int(rng.integers(1, 9))
    if rng.integers(2):
        exif = Image.Exif()
        exif[0x112], exif[0x10F] = int(rng.integers(1, 9)), "Camera"
        options |= {"exif": exif, "icc_profile": rng.bytes(300), "dpi": (72, 72), "comment": b"c"}
    if options.get("keep_rgb"):
        del options["subsampling"]
    return jpeg_cases.pillow(picture(rng), str(mode), **options)


def pad_end(rng, data):
    return data[:-2] + bytes(int(rng.integers(1, 3000))) + data[-2:]


def surplus_restarts(rng, data):
    return data[:-2] + b"\xff\xd3" * int(rng.integers(1, 9)) + data[-2:]


def no_end(rng, data):
    return data[:-2]


def trailer(rng, data):
    return data + rng.choice([data, bytes(100), b"\0\0\0\x18ftypmp42" + bytes(300)])


def fill_bytes(rng, data):
    return data.replace(b"\xff\xda", b"\xff" * int(rng.integers(2, 9)) + b"\xda", 1)


def impossible_length(rng, data):
    return data[:2] + bytes((0xFF, rng.choice([0xE3, 0xFE, 0xEC]), 0, rng.integers(2))) + data[2:]


def foreign_segments(rng, data):
    marker = int(rng.integers(0xE2, 0xEE))
    return data[:2] + segment(marker, rng.bytes(int(rng.integers(1, 900)))) + data[2:]


def junk_exif(rng, data):
    return data[:2] + segment(0xE1, b"Exif\0\0" + rng.bytes(20)) + data[2:]


def stray_bytes(rng, data):
    return data.replace(b"\xff\xdb", bytes(int(rng.integers(1, 40))) + b"\xff\xdb", 1)


def lines_afterwards(rng, data):
    start = max(data.find(b"\xff\xc0\0"), data.find(b"\xff\xc2\0")) + 5
    height = data[start : start + 2]
    parts = jpeg_cases.segments_of(data[:start] + b"\0\0" + data[start + 2 :])
    after = [marker for marker, _ in parts].index(0xDA) + 1
    parts.insert(after, (0xDC, segment(0xDC, height)))
    return b"".join(part for _, part in parts)


def wrong_order(rng, data):
    start = data.index(b"\xff\xda") + 5
    if data[start - 1] < 3:
        return data
    return data[:start] + data[start + 2 : start + 4] + data[start : start + 2] + data[start + 4 :]


def cut(rng, data):
    return data[: int(rng.integers(2, len(data)))]


def changed(rng, data):
    return jpeg_cases.mutate(rng, data)


HARMLESS = [
    pad_end, surplus_restarts, no_end, trailer, fill_bytes, impossible_length, foreign_segments,
    junk_exif, stray_bytes,
]  # fmt: skip
LAST = [lines_afterwards, wrong_order, cut, changed]


def wild(seed):
    """A file, and whether nothing that matters is wrong with it."""
    rng = np.random.default_rng(seed)
    data = saved(rng)
    last = LAST[rng.integers(len(LAST))] if rng.random() < 0.3 else None
    if last:
        data = last(rng, data)
    else:
        for kind in rng.permutation(len(HARMLESS))[: rng.integers(4)]:
            if data[-2:] == b"\xff\xd9" or kind > 3:
                data = HARMLESS[kind](rng, data)
    return data, last in (None, lines_afterwards)


def pillow_pixels(data):
    """What Pillow shows, None if it doesn't."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, struct.error):
        return None


def check(seeds):
    """Reads files, and returns how many were whole, and how many refused."""
    restorer = Restorer(options=RestoreOptions(strength=0))
    read(jpeg_cases.pillow(np.zeros((8, 8), np.uint8)))
    process = entropy.worker.process.pid
    counts = collections.Counter()
    for seed in seeds:
        data, harmless = wild(seed)
        try:
            file = read(data, name="x", max_pixels=10**7)
        except JpegError as error:
            assert not harmless, (seed, str(error))
            assert str(error).startswith("x: ") and "\n" not in str(error)
            counts["refused"] += 1
            continue
        counts["whole"] += 1
        expected = pillow_pixels(data)
        if expected is None:
            expected = pillow_pixels(data + b"\xff\xd9")
        if expected is None:
            counts["read by this package only"] += 1
            continue
        np.testing.assert_array_equal(restorer(file).pixels, expected, err_msg=str(seed))
    assert entropy.worker.process.pid == process, "libjpeg crashed"
    return counts


def test_a_hundred_wild_files():
    counts = check(range(100))
    assert counts["whole"] > 70 and counts["refused"] > 5


@pytest.mark.slow
def test_two_thousand_wild_files():
    counts = check(range(1000, 3000))
    assert counts["whole"] > 1400 and counts["refused"] > 200
    print(dict(counts))
