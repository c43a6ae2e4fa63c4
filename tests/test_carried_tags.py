"""What ExifTool finds in JPEG files before and after their picture is replaced, or restored."""

import base64
import collections
import json
import shutil
import subprocess

import carried_files
import pytest
from carried_files import files, picture_for, plain

from dmcnn_jax.cli.restore import main
from dmcnn_jax.jpeg.carrying import replace_picture

# What describes the picture's own bytes.
EXPECTED = {
    "File:EncodingProcess",
    "MPImage1:MPImageLength",
    "MPImage2:MPImageStart",
    "MPImage3:MPImageStart",
}
WARNINGS = {"ExifTool:Warning", "ExifTool:Validate"}
MORE = {
    "ultra-hdr-container.jpg": {"XMP-Container:DirectoryItemLength"},
    "preview-behind.jpg": {"IFD1:ThumbnailOffset"},
    # ExifTool warns of stray bytes before, and of old positions after.
    "stray.jpg": WARNINGS,
    "afcp.jpg": WARNINGS,
}


def tags(folder):
    """What ExifTool finds in each file of a folder, binary data too: tags and values, counted."""
    # To validate a file, ExifTool looks for segments after the scan, too.
    command = ["exiftool", "-j", "-b", "-G1", "-a", "-u", "-all", "-validate", str(folder)]
    found = subprocess.run(command, capture_output=True, check=True).stdout
    return {
        dict(each)["System:FileName"]: collections.Counter(
            (key, json.dumps(value))
            for key, value in each
            if not key.startswith(("System:", "SourceFile"))
        )
        for each in json.loads(found, object_pairs_hook=lambda pairs: pairs)
    }


def made_by_exiftool(folder):
    """Files that ExifTool has written, by name."""
    thumbnail = folder / "thumbnail.bin"
    thumbnail.write_bytes(plain(carried_files.SMALL))
    options = {
        "little": ["-ExifByteOrder=II", "-EXIF:Artist=A", "-GPSLatitude=12.5", "-GPSLatitudeRef=S"],
        "big": ["-ExifByteOrder=MM", "-EXIF:Copyright=B", f"-ThumbnailImage<={thumbnail}"],
        "iptc": ["-IPTC:Headline=H", "-IPTC:Keywords=a", "-Photoshop:URL=http://example.org"],
        "xmp": ["-XMP-dc:Title=T", "-XMP-xmp:Rating=4", "-Comment=C", "-Ducky:Comment=D"],
        "trailer": ["-EXIF:Artist=A", f"-Trailer<={thumbnail}"],
    }
    made = {}
    for name, option in options.items():
        path = folder / f"made-{name}.jpg"
        path.write_bytes(plain())
        command = ["exiftool", "-q", "-overwrite_original", *option, str(path)]
        subprocess.run(command, check=True)
        made[path.stem] = path.read_bytes()
        path.unlink()
    return made


@pytest.mark.slow
@pytest.mark.parametrize("how", ["replaced", "restored"])
def test_exiftool_finds_the_same_before_and_after(tmp_path, how):
    if shutil.which("exiftool") is None:
        pytest.skip("no exiftool: apt-get install libimage-exiftool-perl")
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    for name, data in {**files(), **made_by_exiftool(tmp_path)}.items():
        (before / f"{name}.jpg").write_bytes(data)
        if how == "replaced":
            result = replace_picture(data, picture_for(data)).data
            (after / f"{name}.jpg").write_bytes(result)
    if how == "restored":
        report = tmp_path / "report.json"
        command = [str(before), "-o", str(after), "--format", "jpg", "--json", str(report)]
        assert main(command) == 0
        assert not any(record["dropped"] for record in json.loads(report.read_text())["files"])
    found, expected = tags(after), tags(before)
    assert len(found) == len(expected) > 30
    for name in ("mpf-big", "mpf-little", "ultra-hdr-mpf"):
        seconds = plain(carried_files.PIXELS[::-1]), carried_files.gain_map()
        second = next(each for each in seconds if each in files()[name])
        digits = "base64:" + base64.b64encode(second).decode()
        assert digits in {json.loads(value) for _, value in found[f"{name}.jpg"] if value[0] == '"'}
    for name, counts in expected.items():
        allowed = EXPECTED | MORE.get(name, set())
        if how == "restored":
            allowed |= WARNINGS  # of the segment that names the networks
        lost, new = counts - found[name], found[name] - counts
        assert {key for key, _ in lost + new} <= allowed, name
