"""Small files that went wrong once, through the command. Their kinds are tested elsewhere."""

import json
import re

import numpy as np
import pytest
from conftest import SHARED_DATA
from PIL import Image

from dmcnn_jax.cli.restore import main

CASES = SHARED_DATA / "cases"

RESTORED = {
    "adobergb_r03": r"as decoded, [\d.]+ s \(left as decoded: strength is 0\)$",
    "bogus_len": r"\(1 metadata segment of an impossible length, read as empty; ",
    "cmyk": r"a CMYK file, written as TIFF, since PNG can't hold it\)$",
    "dnl_height0": r"\(the height is given after the image data \(DNL\); ",
    "exif_junk": r"\(malformed EXIF data are left out; ",
    "extra_600": r"\(at least 59\d stray bytes after the image data; ",
    "iptc": r"as decoded, [\d.]+ s \(left as decoded: strength is 0\)$",
    "orient6": r"as decoded, [\d.]+ s \(left as decoded: strength is 0\)$",
    "stray_600kB_line": r"\(19000 stray bytes between segments in 19000 places; ",
    "ultrahdr": r"; dropped: gain map \(916 bytes\)\)$",
}


@pytest.mark.parametrize("name", RESTORED)
def test_what_is_restored_is_said_in_one_line(tmp_path, capsys, name):
    source, report = CASES / f"{name}.jpg", tmp_path / "report.json"
    if not source.exists():
        pytest.skip("no ../shared/data/cases beside the checkout")
    assert main([str(source), "-o", str(tmp_path), "--strength", "0", "--json", str(report)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(RESTORED[name], line) and len(line) < 300
    (record,) = json.loads(report.read_text())["files"]
    with Image.open(record["output"]) as image:
        image.load()
        image.getexif()  # raises if it is no TIFF structure
        pixels = np.asarray(image)
    if name not in ("dnl_height0", "stray_600kB_line"):  # which Pillow does not read
        with Image.open(source) as image:
            np.testing.assert_array_equal(pixels, np.asarray(image))


def test_components_out_of_order_are_refused_by_name(tmp_path, capsys):
    source = CASES / "sos_order.jpg"
    if not source.exists():
        pytest.skip("no ../shared/data/cases beside the checkout")
    assert main([str(source), "-o", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "a scan's components are out of the frame's order" in said and "SIGSEGV" not in said
    assert not list(tmp_path.iterdir())


def restored_pixels(name, tmp_path, *options):
    """Restores a file by the command; returns its record, the decoded pixels and the result's."""
    source, report = CASES / f"{name}.jpg", tmp_path / "report.json"
    if not source.exists():
        pytest.skip("no ../shared/data/cases beside the checkout")
    assert main([str(source), "-o", str(tmp_path), "--json", str(report), *options]) == 0
    (record,) = json.loads(report.read_text())["files"]
    with Image.open(source) as before, Image.open(record["output"]) as after:
        return record, np.asarray(before).astype(float), np.asarray(after).astype(float)


@pytest.mark.parametrize("name", ["gray_text_q95", "brick_pale_q92", "cell_crop_q92"])
def test_pictures_of_low_contrast_keep_their_content(name, tmp_path):
    """An earlier save "at quality 1" was found, and 0 to 3 % of the variance was left."""
    record, decoded, restored = restored_pixels(name, tmp_path)
    assert record["status"] == "restored" and "earlier" not in record
    assert restored.var() > 0.9 * decoded.var()
    assert np.abs(restored - decoded).mean() < 2


@pytest.mark.parametrize("name", ["flat_ff00ff_q25", "flat_0000ff_q10"])
def test_flat_pictures_get_no_frame(name, tmp_path):
    _, decoded, restored = restored_pixels(name, tmp_path)
    assert np.abs(restored - decoded).max() <= 3


def test_pixel_art_is_left_as_decoded(tmp_path):
    record, decoded, restored = restored_pixels("pixelart8_q90", tmp_path)
    assert record["status"] == "decoded" and any("squares" in note for note in record["notes"])
    np.testing.assert_array_equal(restored, decoded)


def test_chroma_is_restored_where_luma_is_not(tmp_path):
    record, _, _ = restored_pixels("q98_chroma20", tmp_path)
    assert record["planes"]["luma"] is None and None not in (
        record["planes"]["Cb"],
        record["planes"]["Cr"],
    )


def test_the_name_of_a_photograph_on_a_file_of_macos(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for source, name in (("iptc", "IMG_1.jpg"), ("appledouble", "._IMG_1.jpg")):
        if not (CASES / f"{source}.jpg").exists():
            pytest.skip("no ../shared/data/cases beside the checkout")
        (folder / name).write_bytes((CASES / f"{source}.jpg").read_bytes())
    assert main([str(folder), "-o", f"{tmp_path}/out", "--strength", "0"]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["IMG_1.png"]
    assert "1 file named ._*" in capsys.readouterr().err
