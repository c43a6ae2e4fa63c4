"""Files that were compressed twice: what is detected and recovered of the first compression."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.cli.restore import main
from dmcnn_jax.evaluation import drawings
from dmcnn_jax.jpeg.double_compression import (
    PriorCompression,
    explained_share,
    find_prior_compression,
    requantize,
)
from dmcnn_jax.restoration.detail import measure_kept_detail
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer


def save(pixels, quality, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, **options)
    return file.getvalue()


def save_twice(pixels, first, second, left=0, top=0):
    """Crops between two compressions, so that the first one's blocks begin at left, top."""
    decoded = np.asarray(Image.open(io.BytesIO(save(pixels, first))))
    return save(decoded[-top % 8 :, -left % 8 :], second)


def luma(data):
    return jpeg.read(data).components[0]


@pytest.fixture(scope="module")
def coffee():
    """A photograph in colour, cut in odd places."""
    from skimage import data

    return data.coffee()[30:307, 50:431]


@pytest.fixture(scope="module")
def pristine(photographs):
    """Lumas that were never compressed: reduced, since some of the photographs were."""
    return {
        name: np.asarray(
            Image.fromarray(pixels).resize(
                (round(0.6 * pixels.shape[1]), round(0.6 * pixels.shape[0])),
                Image.Resampling.LANCZOS,
            )
        )
        for name, pixels in photographs.items()
    }


@pytest.mark.parametrize(
    ("first", "second", "left", "top"),
    [
        (10, 90, 3, 5),
        (20, 85, 0, 4),
        (30, 95, 7, 1),
        (40, 85, 0, 0),
        (50, 85, 6, 2),
        (50, 95, 4, 4),
    ],
)
def test_a_prior_compression_is_found(coffee, first, second, left, top):
    prior = find_prior_compression(luma(save_twice(coffee, first, second, left, top)))
    assert (prior.left, prior.top) == (left, top)
    assert abs(prior.quality - first) <= 1 and prior.share > 0.8
    np.testing.assert_array_equal(prior.table, jpeg.quality_table(prior.quality))


def test_multiples_of_steps_are_not_taken_for_the_steps(coffee):
    """At quality 100 nothing hides that multiples of 16 are multiples of 8."""
    for first in (10, 20):
        assert find_prior_compression(luma(save_twice(coffee, first, 100, 2, 3))).quality == first


def test_nothing_is_found_in_files_compressed_once(pristine):
    for number, pixels in enumerate(pristine.values()):
        for quality in range(5 + 2 * number, 101, 19):
            assert find_prior_compression(luma(save(pixels, quality))) is None


def test_a_finer_prior_compression_is_ignored(pristine):
    """Restoring by the second, coarser table is right then."""
    for pixels in pristine.values():
        assert find_prior_compression(luma(save_twice(pixels, 90, 30, 3, 5))) is None


@pytest.mark.parametrize("second", [60, 90])
@pytest.mark.parametrize(
    "draw",
    [
        lambda y, x: np.full(y.shape, 200),
        lambda y, x: np.where((x // 8 + y // 8) % 2, 40, 200),
        lambda y, x: np.where((x // 5 + y // 7) % 3, 30, 190),
        lambda y, x: x / 2,
        lambda y, x: np.where((x % 50 < 3) | (y % 31 < 2), 20, 235),
        lambda y, x: 120 + 80 * np.sin(x * 2 * np.pi / 16),
        lambda y, x: np.where(np.hypot(x % 40 - 20, y % 40 - 20) < 12, 60, 180),
    ],
    ids=["flat", "checkered", "blocks", "ramp", "lines", "waves", "discs"],
)
def test_nothing_is_found_in_drawings(draw, second):
    drawing = draw(*np.mgrid[:240, :320]).astype(np.uint8)
    assert find_prior_compression(luma(save(drawing, second))) is None


@pytest.mark.parametrize("kind", ["texture", "bricks", "faint text", "microscopy", "gradient"])
def test_nothing_is_found_in_pictures_of_even_tone(kind):
    """Their blocks share one DC coefficient, near a multiple of some step on every grid."""
    for seed in range(2):
        pixels = drawings.draw(kind, seed)
        assert find_prior_compression(luma(save(pixels, 78 + 15 * seed))) is None, seed


@pytest.mark.parametrize("flat", [20, 60])
def test_a_prior_compression_by_another_table_is_found(coffee, flat):
    """Its steps are found one by one: here a flat table, rising by one step a row."""
    table = flat + np.arange(8).repeat(8)
    decoded = np.asarray(Image.open(io.BytesIO(save(coffee, 50, qtables=[table.tolist()] * 2))))
    prior = find_prior_compression(luma(save(decoded[3:, 6:], 90)))
    assert (prior.left, prior.top) == (2, 5)
    low = [0, 1, 2, 8, 9, 16]
    np.testing.assert_allclose(prior.table.ravel()[low[1:]], table[low[1:]], atol=1)
    assert prior.explained > 0.9


def test_the_share_explained_is_that_of_saving_again(coffee):
    """For a gray picture in whole blocks, Pillow does what the function does."""
    gray = np.asarray(Image.fromarray(coffee).convert("L"))[:240, :320]
    first = save(gray, 30)
    second = save(np.asarray(Image.open(io.BytesIO(first))), 90)
    file = luma(second)
    true = PriorCompression(30, jpeg.quality_table(30), 0, 0, share=1)
    assert explained_share(file, true, luma(first).coefficients) == 1
    other = luma(save(gray, 12))
    wrong = PriorCompression(12, jpeg.quality_table(12), 0, 0, share=1)
    again = luma(save(np.asarray(Image.open(io.BytesIO(save(gray, 12)))), 90)).coefficients
    k, table = file.coefficients[..., 1:], file.table.ravel()[1:]
    near = np.abs(again[..., 1:] - k) * table <= 1 + table / 2
    assert explained_share(file, wrong, other.coefficients) == pytest.approx(
        near[k != 0].mean(), abs=0.06
    )
    none = luma(save(np.full((32, 32), 90, np.uint8), 90))
    assert np.isnan(explained_share(none, true, requantize(none, true)))


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (7, 200), (9, 17)])
def test_pictures_of_hardly_any_blocks(rng, size):
    pixels = rng.integers(0, 256, size, dtype=np.uint8)
    assert find_prior_compression(luma(save(pixels, 90))) is None
    prior = find_prior_compression(luma(save(pixels, 90)), quality=20, grid=(7, 1))
    assert requantize(luma(save(pixels, 90)), prior).shape == (
        -(-(size[0] + 7) // 8),
        -(-(size[1] + 1) // 8),
        64,
    )


@pytest.mark.parametrize(("left", "top"), [(0, 0), (3, 5), (7, 1)])
def test_coefficients_are_those_of_the_first_file(coffee, left, top):
    gray = np.asarray(Image.fromarray(coffee).convert("L"))
    file = luma(save_twice(gray, 30, 92, left, top))
    found = requantize(file, find_prior_compression(file))
    first = luma(save(gray, 30)).coefficients
    above, before = -top % 8, -left % 8
    # Cropping took the first rows and columns of pixels; the blocks that it cut remain.
    assert found.shape == first.shape
    inner = (slice(above > 0, -1), slice(before > 0, -1))
    same = found[inner] == first[inner]
    assert same.mean() > 0.997
    # Most coefficients of blocks that the border cuts are recovered too.
    assert (found == first).mean() > 0.95


def test_bands_make_no_difference(coffee, monkeypatch):
    file = luma(save_twice(coffee, 30, 92, 3, 5))
    prior = find_prior_compression(file)
    whole = requantize(file, prior)
    monkeypatch.setattr("dmcnn_jax.jpeg.double_compression.ROWS_AT_ONCE", 3)
    np.testing.assert_array_equal(requantize(file, prior), whole)


def test_given_quality_and_grid_are_used(coffee):
    file = luma(save_twice(coffee, 30, 90, 3, 5))
    assumed = find_prior_compression(file, quality=30)
    assert (assumed.left, assumed.top, assumed.quality) == (3, 5, 30)
    assert find_prior_compression(file, grid=(3, 5)).quality == 30
    assert find_prior_compression(file, grid=(3, 4)) is None
    assumed = find_prior_compression(file, quality=12, grid=(1, 2))
    assert (assumed.left, assumed.top, assumed.quality) == (1, 2, 12)
    once = luma(save(coffee, 90))
    assert (
        find_prior_compression(once, quality=12).left,
        find_prior_compression(once, quality=12).top,
    ) == (0, 0)
    with pytest.raises(ValueError, match=r"grid is \(8, 0\); expected"):
        find_prior_compression(file, grid=(8, 0))


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.mark.parametrize(("left", "top"), [(0, 0), (3, 5)])
def test_restoring_by_the_prior_compression_gains(coffee, left, top):
    data = save_twice(coffee, 20, 90, left, top)
    original = coffee[-top % 8 :, -left % 8 :]
    file = jpeg.read(data)
    knowing, blind = Restorer()(file), Restorer(options=RestoreOptions(detect=False))(file)
    assert psnr(knowing.pixels, original) > psnr(blind.pixels, original) + 0.2
    assert knowing.pixels.shape == original.shape and knowing.luma_tally is None
    assert blind.prior is None and knowing.prior.quality == 20


def test_the_command_says_what_it_found(coffee, tmp_path, capsys):
    path = tmp_path / "a.jpg"
    path.write_bytes(save_twice(coffee, 20, 90, 3, 5))
    assert main([str(path), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert "found an earlier save at about quality 20, with blocks that begin at 3,5" in err
    assert "the guarantee does not apply" in err and "coefficients kept" not in err
    (report,) = json.loads(out)["files"]
    earlier = report["earlier"]
    assert (earlier["quality"], earlier["grid"], earlier["assumed"]) == (20, [3, 5], False)
    assert 0.9 < earlier["explained"] <= 1 and f"explains {earlier['explained']:.0%} of" in err
    assert "luma_kept" not in report
    assert main([str(path), "--overwrite", "--no-detect", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert "earlier" not in json.loads(out)["files"][0] and "earlier save" not in err
    arguments = ["--overwrite", "--assume-quality", "30", "--prior-grid", "0,7", "--json", "-"]
    assert main([str(path), *arguments]) == 0
    (report,) = json.loads(capsys.readouterr().out)["files"]
    earlier = report["earlier"]
    assert (earlier["quality"], earlier["grid"], earlier["assumed"]) == (30, [0, 7], True)
    assert earlier["explained"] < 0.6  # wrong, but asked for, and harmless
    assert main([str(path), "--overwrite", "--prior-grid", "0,7"]) == 0
    assert "no earlier save was found on the grid at 0,7" in capsys.readouterr().err


def test_a_wrong_table_that_would_wipe_out_the_picture_is_not_used(tmp_path, capsys):
    path = tmp_path / "text.jpg"
    path.write_bytes(save(drawings.draw("faint text", 1), 95))
    assert main([str(path), "--assume-quality", "1", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    (report,) = json.loads(out)["files"]
    assert report["status"] == "restored" and "earlier" not in report
    assert "not restored by an earlier save at about quality 1: it would keep" in err
    blind = Restorer(options=RestoreOptions(detect=False))(jpeg.read(path))
    np.testing.assert_array_equal(
        np.asarray(Image.open(path.with_name("text-restored.png"))), blind.pixels
    )


def test_kept_detail(rng, coffee):
    """All is kept by the decoded picture, half by one of half its contrast, none by a flat one."""
    file = luma(save(coffee, 80))
    decoded = np.zeros([8 * side for side in file.coefficients.shape[:2]], np.float32)
    k = file.coefficients * file.table.ravel()
    decoded[:] = jpeg.idct(k[None].astype(np.float32))[0] + 128
    whole = measure_kept_detail(file, decoded)
    assert whole.overall == pytest.approx(1, abs=1e-4) and whole.least == pytest.approx(1, abs=1e-4)
    half = measure_kept_detail(file, 100 + decoded / 2)
    assert half.overall == pytest.approx(0.5, abs=1e-4)
    decoded[64:128, 128:192] = 77
    holed = measure_kept_detail(file, decoded)
    assert holed.overall > 0.8 and holed.least == pytest.approx(0, abs=1e-4)
    flat = luma(save(np.full((40, 40), 99, np.uint8), 80))
    assert np.isnan(measure_kept_detail(flat, np.zeros((40, 40), np.float32)).overall)


@pytest.mark.parametrize(
    "arguments", [["--prior-grid", "8,0"], ["--prior-grid", "3"], ["--prior-grid", "1,x"]]
)
def test_grids_that_make_no_sense(tmp_path, capsys, arguments):
    with pytest.raises(SystemExit):
        main([f"{tmp_path}/a.jpg", *arguments])
    assert "expected two offsets from 0 to 7" in capsys.readouterr().err


@pytest.mark.slow
def test_rates(train_images):
    """A lower bound on the rates that `tools/earlier_saves.py` prints for more pictures."""
    rng = np.random.default_rng(0)
    found = tried = 0
    for number, path in enumerate(train_images[:50]):
        picture = Image.open(path).convert("RGB").resize((289, 193), Image.Resampling.LANCZOS)
        pixels = np.asarray(picture)
        for quality in range(1 + number % 9, 101, 9):
            assert find_prior_compression(luma(save(pixels, quality))) is None, (path, quality)
        for first in (10, 30, 50):
            left, top = (int(n) for n in rng.integers(0, 8, 2))
            data = save_twice(pixels, first, int(rng.integers(85, 96)), left, top)
            prior = find_prior_compression(luma(data))
            tried += 1
            found += prior is not None and (prior.left, prior.top) == (left, top)
    assert found / tried > 0.97
