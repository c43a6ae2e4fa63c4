"""Original files come back bit for bit from restored ones."""

import functools
import io
import json
import zlib

import jpeg_cases
import numpy as np
import pytest
from carried_files import files
from hypothesis import given, settings
from hypothesis import strategies as st
from jpeg_cases import segment
from PIL import Image
from test_huffman_encoder import FACTORS, photo, scan_data

from dmcnn_jax import jpeg
from dmcnn_jax.jpeg import recovery
from dmcnn_jax.jpeg.carrying import replace_picture
from dmcnn_jax.jpeg.file_layout import TYPICAL_SEGMENTS, read_scan_header
from dmcnn_jax.jpeg.finer_table import round_coefficients
from dmcnn_jax.jpeg.huffman_encoder import CodedPlane, encode_scan, make_code
from dmcnn_jax.jpeg.provenance import is_as_written
from dmcnn_jax.jpeg.recipe import make_segments, split_recipe, unpack
from dmcnn_jax.jpeg.recoverable import replace_recoverably
from dmcnn_jax.jpeg.recovery import make_recipe, recover_original
from dmcnn_jax.restoration.decoding import dequantized_plane
from dmcnn_jax.restoration.jpeg_options import JpegOptions
from dmcnn_jax.restoration.jpeg_output import NOT_RECOVERABLE, make_jpeg
from dmcnn_jax.restoration.results import Planes

SEQUENTIAL = sorted(set(files()) - {"progressive"})


def finer(data, step=3, seed=0):
    """A picture with random coefficients inside the intervals of a file's."""
    rng = np.random.default_rng(seed)
    file = jpeg.read(data)
    planes = []
    for c in file.components:
        q, k = c.table.reshape(64), c.coefficients.reshape(-1, 64)
        table = np.minimum(q, step)
        x = ((k + rng.uniform(-0.5, 0.5, k.shape)) * q).astype(np.float32)
        n = round_coefficients(x, table, k, q).reshape(c.coefficients.shape)
        planes.append(jpeg_cases.Plane(n, table.reshape(8, 8), c.vertical, c.horizontal))
    numbers = tuple(c.id for c in file.components)
    return jpeg_cases.write(file.height, file.width, planes, ids=numbers)


def restored(data, step=3, seed=0):
    """A file as restoring makes it, without a recipe."""
    return replace_picture(data, finer(data, step, seed)).data


def recovered(data):
    """The original as recovered from the restored file, which holds its recipe; and the recipe."""
    whole = replace_recoverably(data, finer(data), added=[(0xE9, b"a certificate")])
    assert whole is not None
    return recover_original(whole.data), split_recipe(whole.data)[1]


def as_decoded(data):
    """Planes of a colour file, as if a network had left them as they are."""
    file = jpeg.read(data)
    luma, *chroma = (dequantized_plane(c)[: c.height, : c.width] for c in file.components)
    whole = np.pad(luma, ((0, -file.height % 8), (0, -file.width % 8)), "edge")
    return Planes(file, ("net",) * 3, (whole,), tuple(chroma), ())


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_files_of_all_kinds_come_back(name):
    data = files()[name]
    original, recipe = recovered(data)
    assert original == data
    assert len(recipe) < 700  # Photoshop's and XMP's corrected segments included


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 95, "subsampling": 0},
        {"quality": 60, "subsampling": 1, "restart_marker_rows": 1},
        {"quality": 30, "subsampling": 2, "optimize": True},
        {"quality": 30, "subsampling": 2, "restart_marker_blocks": 1},
        {"quality": 75, "mode": "L"},
        {"quality": 75, "mode": "CMYK"},
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (33, 50)])
def test_pillows_files_come_back(size, options):
    data = jpeg_cases.pillow(photo(*size), **options)
    original, recipe = recovered(data)
    assert original == data
    assert len(recipe) < 350


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    factors=st.sampled_from(FACTORS),
    restart=st.integers(0, 3),
    single=st.booleans(),
)
def test_files_of_another_encoder_come_back(seed, size, factors, restart, single):
    # Where units are filled up, this encoder writes zeros, and libjpeg doesn't.
    planes = jpeg_cases.planes(np.random.default_rng(seed), *size, factors)
    scans = [(i,) for i in range(len(planes))] if single else None
    data = jpeg_cases.write(*size, planes, scans, restart=restart, segments=jpeg_cases.jfif())
    assert recovered(data)[0] == data


@pytest.mark.parametrize("restart", [0, 1])
def test_padding_with_zeros_comes_back(restart):
    data = jpeg_cases.pillow(photo(96, 120)[..., 0], quality=50, restart_marker_blocks=restart)
    head, scan = scan_data(data)
    (tables,), (component,) = read_scan_header(head).components, jpeg.read(data).components
    codes = make_code(*tables.dc), make_code(*tables.ac)
    planes = [CodedPlane(component.coefficients, 1, 1, *codes)]
    zeros = encode_scan(planes, restart_interval=restart, padding=0)
    assert encode_scan(planes, restart_interval=restart) == scan != zeros
    altered = head + zeros + data[len(head + scan) :]
    assert (jpeg.read(altered).components[0].coefficients == component.coefficients).all()
    original, recipe = recovered(altered)
    assert original == altered
    assert len(recipe) < 250


@pytest.mark.parametrize(
    "more", [b"\xff\xd3", b"\xff\xff\xff", bytes(12), b"\xff\xd9trailer" + bytes(300)]
)
def test_bytes_before_and_after_the_end_marker_come_back(more):
    data = jpeg_cases.pillow(photo(33, 50), quality=50)
    data = data[:-2] + more + data[-2:]
    assert recovered(data)[0] == data


def test_a_recipe_changes_only_its_segment_and_positions():
    data = files()["ultra-hdr-mpf"]
    picture = finer(data)
    whole = replace_recoverably(data, picture).data
    plain, recipe = split_recipe(whole)
    assert whole == replace_picture(data, picture, added=make_segments(recipe)).data
    assert recover_original(plain, recipe) == data


def test_the_function_for_restoring_keeps_the_original_inside():
    data = jpeg_cases.pillow(photo(40, 60), quality=30)
    made = as_decoded(data)
    plain, whole = (make_jpeg(made, JpegOptions(recoverable=each)) for each in (False, True))
    assert whole.recoverable and not plain.recoverable
    assert recover_original(whole.data) == data
    assert split_recipe(whole.data)[0] == plain.data
    assert jpeg.read(whole.data).certificate is not None
    assert is_as_written(plain.data, data) and is_as_written(whole.data, data)
    assert not is_as_written(whole.data.replace(b"JFIF", b"JFIX"), data)


@pytest.mark.slow
def test_the_original_inside_counts_for_the_size_of_the_file():
    data = jpeg_cases.pillow(photo(40, 60), quality=30)
    made = as_decoded(data)
    size = len(make_jpeg(made, JpegOptions(loss=0.02)).data)
    limited = make_jpeg(made, JpegOptions(loss=None, size=size, recoverable=True))
    assert limited.recoverable and len(limited.data) <= size
    assert recover_original(limited.data) == data


def test_a_file_that_cannot_hold_its_original_says_so():
    data = jpeg_cases.pillow(photo(40, 60), quality=30, progressive=True)
    result = make_jpeg(as_decoded(data), JpegOptions(recoverable=True))
    assert not result.recoverable and NOT_RECOVERABLE in result.notes
    assert split_recipe(result.data)[1] is None


def test_progressive_originals_have_no_recipe():
    data = jpeg_cases.pillow(photo(33, 50), quality=50, progressive=True)
    assert make_recipe(data, restored(data)) is None


def test_a_restored_file_of_another_original_gives_no_recipe():
    data, other = (jpeg_cases.pillow(photo(33, 50, seed), quality=50) for seed in (0, 1))
    assert make_recipe(data, restored(other)) is None


def test_coefficients_outside_their_intervals_give_no_recipe():
    data = jpeg_cases.pillow(photo(33, 50), quality=50)
    file = jpeg.read(restored(data))
    changed = file.components[0].coefficients.copy()
    changed[0, 0, 9] += 60
    planes = [
        jpeg_cases.Plane(k, c.table, c.vertical, c.horizontal)
        for c, k in zip(
            file.components,
            [changed, *(c.coefficients for c in file.components[1:])],
            strict=True,
        )
    ]
    picture = jpeg_cases.write(33, 50, planes)
    assert make_recipe(data, replace_picture(data, picture).data) is None


def test_a_changed_file_is_refused():
    data = jpeg_cases.pillow(photo(33, 50), quality=50, comment=b"what was said")
    plain = restored(data)
    recipe = make_recipe(data, plain)
    touched = plain.replace(b"what was said", b"what was saiD")
    with pytest.raises(jpeg.JpegError, match="was changed since it was restored"):
        recover_original(touched, recipe)
    with Image.open(io.BytesIO(plain)) as image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=50)
    with pytest.raises(jpeg.JpegError, match="was changed since it was restored"):
        recover_original(buffer.getvalue(), recipe)


def test_a_file_without_a_recipe_is_refused():
    with pytest.raises(jpeg.JpegError, match=r"^a\.jpg: it doesn't hold its original"):
        recover_original(jpeg_cases.pillow(photo(8, 8)), name="a.jpg")


def test_a_recipe_of_a_later_version_is_refused():
    data = jpeg_cases.pillow(photo(8, 8))
    plain = restored(data)
    with pytest.raises(jpeg.JpegError, match="in format 09, expected 01"):
        recover_original(plain, b"\x09" + make_recipe(data, plain)[1:])


@settings(max_examples=40, deadline=None)
@given(changes=st.dictionaries(st.integers(0, 149), st.integers(1, 255), min_size=1, max_size=4))
def test_damaged_recipes_give_one_line_or_the_original(changes):
    original, plain, recipe = small()
    damaged = bytearray(recipe)
    for index, change in changes.items():
        damaged[index % len(recipe)] ^= change
    try:
        # A bit that nothing reads may change.
        assert recover_original(plain, bytes(damaged)) == original
    except jpeg.JpegError as error:
        assert "\n" not in str(error)


@functools.cache
def small():
    """A small file, restored, and the recipe."""
    original = jpeg_cases.pillow(photo(9, 20), quality=50, subsampling=2)
    plain = restored(original)
    return original, plain, make_recipe(original, plain)


def forged(parts, rest=b""):
    """A recipe of any JSON."""
    packer = zlib.compressobj(wbits=-15, zdict=TYPICAL_SEGMENTS)
    body = json.dumps(parts).encode() + b"\n" + rest
    return bytes((1,)) + bytes(32) + packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    "parts",
    [
        [499_999, -499_999] * 8000,  # 4 GB of bytes
        [{"filler": 499_999}, -499_999] * 8000,
        [500_001],
        [[0, 0]] * 300_000,  # a line of 2 MB
    ],
)
def test_recipes_cannot_repeat_bytes_without_end(parts):
    _, plain, _ = small()
    with pytest.raises(ValueError, match=r"bytes outside the recipe|no line of at most"):
        unpack(forged(parts, bytes(500_000)), len(plain))


def test_recipes_cannot_code_scans_without_end(monkeypatch):
    original, plain, _ = small()
    head = original[: original.index(b"\xff\xda") + 14]
    coded = []
    monkeypatch.setattr(recovery, "encode_scan", lambda *_, **__: coded.append(0) or b"")
    with pytest.raises(jpeg.JpegError, match="was changed since it was restored"):
        recover_original(plain, forged([len(head), *[{}] * 100], head))
    assert len(coded) <= 3


def test_a_scan_has_at_most_four_components():
    # Each takes the memory of a plane.
    original, *_ = small()
    at = original.index(b"\xff\xda")
    head = original[:at] + segment(0xDA, b"\xff" + b"\1\0" * 255 + b"\0\77\0")
    with pytest.raises(ValueError, match="a scan of 255 components; expected 1 to 4"):
        read_scan_header(head)


def test_large_recipes_take_several_segments():
    recipe = np.random.default_rng(0).bytes(150_000)
    data = jpeg_cases.pillow(photo(8, 8))
    segments = b"".join(segment(*each) for each in make_segments(recipe))
    assert split_recipe(data[:20] + segments + data[20:]) == (data, recipe)


def test_the_last_recipe_is_a_files_own():
    data = jpeg_cases.pillow(photo(33, 50), quality=50)
    once = restored(data)
    once = once[:2] + segment(*make_segments(make_recipe(data, once))[0]) + once[2:]
    twice = restored(once, step=1)
    recipe = make_recipe(once, twice)
    at = twice.index(b"\xff\xdb")
    twice = twice[:at] + segment(*make_segments(recipe)[0]) + twice[at:]
    assert recover_original(recover_original(twice)) == data
