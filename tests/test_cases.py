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
    "exif_junk": r"\(EXIF data that make no sense are left out; ",
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
