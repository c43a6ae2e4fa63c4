"""Pictures that were JPEG files once: what is recovered from their pixels, and what is refused."""

import io
import runpy
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from runs import CHECKOUT

from dmcnn_jax import jpeg
from dmcnn_jax.images.extensions import JPEG_EXTENSIONS, LOSSLESS_EXTENSIONS
from dmcnn_jax.images.input_folders import Skipped, find_jpegs
from dmcnn_jax.restoration.decoded_file import DecodedFile, finish, read_source
from dmcnn_jax.restoration.decoded_pixels import NotDecodedError, recover
from dmcnn_jax.restoration.results import Restoration
from dmcnn_jax.restoration.verification import verify


def photograph(seed: int = 0, size: int = 192) -> Image.Image:
    """A picture with the spectrum of photographs, in colour, without clipped pixels."""
    rng = np.random.default_rng(seed)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    spectrum = np.fft.fft2(rng.normal(size=(3, size, size))) / np.maximum(f, 1 / size) ** 1.2
    levels = np.fft.ifft2(spectrum).real
    levels = 128 + levels / np.abs(levels).max() * 90
    return Image.fromarray(np.rint(levels).astype(np.uint8).transpose(1, 2, 0))


def compressed(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def stored(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("mode", "subsampling"),
    [
        ("L", 0),
        pytest.param("RGB", 0, marks=pytest.mark.slow),
        pytest.param("RGB", 1, marks=pytest.mark.slow),
        ("RGB", 2),
    ],
)
def test_recovers_the_coefficients_and_tables_of_the_file(mode: str, subsampling: int) -> None:
    data = compressed(photograph().convert(mode), quality=60, subsampling=subsampling)
    recovery, file = recover(decoded(data)), jpeg.read(data)
    assert recovery.exact > 0.995
    for found, true in zip(recovery.components, file.components, strict=True):
        assert found.subsampling == true.subsampling
        np.testing.assert_array_equal(found.table, true.table)
        assert (found.coefficients == true.coefficients).mean() > 0.995


@pytest.mark.slow
@pytest.mark.parametrize("quality", [10, 50, 90])
def test_finds_the_grid_of_a_cropped_picture_with_subsampled_chroma(quality: int) -> None:
    data = compressed(photograph(), quality=quality, subsampling=2)
    recovery, file = recover(decoded(data)[11:, 3:]), jpeg.read(data)
    assert recovery.margins == (11, 3)
    for found, true in zip(recovery.components, file.components, strict=True):
        np.testing.assert_array_equal(found.table, true.table)
        inner = np.s_[2:-2, 2:-2]
        assert (found.coefficients[inner] == true.coefficients[inner]).mean() > 0.99


def test_finds_the_grid_of_a_cropped_picture() -> None:
    data = compressed(photograph().convert("L"), quality=40)
    recovery, file = recover(decoded(data)[5:, 3:]), jpeg.read(data)
    assert recovery.margins == (5, 3)
    inner = recovery.components[0].coefficients[1:-1, 1:-1]
    np.testing.assert_array_equal(inner, file.components[0].coefficients[1:-1, 1:-1])


def test_finds_a_table_that_is_no_standard_one() -> None:
    table = np.clip(np.add.outer(3 * np.arange(8), 2 * np.arange(8)) + 7, 1, 255)
    order = table.reshape(64).tolist()
    data = compressed(photograph().convert("L"), qtables=[order])
    true = jpeg.read(data).components[0]
    recovery = recover(decoded(data))
    known = recovery.tables[0].known
    assert known.mean() > 0.3
    np.testing.assert_array_equal(recovery.components[0].table[known], true.table[known])
    assert recovery.components[0].table.max() <= true.table.max() + 1


def test_refuses_pictures_that_were_never_compressed() -> None:
    image = photograph(1)
    with pytest.raises(NotDecodedError, match="no JPEG compression found"):
        recover(np.asarray(image.convert("L")))
    with pytest.raises(NotDecodedError, match="no JPEG compression found"):
        recover(np.asarray(image))


def test_refuses_a_picture_that_was_scaled_after_compression() -> None:
    image = Image.open(io.BytesIO(compressed(photograph().convert("L"), quality=30)))
    with pytest.raises(NotDecodedError, match="no JPEG compression found"):
        recover(np.asarray(image.resize((144, 144), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_reads_formats_without_loss(kind: str) -> None:
    pixels = decoded(compressed(photograph(size=96).convert("L"), quality=30))
    file = read_source(stored(pixels, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert isinstance(file, DecodedFile)
    gray = file.pixels[..., 0] if kind == "WEBP" else file.pixels  # WebP has no gray pixels
    np.testing.assert_array_equal(gray, pixels)
    assert "of a JPEG at about quality 30, grid (0, 0)" in file.notes[0]


@pytest.mark.parametrize(
    ("orientation", "meant"), [(1, 1), (6, 6), (8, 8), (9, 1), (0, 1), ("up", 1)]
)
def test_pixels_of_tiff_files_stay_unturned(orientation: int | str, meant: int) -> None:
    pixels = decoded(compressed(photograph(size=96).convert("L"), quality=30))[:64]
    tags = ImageFileDirectory_v2()
    if isinstance(orientation, str):
        tags.tagtype[0x112] = 2  # text
    tags[0x112] = orientation
    file = read_source(stored(pixels, "TIFF", tiffinfo=tags))
    assert isinstance(file, DecodedFile) and file.metadata.orientation == meant
    np.testing.assert_array_equal(file.pixels, pixels)


def test_blocks_that_were_drawn_over_stay_as_given() -> None:
    image = Image.open(io.BytesIO(compressed(photograph().convert("L"), quality=30)))
    image.load()
    ImageDraw.Draw(image).text((60, 60), "caption", fill=255)
    given = np.asarray(image)[5:, 3:]
    file = read_source(stored(given))
    canvas = np.zeros((file.height, file.width), np.uint8)
    result = finish(file, Restoration(models=("m",), quality=30, pixels=canvas)).pixels
    assert result.shape == given.shape
    drawn = np.s_[62 - 5 : 70 - 5, 60 - 3 : 100 - 3]
    assert (result[drawn] == given[drawn]).mean() > 0.5
    assert (result == 0).mean() > 0.7  # taken from the restored picture


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (stored(np.zeros((64, 64, 4), np.uint8)), "transparent"),
        (stored(np.zeros((64, 64), np.uint16)), "8 bits|16 bits"),
        (stored(np.zeros((64, 64, 3), np.uint8), "WEBP", quality=50), "with loss"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "damaged|not a picture"),
    ],
)
def test_refuses_other_files_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        read_source(data, name="a.png")
    assert str(caught.value).startswith("a.png: ") and "\n" not in str(caught.value)


def test_folders_give_their_pictures_of_other_formats_only_when_asked(tmp_path) -> None:
    for name in ("a.jpg", "b.png", "c.gif"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p, _ in find_jpegs(tmp_path, None, Skipped())] == ["a.jpg"]
    both = JPEG_EXTENSIONS + LOSSLESS_EXTENSIONS
    assert [p.name for p, _ in find_jpegs(tmp_path, None, Skipped(), both)] == ["a.jpg", "b.png"]


def test_a_transparent_colour_is_not_lost_in_silence() -> None:
    """PNG files without alpha may name a colour that is transparent."""
    pixels = decoded(compressed(photograph(size=96).convert("L"), quality=30))
    with pytest.raises(ValueError, match="it has transparent pixels"):
        read_source(stored(pixels, transparency=int(pixels[0, 0])))
    file = read_source(stored(pixels, transparency=0))  # which no pixel has
    assert file.notes[1:] == ("its alpha channel, opaque everywhere, is left out",)


def test_an_opaque_alpha_channel_is_left_out_and_said() -> None:
    pixels = decoded(compressed(photograph(size=96).convert("L"), quality=30))
    opaque = np.full_like(pixels, 255)
    file = read_source(stored(np.stack([pixels, opaque], axis=-1)))
    assert file.notes[1:] == ("its alpha channel, opaque everywhere, is left out",)
    assert isinstance(file, DecodedFile)
    np.testing.assert_array_equal(file.pixels, pixels)
    assert len(read_source(stored(pixels)).notes) == 1


def test_a_copy_verifies_nothing_in_one_line(tmp_path) -> None:
    pixels = decoded(compressed(photograph(size=96).convert("L"), quality=30))
    path = tmp_path / "copy.png"
    path.write_bytes(stored(pixels))
    with pytest.raises(
        ValueError, match=r"copy.png: .* a PNG image; .*the JPEG file itself: "
    ) as c:
        verify(path, path)
    assert "\n" not in str(c.value)


def test_the_measuring_script_names_the_extra_that_it_lacks(monkeypatch, capsys) -> None:
    main = runpy.run_path(str(CHECKOUT / "tools" / "decoded_pictures.py"))["main"]
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    assert main([]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and 'pip install "dmcnn-jax[train]"' in error


@pytest.mark.parametrize("script", ["borders.py", "earlier_saves.py"])
def test_measuring_scripts_say_that_a_folder_has_no_images(script, tmp_path, capsys) -> None:
    main = runpy.run_path(str(CHECKOUT / "tools" / script))["main"]
    assert main([str(tmp_path)]) == 1
    assert "no image in" in capsys.readouterr().err
