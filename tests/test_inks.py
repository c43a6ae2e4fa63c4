"""CMYK and YCCK files: restored as four inks, and written to what can hold them."""

import io
import json

import jpeg_cases
import numpy as np
import pytest
from jpeg_cases import adobe, jfif
from PIL import Image

import dmcnn_jax
from dmcnn_jax import jpeg
from dmcnn_jax.cli.restore import main
from dmcnn_jax.images import formats
from dmcnn_jax.jpeg.metadata import Metadata
from dmcnn_jax.restoration.jpeg_options import JpegOptions
from dmcnn_jax.restoration.jpeg_output import make_jpeg
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer
from dmcnn_jax.web.choices import Choices, parse_choices
from dmcnn_jax.web.upload import UploadError, upload_restorer


@pytest.fixture(scope="module")
def inks():
    """A crop of a photograph as a printer would separate it: uint8 [96, 112, 4], 0 is no ink."""
    from skimage import data

    absent = data.astronaut()[20:116, 160:272].astype(int)
    black = 255 - absent.max(axis=-1)
    colours = 255 - absent - black[..., None] * 3 // 4
    return np.dstack([colours.clip(0, 255), black]).astype(np.uint8)


def cmyk_file(inks, **options):
    buffer = io.BytesIO()
    image = Image.frombytes("CMYK", inks.shape[1::-1], inks.tobytes())
    image.save(buffer, "JPEG", **{"quality": 25, **options})
    return buffer.getvalue()


def as_stored(pixels, quality, factors=(1, 1)):
    """A plane of a JPEG file: uint8 pixels, compressed by Pillow alone."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    (component,) = jpeg.read(buffer.getvalue()).components
    return jpeg_cases.Plane(component.coefficients, component.table, *factors)


def ycck_file(inks, quality=25, factors=1, segments=None):
    """A YCCK file as Adobe's programs write it: inks as YCbCr, and the absence of black."""
    colours = np.asarray(Image.fromarray(inks[..., :3]).convert("YCbCr"))
    small = colours[::factors, ::factors]
    planes = [
        as_stored(colours[..., 0], quality, (factors, factors)),
        as_stored(small[..., 1], quality),
        as_stored(small[..., 2], quality),
        as_stored(255 - inks[..., 3], quality, (factors, factors)),
    ]
    marked = adobe(2) if segments is None else segments
    return jpeg_cases.write(*inks.shape[:2], planes, segments=marked)


def files(inks):
    return {
        "CMYK": cmyk_file(inks),
        "CMYK, progressive": cmyk_file(inks, progressive=True),
        "CMYK, odd size": cmyk_file(np.ascontiguousarray(inks[:51, :37])),
        "CMYK, C at full size only": cmyk_file(inks, subsampling="4:2:0"),
        "CMYK, no marker": jpeg_cases.write(
            96, 112, [as_stored(255 - inks[..., i], 25) for i in range(4)], segments=jfif()
        ),
        "YCCK": ycck_file(inks),
        "YCCK, 4:2:0": ycck_file(inks, factors=2),
        "YCCK, transform 1": ycck_file(inks, segments=adobe(1)),
        "fine": cmyk_file(inks, quality=99),
    }


KINDS = list(files(np.zeros((96, 112, 4), np.uint8)))


def pillow_inks(data):
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "CMYK"
        return np.asarray(image)


@pytest.mark.parametrize("kind", KINDS)
def test_decoded_inks_are_pillows(inks, kind):
    data = files(inks)[kind]
    pixels = dmcnn_jax.restore(data, strength=0)
    np.testing.assert_array_equal(pixels, pillow_inks(data))
    wide = dmcnn_jax.restore(data, strength=0, bits=16)
    np.testing.assert_array_equal(wide, pixels * np.uint16(257))


def error(pixels, inks):
    return np.mean((pixels.astype(float) - inks) ** 2, axis=(0, 1))


@pytest.mark.parametrize("kind", ["CMYK", "YCCK", "YCCK, 4:2:0"])
def test_each_ink_comes_nearer_to_the_original(inks, kind):
    data = files(inks)[kind]
    result = Restorer(options=RestoreOptions(size="fast"))(jpeg.read(data))
    assert result.model and result.luma_tally.share > 0.999
    assert (error(result.pixels, inks) < 0.97 * error(pillow_inks(data), inks)).all()
    assert (result.chroma_tally is not None) == kind.startswith("YCCK")


@pytest.mark.parametrize("kind", ["CMYK", "YCCK", "YCCK, 4:2:0"])
def test_restored_files_are_left_as_decoded(inks, kind):
    restorer = Restorer(options=RestoreOptions(size="fast"))
    written = restorer.render_jpeg(restorer.restore_planes(jpeg.read(files(inks)[kind]))).data
    again = restorer(jpeg.read(written))
    np.testing.assert_array_equal(again.pixels, pillow_inks(written))
    assert again.notes == ("dmcnn_jax restored it before; left as it is",)
    assert again.model is None


def test_notes_of_the_parts_are_said_once(inks):
    options = RestoreOptions(size="fast", assume_quality=30)
    result = Restorer(options=options)(jpeg.read(files(inks)["fine"]))
    assert len(result.notes) == len(set(result.notes)) == 2
    assert result.notes[0] == "earlier saves are not considered for CMYK files"
    assert result.model is None and "left as decoded" in result.notes[1]


@pytest.mark.parametrize("kind", ["CMYK, C at full size only", "YCCK, 4:2:0"])
def test_sampling_of_inks_is_kept_and_said(inks, kind):
    file = jpeg.read(files(inks)[kind])
    planes = Restorer(options=RestoreOptions(size="fast")).restore_planes(file)
    ink_note = "an ink is subsampled, so the guarantee does not apply to its pixels"
    assert planes.notes == ((ink_note,) if kind.startswith("CMYK") else ())
    result = make_jpeg(planes, JpegOptions(full_chroma=True))
    assert result.notes == (*planes.notes, "chroma keeps its size: the file is CMYK")
    found = [component.subsampling for component in jpeg.read(result.data).components]
    assert found == [component.subsampling for component in file.components]


@pytest.mark.parametrize(("extension", "bits"), [(".tif", 8), (".tif", 16), (".jpg", 8)])
def test_formats_that_hold_inks(tmp_path, inks, extension, bits):
    path = tmp_path / f"a{extension}"
    pixels = inks if bits == 8 else inks * np.uint16(257)
    metadata = Metadata(icc=b"profile" * 30, resolution=(300.0, 300.0))
    style = formats.output_format(
        extension, bits=bits, quality=100 if bits == 8 and "j" in extension else None
    )
    assert formats.write(path, pixels, metadata, style) == ()
    if bits == 16:
        tifffile = pytest.importorskip("tifffile", reason="reads 16-bit TIFF by itself")
        with tifffile.TiffFile(path) as file:
            np.testing.assert_array_equal(file.asarray(), pixels)
            assert file.pages[0].photometric == tifffile.PHOTOMETRIC.SEPARATED
            assert file.pages[0].tags[34675].value == metadata.icc
        return
    with Image.open(path) as image:
        assert image.mode == "CMYK" and image.info["icc_profile"] == metadata.icc
        found = np.asarray(image).astype(int)
    assert np.abs(found - inks).max() <= (3 if extension == ".jpg" else 0)


@pytest.mark.parametrize("extension", [".png", ".webp"])
def test_formats_that_do_not_hold_inks(tmp_path, inks, extension):
    with pytest.raises(ValueError, match=r"can't hold CMYK \(four inks\); expected .tif or .jpg"):
        formats.write(tmp_path / "a", inks, Metadata(), formats.output_format(extension))
    assert not list(tmp_path.iterdir())


def test_the_command_writes_inks_as_tiff(tmp_path, inks, capsys):
    source = tmp_path / "in" / "a.jpg"
    source.parent.mkdir()
    source.write_bytes(files(inks)["CMYK"])
    common = ["--strength", "0", "--json", str(tmp_path / "report.json")]

    def record():
        return json.loads((tmp_path / "report.json").read_text())["files"][0]

    for arguments, target in (
        ([str(source)], source.parent / "a-restored.tif"),
        ([str(source.parent), "-o", str(tmp_path / "out"), "--format", "webp", "--quality", "50"],
         tmp_path / "out" / "a.tif"),
    ):  # fmt: skip
        assert main([*common, *arguments]) == 0
        assert record()["output"] == str(target) and record()["color"] == "cmyk"
        assert "a CMYK file, written as TIFF, since" in capsys.readouterr().err
        with Image.open(target) as image:
            np.testing.assert_array_equal(np.asarray(image), pillow_inks(source.read_bytes()))
        before = target.stat().st_mtime_ns
        assert main([*common, *arguments]) == 0
        assert record()["status"] == "skipped" and target.stat().st_mtime_ns == before
    assert main([*common, str(source), "-o", str(tmp_path / "a.png")]) == 1
    assert "which PNG can't hold; use a .tif or .jpg file with -o" in record()["error"]
    assert main([*common, str(source), "-o", str(tmp_path / "a.jpg")]) == 0
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.mode == "CMYK"


def test_other_uses_of_inks_are_refused_by_name(tmp_path, inks, capsys):
    path = tmp_path / "a.jpg"
    path.write_bytes(files(inks)["CMYK"])
    Image.fromarray(inks[..., 0]).save(tmp_path / "a.png")
    assert main(["--verify", str(path), str(tmp_path / "a.png")]) == 1
    assert "a CMYK file; expected gray or three colours to verify" in capsys.readouterr().err
    restore = upload_restorer(Restorer(options=RestoreOptions(strength=0)))
    with pytest.raises(UploadError, match=r"four inks.*which PNG can't hold; use TIFF"):
        restore(path.read_bytes(), Choices(), False, lambda share: None)
    answer = restore(path.read_bytes(), parse_choices({"format": "tiff"}), True, lambda share: None)
    with Image.open(io.BytesIO(answer.data)) as image:
        assert (image.format, image.mode) == ("TIFF", "CMYK") and answer.preview == b""
