"""Restored JPEG files: coefficients under a finer table, inside the original's intervals."""

import dataclasses
import errno
import io
import json
import os
from fractions import Fraction

import jpeg_cases
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import dmcnn_jax
from dmcnn_jax import jpeg
from dmcnn_jax.cli.restore import main
from dmcnn_jax.jpeg import expected_error, finer_table, resampling
from dmcnn_jax.jpeg.coefficient_writer import write_coefficients
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.restoration.decoding import dequantized_plane
from dmcnn_jax.restoration.jpeg_components import find_targets
from dmcnn_jax.restoration.jpeg_options import JpegOptions, parse_budget
from dmcnn_jax.restoration.jpeg_output import expected_loss, find_step, make_jpeg
from dmcnn_jax.restoration.jpeg_verification import compare_files
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer
from dmcnn_jax.restoration.results import Planes
from dmcnn_jax.restoration.rounding import round_to_pixels


def picture(height=75, width=93, seed=0):
    """A smooth random picture with some noise: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    waves = np.add.outer(np.arange(height) * 2.0, np.arange(width) * 1.5)
    pixels = 120 + 60 * np.sin(waves[..., None] / [17, 23, 31] + [0, 1, 2])
    return np.clip(pixels + rng.normal(0, 9, pixels.shape), 0, 255).astype(np.uint8)


def saved(image, **options):
    buffer = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(buffer, "JPEG", **{"quality": 30} | options)
    return buffer.getvalue()


def decoded(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def restored(data, full_size=True):
    """Planes as a restorer returns them, drawn at random about the file's: bounds don't matter."""
    file = jpeg.read(data)
    rng = np.random.default_rng(1)
    planes = []
    for index, component in enumerate(file.components):
        plane = dequantized_plane(component)
        if index and file.color == "ycbcr":
            plane = plane[: component.height, : component.width]
            if full_size:
                plane = resampling.upsample(plane, component.subsampling)
                plane = plane[: file.height, : file.width]
        noise = rng.normal(0, 4, plane.shape).astype(np.float32)
        planes.append(plane + scipy.ndimage.uniform_filter(noise, 3))
    count = 1 if file.color == "ycbcr" else len(planes)
    return Planes(file, ("net",) * len(planes), tuple(planes[:count]), tuple(planes[count:]), ())


KINDS = {
    "gray": lambda: saved(picture()[..., 0]),
    "4:4:4": lambda: saved(picture(), subsampling="4:4:4", quality=75),
    "4:2:2": lambda: saved(picture(), subsampling="4:2:2"),
    "4:2:0": lambda: saved(picture(), quality=10),
    "progressive": lambda: saved(picture(), progressive=True, quality=90),
    "a few pixels": lambda: saved(picture(3, 5)),
    "rgb": lambda: saved(picture(), keep_rgb=True),
}


# Coding


FACTORS = [
    [(1, 1)],
    [(2, 2)],
    [(2, 2), (1, 1), (1, 1)],
    [(1, 4), (1, 1), (1, 2)],
    [(4, 4), (1, 1), (1, 1)],  # too many blocks to interleave
    [(2, 2), (2, 2), (2, 2)],
    [(1, 1), (2, 2), (1, 2)],
    [(1, 1)] * 4,
]


def components(factors, height, width, **options):
    rng = np.random.default_rng(len(factors))
    down, across = (max(f[axis] for f in factors) for axis in (0, 1))
    found = []
    for number, (plane, (v, h)) in enumerate(
        zip(jpeg_cases.planes(rng, height, width, factors, **options), factors, strict=True)
    ):
        rows, columns = -(-height * v // down), -(-width * h // across)
        k = plane.coefficients.astype(np.int16)[: -(-rows // 8), : -(-columns // 8)]
        table = plane.table.astype(np.int32)
        ratio = down // v, across // h
        found.append(Component(number + 7, k, table, v, h, ratio, rows, columns))
    return found


@pytest.mark.parametrize("progressive", [False, True], ids=["sequential", "progressive"])
@pytest.mark.parametrize("factors", FACTORS, ids=str)
def test_coefficients_are_written_as_they_are(factors, progressive):
    given_components = components(factors, 37, 51)
    data = write_coefficients(given_components, 37, 51, progressive=progressive)
    file = jpeg.read(data)
    assert (
        file.progressive == progressive and not file.notes and (file.width, file.height) == (51, 37)
    )
    for wrote, found in zip(given_components, file.components, strict=True):
        np.testing.assert_array_equal(found.coefficients, wrote.coefficients)
        np.testing.assert_array_equal(found.table, wrote.table)
        assert found.id == wrote.id and found.subsampling == wrote.subsampling
    assert Image.open(io.BytesIO(data)).size == (51, 37)


def test_tables_that_need_16_bits_make_an_extended_file():
    (component,) = components([(1, 1)], 16, 16)
    wide = dataclasses.replace(component, table=component.table * 0 + 300)
    for each, marker in ((component, 0xC0), (wide, 0xC1)):
        data = write_coefficients([each], 16, 16)
        assert marker in {m for m, _ in jpeg_cases.segments_of(data)}
        np.testing.assert_array_equal(jpeg.read(data).components[0].table, each.table)


def test_coefficients_beyond_the_format_are_refused():
    (component,) = components([(1, 1)], 8, 8)
    k = component.coefficients.copy()
    k[0, 0, 5] = -1024
    with pytest.raises(ValueError, match=r"a coefficient of 1024; JPEG files .* hold up to 1023"):
        write_coefficients([dataclasses.replace(component, coefficients=k)], 8, 8)


# Rounding


@given(st.data())
def test_a_multiple_of_a_finer_step_is_always_strictly_inside(data):
    q = data.draw(st.integers(1, 65535) | st.integers(1, 8))
    step, k = data.draw(st.integers(1, q)), data.draw(st.integers(-1024, 1024))
    x = data.draw(st.floats(-3e4, 3e4, width=32))
    steps, coefficients, table = np.full(64, step), np.full((1, 64), k), np.full(64, q)
    values = np.full((1, 64), x, np.float32)
    n = finer_table.round_coefficients(values, steps, coefficients, table)
    low, high = Fraction(2 * k - 1, 2) * q, Fraction(2 * k + 1, 2) * q
    dc, ac = (int(number) for number in n[0, :2])
    assert low < dc * step < high and low < ac * step < high
    assert finer_table.lies_inside(n, steps, coefficients, table).all()
    if low < x < high:  # no multiple inside is nearer by more than the dead zone
        nearest = min(
            (m for m in range(ac - 2, ac + 3) if low < m * step < high),
            key=lambda m: abs(m * step - x),
        )
        slack = 2 * finer_table.DEAD_ZONE * step + 1e-2
        assert abs(ac * step - x) <= abs(nearest * step - x) + slack
    # Pixels of 8 bits have no larger means, so DC goes no further than the interval demands.
    limit = finer_table.MAX_DC // step
    if abs(ac) <= limit:
        assert dc == ac
    elif low < -limit * step and limit * step < high:
        assert abs(dc) == limit


@given(*[st.integers(-5000, 5000)] * 2, st.integers(1, 300), st.integers(1, 300))
def test_inside_is_decided_in_integers(n, k, step, q):
    inside = finer_table.lies_inside(*(np.full(64, value) for value in (n, step, k, q)))
    assert inside.all() == inside.any() == (abs(Fraction(n * step) - k * q) < Fraction(q, 2))


@pytest.mark.parametrize("factors", [(1, 2), (2, 1), (2, 2), (1, 4), (1, 1)])
def test_samples_are_fitted_by_least_squares(rng, factors):
    plane = rng.normal(100, 30, (9, 11))
    samples = resampling.fit_samples(plane, factors)
    count = samples.size
    units = np.eye(count).reshape(count, *samples.shape)
    matrix = np.stack([resampling.upsample(unit, factors).ravel() for unit in units], axis=1)
    down, across = factors
    whole = np.pad(plane, ((0, -9 % down), (0, -11 % across)), mode="edge")
    expected, *_ = np.linalg.lstsq(matrix, whole.ravel(), rcond=None)
    np.testing.assert_allclose(samples.ravel(), expected, atol=2e-4)


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_the_expected_error_is_that_of_laplace_distributions(rng, quality):
    v, u = np.divmod(np.arange(64), 8)
    scale = 60 / np.maximum(np.hypot(u, v), 1) ** 1.5
    x = rng.laplace(0, 1, (40, 50, 64)) * scale
    table = jpeg.quality_table(quality)
    k = np.rint(x / table.reshape(64)).astype(np.int16)
    error = np.mean((k * table.reshape(64) - x) ** 2)
    component = Component(1, k, table, 1, 1, (1, 1), 320, 400)
    assert abs(expected_error.expected_error(component) / error - 1) < 0.1


# Files


@pytest.mark.parametrize("kind", KINDS)
def test_all_coefficients_lie_inside(kind):
    data = KINDS[kind]()
    planes = restored(data)
    result = make_jpeg(planes, JpegOptions(loss=0.3))
    before, after = jpeg.read(data), jpeg.read(result.data)
    for a, b in zip(before.components, after.components, strict=True):
        distance = b.coefficients * b.table.reshape(64).astype(int)
        distance -= a.coefficients * a.table.reshape(64).astype(int)
        assert (2 * abs(distance) < a.table.reshape(64)).all()
        assert (a.id, a.vertical, a.horizontal) == (b.id, b.vertical, b.horizontal)
    assert compare_files(before, after).passed
    assert (after.color, after.progressive) == (before.color, before.progressive)
    assert result.luma_tally.share == 1
    assert decoded(result.data).shape == decoded(data).shape


def test_inks_too():
    data = saved(Image.fromarray(picture()).convert("CMYK"))
    parts = []
    file = jpeg.read(data)
    for component in file.components:
        part = dataclasses.replace(file, color="gray", components=(component,))
        plane = dequantized_plane(component)
        parts.append(Planes(part, ("net",), (plane + 1,), (), ()))
    planes = Planes(file, ("net",) * 4, (), (), (), parts=tuple(parts))
    result = make_jpeg(planes, JpegOptions())
    assert compare_files(file, jpeg.read(result.data)).passed
    assert Image.open(io.BytesIO(result.data)).mode == "CMYK" and result.data != data


def test_a_fine_step_gives_the_restored_planes():
    data = saved(picture()[..., 0], quality=40)
    planes = restored(data)
    file = planes.file
    plane = dequantized_plane(file.components[0], project=False)
    planes = dataclasses.replace(planes, luma=(plane + 0.4,))  # stays inside
    result = make_jpeg(planes, JpegOptions(loss=0))
    assert result.step == 1
    expected = np.clip(planes.luma[0][: file.height, : file.width], 0, 255)
    assert np.abs(decoded(result.data) - expected).max() < 4
    assert abs(np.mean(decoded(result.data) - expected)) < 0.2


@pytest.mark.parametrize("subsampling", ["4:2:2", "4:2:0"])
def test_full_chroma_stays_inside_on_average_and_is_nearer(subsampling):
    planes = restored(saved(picture(96, 112), subsampling=subsampling, quality=50))
    size = planes.file.height, planes.file.width
    wanted, _ = round_to_pixels(planes.luma[0], planes.chroma, planes.file.components, *size)
    errors = []
    for full_chroma in (False, True):
        result = make_jpeg(planes, JpegOptions(loss=0.05, full_chroma=full_chroma))
        verdict = compare_files(planes.file, jpeg.read(result.data))
        assert verdict.passed and verdict.averaged == full_chroma and verdict.chroma.blocks
        errors.append(np.mean((decoded(result.data).astype(float) - wanted) ** 2))
    components_ = jpeg.read(result.data).components
    assert all(c.subsampling == (1, 1) and c.vertical == 1 for c in components_)
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("models", [("net", None, None), (None, "net", "net")])
def test_full_chroma_where_not_all_planes_are_restored(models):
    planes = dataclasses.replace(restored(saved(picture(), quality=50)), models=models)
    result = make_jpeg(planes, JpegOptions(full_chroma=True))
    luma, chroma, _ = jpeg.read(result.data).components
    expected = (1, 1) if models[1] else (2, 2)
    assert luma.subsampling == (1, 1) and chroma.subsampling == expected
    assert (result.notes == ()) == bool(models[1])
    assert compare_files(planes.file, jpeg.read(result.data)).passed
    difference = decoded(result.data).astype(float) - decoded(planes.file.data)
    assert np.abs(difference).mean() < 8


def test_pictures_narrower_than_a_sample_block_have_no_averages_to_compare():
    planes = restored(saved(picture(40, 9), quality=50))
    result = make_jpeg(planes, JpegOptions(full_chroma=True))
    verdict = compare_files(planes.file, jpeg.read(result.data))
    assert verdict.passed and not verdict.chroma.blocks and result.chroma_tally is None


def test_coefficients_that_no_file_can_hold_are_one_line():
    (component,) = components([(1, 1)], 16, 16)
    data = write_coefficients([component], 16, 16)
    file = jpeg.read(data, name="crafted.jpg")
    k = file.components[0].coefficients.copy()
    k[..., 0] = [[-2047, 2047], [2047, -2047]]
    crafted = dataclasses.replace(file.components[0], coefficients=k)
    planes = Planes(dataclasses.replace(file, components=(crafted,), damage="crafted"),
                    (None,), (), (), ())  # fmt: skip
    with pytest.raises(ValueError, match=r"^crafted.jpg: libjpeg can't write .*; write a PNG or"):
        make_jpeg(planes, JpegOptions())


@pytest.mark.parametrize("quality", [6, 10, 13])
@pytest.mark.parametrize("options", [JpegOptions(loss=0), JpegOptions(loss=None, size=10**6)])
def test_whiter_than_white_beside_blacker_than_black(quality, options):
    """Their DC coefficients differed by more than a JPEG file can say."""
    squares = 255 * (np.indices((64, 96)) // 16).sum(axis=0) % 510
    data = saved(squares.astype(np.uint8), quality=quality)
    file = jpeg.read(data)
    # As far from gray as the file allows.
    k, table = file.components[0].coefficients[..., 0], file.components[0].table[0, 0]
    means = 128 + (k + 0.49 * np.sign(k)) * table / 8
    assert np.ptp(means) > 2047 / 8 + 1
    plane = np.kron(means, np.ones((8, 8))).astype(np.float32)
    result = make_jpeg(Planes(file, ("net",), (plane,), (), ()), options)
    assert result.step == 1
    after = jpeg.read(result.data)
    assert compare_files(file, after).passed
    assert np.abs(decoded(result.data) - np.clip(plane, 0, 255)).max() <= 1


def test_full_chroma_beyond_the_range_of_differences_takes_a_coarser_step():
    data = saved(picture(64, 96), quality=30)
    planes = restored(data)
    squares = 600.0 * ((np.indices((64, 96)) // 16).sum(axis=0) % 2) - 172
    planes = dataclasses.replace(planes, chroma=(squares.astype(np.float32), planes.chroma[1]))
    result = make_jpeg(planes, JpegOptions(loss=0, full_chroma=True))
    first, second = jpeg.read(result.data).components[1:]
    assert first.table.max() > second.table.max() or first.table.max() == 1


# Budgets


def test_smaller_losses_take_more_bytes_and_finer_steps():
    planes = restored(saved(picture(160, 160), quality=20))
    targets = find_targets(planes, project=True, full_chroma=False)
    results = [make_jpeg(planes, JpegOptions(loss=loss)) for loss in (0.8, 0.4, 0.2, 0.1)]
    for loss, result in zip((0.8, 0.4, 0.2, 0.1), results, strict=True):
        assert result.loss <= loss < expected_loss(targets, result.step + 1)
        assert result.step == find_step(targets, loss)
    sizes = [len(result.data) for result in results]
    assert sizes == sorted(sizes) and len(set(sizes)) == 4


def test_the_loss_is_that_of_added_noise():
    planes = restored(saved(picture(160, 160)[..., 0], quality=20))
    (target,) = find_targets(planes, project=True, full_chroma=False)
    component = target.rounded(9)
    noise = dequantized_plane(component, project=False) - planes.luma[0]
    expected = 10 * np.log10(1 + np.mean(noise**2) / target.error)
    assert abs(expected_loss([target], 9) / expected - 1) < 0.02


def test_coefficients_beyond_their_intervals_take_no_finer_step():
    """Such as those of sharpened chroma: only rounding counts, not what the intervals cost."""
    planes = restored(saved(picture(160, 160)[..., 0], quality=75))
    (target,) = find_targets(planes, project=True, full_chroma=False)
    rng = np.random.default_rng(0)
    beyond = planes.luma[0] + rng.normal(0, 30, planes.luma[0].shape).astype(np.float32)
    far = dataclasses.replace(target, plane=beyond)
    table = target.component.table
    # All lie at ends of intervals, of length Q, or within them: multiples of Q' are not farther
    # from these than Q'.
    for step in (1, 2, 4):
        assert far.rounding_error(step) <= np.mean(np.minimum(table, step) ** 2.0)
    assert expected_loss([far], 1) < 0.3


def test_files_get_as_small_as_asked_but_no_smaller_than_they_can():
    planes = restored(saved(picture(160, 160), quality=20))
    smallest = len(make_jpeg(planes, JpegOptions(loss=None, size=10**6)).data)
    size = int(0.6 * smallest)
    result = make_jpeg(planes, JpegOptions(loss=None, size=size))
    finer = make_jpeg(planes, JpegOptions(loss=expected_loss_of(planes, result.step - 1)))
    assert len(result.data) <= size < len(finer.data)
    with pytest.raises(ValueError, match="200 bytes are too few: with the coarsest table"):
        make_jpeg(planes, JpegOptions(loss=None, size=200))


def expected_loss_of(planes, step):
    return expected_loss(find_targets(planes, project=True, full_chroma=False), step)


@pytest.mark.parametrize(
    ("text", "loss", "size"),
    [("0.1dB", 0.1, None), ("2 dB", 2, None), (".5dB", 0.5, None), ("300kB", None, 300_000),
     ("1.5MB", None, 1_500_000), ("900B", None, 900)],
)  # fmt: skip
def test_budgets(text, loss, size):
    assert parse_budget(text) == {"loss": loss, "size": size}


@pytest.mark.parametrize("text", ["", "3", "dB", "-1dB", "1e3kB", "3 GB", "nandB", "1..2kB"])
def test_other_budgets_are_refused(text):
    with pytest.raises(ValueError, match=r"expected decibels or a size, such as 0.1dB, 300kB"):
        parse_budget(text)


@pytest.mark.parametrize(
    "options", [{"loss": 11}, {"loss": -1}, {"size": 5}, {"loss": None}, {"loss": None, "size": 0}]
)
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match="expected"):
        JpegOptions(**options)


# What is not restored


def test_what_is_left_as_decoded_is_the_file_itself():
    data = saved(picture(), quality=95)
    restorer = Restorer(options=RestoreOptions(strength=0))
    result = restorer.render_jpeg(restorer.restore_planes(jpeg.read(data)))
    assert result.data == data and result.step is None and result.luma_tally is None


def test_a_plane_without_a_model_keeps_its_coefficients():
    planes = restored(saved(picture(), quality=40))
    planes = dataclasses.replace(planes, models=("net", None, None))
    before = planes.file.components
    after = jpeg.read(make_jpeg(planes, JpegOptions()).data).components
    for a, b, same in zip(before, after, (False, True, True), strict=True):
        assert np.array_equal(a.coefficients, b.coefficients) == same
        assert np.array_equal(a.table, b.table) == same


def test_damaged_files_become_whole_ones():
    data = saved(picture(160, 160), quality=60)
    file = jpeg.read(data[: len(data) * 2 // 3], allow_truncated=True)
    planes = Planes(file, (None,) * 3, (), (), ())
    whole = jpeg.read(make_jpeg(planes, JpegOptions()).data)
    for a, b in zip(file.components, whole.components, strict=True):
        np.testing.assert_array_equal(a.coefficients, b.coefficients)


def test_a_restored_file_is_recognised_and_left_alone():
    data = saved(picture(), quality=40)
    result = make_jpeg(restored(data), JpegOptions())
    file = jpeg.read(result.data)
    assert file.certificate.models == ("net",) * 3
    for table, component in zip(file.certificate.tables, jpeg.read(data).components, strict=True):
        np.testing.assert_array_equal(table, component.table)
    restorer = Restorer(options=RestoreOptions(size="fast"))
    again = restorer.render_jpeg(restorer.restore_planes(file))
    assert again.data == result.data and "restored it before" in again.notes[-1]
    pixels = restorer.render(restorer.restore_planes(file)).pixels
    np.testing.assert_array_equal(pixels, decoded(result.data))
    # Another picture with the same segment, such as an edited one, is a new file.
    certificate = next(
        part for marker, part in jpeg_cases.segments_of(result.data) if marker == 0xE9
    )
    edited = data[:2] + certificate + data[2:]
    assert jpeg.read(edited).certificate is None


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b'{"digest":1}', b"[" * 10_000, b'{"digest":"x"}']
)
def test_segments_that_only_look_like_certificates(payload):
    data = saved(picture(16, 16))
    payload = b"dmcnn_jax\0" + payload
    segment = b"\xff\xe9" + (len(payload) + 2).to_bytes(2, "big") + payload
    assert jpeg.read(data[:2] + segment + data[2:]).certificate is None


# The command and the function


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A JPEG file, its restored JPEG file, and what the command reported."""
    folder = tmp_path_factory.mktemp("photo")
    exif = Image.Exif()
    exif[0x010E] = "a picture"
    (folder / "a.jpg").write_bytes(saved(picture(64, 64), quality=20, exif=exif, dpi=(72, 72)))
    arguments = ["-o", str(folder / "b.jpg"), "--size", "fast", "--json", str(folder / "r.json")]
    assert main([str(folder / "a.jpg"), *arguments]) == 0
    return folder, json.loads((folder / "r.json").read_text())["files"][0]


def test_the_command_writes_restored_coefficients(photo, capsys):
    folder, record = photo
    assert record["status"] == "restored" and record["dropped"] == []
    assert record["luma_kept"]["share"] == record["chroma_kept"]["share"] == 1
    assert record["jpeg"]["bytes"] == (folder / "b.jpg").stat().st_size
    with Image.open(folder / "b.jpg") as image:
        assert image.getexif()[0x010E] == "a picture" and image.info["dpi"] == (72, 72)
    assert main(["--verify", str(folder / "a.jpg"), str(folder / "b.jpg")]) == 0
    assert "passed: all 6,144 coefficients lie in their intervals" in capsys.readouterr().out


def test_a_second_restoring_changes_nothing(photo, capsys):
    folder, _ = photo
    assert main([str(folder / "b.jpg"), "-o", str(folder / "c.jpg"), "--size", "fast"]) == 0
    assert (folder / "c.jpg").read_bytes() == (folder / "b.jpg").read_bytes()
    assert "dmcnn_jax restored it before; left as it is" in capsys.readouterr().err


def test_verify_fails_for_another_picture(photo, capsys):
    folder, _ = photo
    (folder / "other.jpg").write_bytes(saved(picture(64, 64, seed=5), quality=20))
    report = folder / "verdict.json"
    arguments = ["--verify", str(folder / "a.jpg"), str(folder / "other.jpg")]
    assert main([*arguments, "--json", str(report)]) == 1
    assert "FAILED" in capsys.readouterr().out
    verdict = json.loads(report.read_text())
    assert not verdict["passed"] and 0 < verdict["luma"]["share"] < 1


def test_a_quality_compresses_pixels_anew(photo):
    folder, _ = photo
    target = folder / "pixels.jpg"
    arguments = ["-o", str(target), "--quality", "90", "--size", "fast"]
    assert main([str(folder / "a.jpg"), *arguments]) == 0
    table = jpeg.read(target).components[0].table
    np.testing.assert_array_equal(table, jpeg.quality_table(90))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.png", "--budget", "0.1dB"], "--budget is for JPEG files of restored"),
        (["-o", "x.jpg", "--quality", "9", "--subsampling", "4:4:4"], "--subsampling is for JPEG"),
        (["-o", "x.jpg", "--upright"], "--upright turns pixels, but JPEG files hold restored"),
        (["-o", "x.jpg", "--bits", "16"], "JPEG files have 8 bits"),
    ],
)
def test_options_that_do_not_fit(photo, monkeypatch, capsys, arguments, message):
    folder, _ = photo
    monkeypatch.chdir(folder)
    assert main(["a.jpg", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (folder / arguments[1]).exists()


def test_a_size_that_is_too_small_is_one_line(photo, capsys):
    folder, _ = photo
    arguments = ["-o", str(folder / "tiny.jpg"), "--budget", "300B", "--size", "fast"]
    assert main([str(folder / "a.jpg"), *arguments]) == 1
    assert "300 bytes are too few" in capsys.readouterr().err
    assert not (folder / "tiny.jpg").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(photo, monkeypatch, capsys):
    folder, _ = photo
    before = sorted(folder.iterdir())

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main([str(folder / "a.jpg"), "-o", str(folder / "full.jpg"), "--size", "fast"]) == 1
    said = capsys.readouterr().err
    assert "No space left" in said and said.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_the_function_gives_the_commands_bytes(photo):
    folder, _ = photo
    data = dmcnn_jax.restore_jpeg(folder / "a.jpg", options=RestoreOptions(size="fast"))
    assert data == (folder / "b.jpg").read_bytes()


def test_what_follows_the_picture_is_kept_even_in_large_files(photo, tmp_path, monkeypatch, capsys):
    """For other results, only 16 MiB of it are read."""
    folder, _ = photo
    path, size = tmp_path / "a.jpg", 40_000_000
    path.write_bytes((folder / "a.jpg").read_bytes())
    trailer = bytes(size - path.stat().st_size)
    os.truncate(path, size)  # zeros that take no space on the disk
    options = RestoreOptions(size="fast")
    data = dmcnn_jax.restore_jpeg(path, options=options)
    small = jpeg.read(folder / "b.jpg")
    assert data.endswith(b"\xff\xd9" + trailer)
    assert abs(len(data) - size - len(small.data) + size - len(trailer)) < 100
    with open(path, "rb") as file:
        assert dmcnn_jax.restore_jpeg(file, options=RestoreOptions(strength=0)) == path.read_bytes()
    restorer = Restorer(options=options)
    planes = restorer.restore_planes(jpeg.read(path))
    with pytest.raises(ValueError, match=r"a\.jpg: read without its end.* whole=True"):
        restorer.render_jpeg(planes)
    monkeypatch.setattr(jpeg.reader, "MAX_WHOLE", 2**25)
    assert main([str(path), "-o", str(tmp_path / "b.jpg"), "--size", "fast"]) == 1
    assert "over 32 MiB, too large to keep all of it in a JPEG result" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["a.jpg"]


def test_nothing_is_promised_without_projection(photo):
    folder, _ = photo
    report = folder / "free.json"
    arguments = ["-o", str(folder / "free.jpg"), "--no-project", "--size", "fast"]
    assert main([str(folder / "a.jpg"), *arguments, "--json", str(report)]) == 0
    record = json.loads(report.read_text())["files"][0]
    assert "luma_kept" not in record and record["jpeg"]["step"] >= 1
    assert main([str(folder / "a.jpg"), "-o", str(folder / "saved.jpg"), "--assume-quality", "10",
                 "--size", "fast", "--json", str(report)]) == 0  # fmt: skip
    record = json.loads(report.read_text())["files"][0]
    assert "earlier" in record and "luma_kept" not in record
