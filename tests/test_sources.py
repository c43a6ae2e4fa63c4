"""Images of every kind become luma, or are skipped and counted; packs hold what they were given."""

import io
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmcnn_jax.data import images as images_module
from dmcnn_jax.data import pack_sources, packs, sources
from dmcnn_jax.data import tiles as tiles_module
from dmcnn_jax.images.color import rgb_to_y
from dmcnn_jax.web.pairs import read_pairs

OPTIONS = {"tile": 32, "luma": "studio", "max_short_side": 0}
CHECKOUT = Path(__file__).parents[1]
TOOL = CHECKOUT / "tools" / "pack_images.py"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(CHECKOUT)}


def picture(rng, height=48, width=56):
    """Smooth, so that compression and scaling change it little: uint8 RGB."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(5, 9) + rng.uniform(0, 6)) * np.cos(y / 7) for _ in range(3)]
    return (np.stack(waves, axis=-1) * 100 + 128).astype(np.uint8)


def read(image: Image.Image, **options) -> np.ndarray:
    """An image as it comes out of a file."""
    file = io.BytesIO()
    image.save(file, **{"format": "PNG", **options})
    return images_module.read_rgb(io.BytesIO(file.getvalue()))


def test_gray_and_palettes_become_rgb(rng):
    rgb = picture(rng)
    gray = np.repeat(rgb[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(read(Image.fromarray(rgb[..., 0])), gray)
    palette = Image.fromarray(rgb).quantize(32)
    np.testing.assert_array_equal(read(palette), np.asarray(palette.convert("RGB")))
    bits = Image.fromarray(rgb[..., 0] > 128)
    assert set(np.unique(read(bits))) == {0, 255}


def test_sixteen_bits_are_rounded_to_eight():
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    result = read(Image.fromarray(levels))
    expected = np.round(levels / 65535 * 255)
    np.testing.assert_array_equal(result, np.repeat(expected[..., None], 3, axis=-1))


def test_transparency_lies_over_white(rng):
    rgb = picture(rng)
    alpha = np.linspace(0, 255, rgb[..., 0].size).reshape(rgb.shape[:2]).astype(np.uint8)
    result = read(Image.fromarray(np.dstack([rgb, alpha])))
    share = alpha[..., None] / 255
    np.testing.assert_allclose(result, rgb * share + 255 * (1 - share), atol=1)
    # A palette with one transparent entry.
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    result = read(palette, transparency=1)
    np.testing.assert_array_equal(result[0], [[10, 20, 30], [255, 255, 255]])


def test_cmyk_is_converted(rng):
    rgb = picture(rng)
    result = read(Image.fromarray(rgb).convert("CMYK"), format="JPEG", quality=98, subsampling=0)
    # Without a black component, CMYK is RGB inverted.
    assert np.abs(result.astype(int) - rgb).max() <= 12


def test_exif_turns_the_image(rng):
    rgb = picture(rng)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90°
    np.testing.assert_array_equal(read(Image.fromarray(rgb), exif=exif), np.rot90(rgb, -1))


def test_an_animation_gives_its_first_frame(rng):
    first, second = (Image.fromarray(picture(rng)).quantize(64) for _ in range(2))
    result = read(first, format="GIF", save_all=True, append_images=[second])
    np.testing.assert_array_equal(result, np.asarray(first.convert("RGB")))


def test_large_images_are_reduced_to_a_shorter_side(rng, tmp_path):
    Image.fromarray(picture(rng, 90, 120)).save(tmp_path / "a.png")
    assert images_module.read_rgb(tmp_path / "a.png", 60).shape == (60, 80, 3)
    assert images_module.read_rgb(tmp_path / "a.png", 90).shape == (90, 120, 3)
    assert images_module.read_luma(tmp_path / "a.png", "full", 45).shape == (45, 60)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_refused(mode):
    image = Image.fromarray(np.full((8, 8), 1e6, {"I": np.int32, "F": np.float32}[mode]))
    with pytest.raises(OSError, match="range is not known"):
        read(image, format="TIFF")


@pytest.fixture
def odd_folder(tmp_path, rng, monkeypatch):
    """One example of every odd file."""
    folder = tmp_path / "odd"
    (folder / "below").mkdir(parents=True)
    image = Image.fromarray(picture(rng))
    image.save(folder / "good.png")
    image.save(folder / "below" / "good.JPG", format="JPEG", quality=90)
    image.convert("L").save(folder / "gray.png")
    image.quantize(16).save(folder / "palette.gif")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("RGBA").save(folder / "alpha.webp", lossless=True)
    image.convert("L").convert("LA").save(folder / "gray_alpha.png")
    wide = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(wide).save(folder / "sixteen.png")
    Image.fromarray(wide).save(folder / "sixteen.tiff")
    exif = Image.Exif()
    exif[0x0112] = 8
    image.save(folder / "turned.jpg", exif=exif)
    image.save(folder / "animated.gif", save_all=True, append_images=[image.rotate(90)])
    image.save(folder / "wrong_name.png", format="JPEG")
    Image.fromarray(picture(rng, 33, 2000)).save(folder / "wide.png")
    # Of no use:
    Image.fromarray(picture(rng, 31, 56)).save(folder / "tiny.png")
    Image.new("L", (1, 1)).save(folder / "pixel.png")
    content = (folder / "below" / "good.JPG").read_bytes()
    (folder / "truncated.jpg").write_bytes(content[: len(content) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no image at all")
    damaged = bytearray((folder / "good.png").read_bytes())
    damaged[60:90] = bytes(30)
    (folder / "damaged.png").write_bytes(bytes(damaged))
    Image.fromarray(np.zeros((40, 40), np.float32)).save(folder / "float.tiff")
    # More than Pillow deems sane: it raises at twice its limit.
    Image.new("1", (700, 700)).save(folder / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200_000)
    # No images, and not looked at:
    (folder / "notes.txt").write_text("notes")
    (folder / "folder.png").mkdir()
    return folder


def test_a_folder_of_odd_files_is_converted_or_skipped_and_counted(odd_folder):
    tiles = sources.open_source(str(odd_folder), **OPTIONS)
    assert sorted(tiles.names) == [
        "alpha.webp",
        "animated.gif",
        "cmyk.jpg",
        "good.JPG",
        "good.png",
        "gray.png",
        "gray_alpha.png",
        "palette.gif",
        "sixteen.png",
        "sixteen.tiff",
        "turned.jpg",
        "wide.png",
        "wrong_name.png",
    ]
    assert tiles.skipped == {"smaller than 32 pixels": 2, "unreadable": 5, "too large": 1}
    # All of the same picture, but for the colours' conversion: none is silently something else.
    by_name = {
        name: tiles.take(tiles.images == i)[0].astype(int) for i, name in enumerate(tiles.names)
    }
    for name in ("alpha.webp", "good.JPG", "cmyk.jpg", "wrong_name.png", "palette.gif"):
        assert np.abs(by_name[name] - by_name["good.png"]).mean() < 12, name
    np.testing.assert_array_equal(by_name["sixteen.png"], by_name["gray.png"])
    np.testing.assert_array_equal(by_name["sixteen.tiff"], by_name["gray.png"])
    np.testing.assert_array_equal(by_name["gray_alpha.png"], by_name["gray.png"])


def test_missing_and_empty_folders_are_one_clear_error(tmp_path, rng):
    with pytest.raises(FileNotFoundError, match="nowhere' doesn't exist; expected 'packaged'"):
        sources.open_source(str(tmp_path / "nowhere"), **OPTIONS)
    with pytest.raises(ValueError, match="no image in"):
        sources.open_source(str(tmp_path), **OPTIONS)
    Image.fromarray(picture(rng, 20, 20)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of 2 images .* 1 smaller than 32 .*, 1 unreadable"):
        sources.open_source(str(tmp_path), **OPTIONS)


def test_tiles_cover_the_image_and_are_the_luma_of_its_pixels(tmp_path, rng):
    rgb = picture(rng, 70, 64)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    tiles = sources.open_source(str(tmp_path), **OPTIONS)
    luma = rgb_to_y(rgb, "studio")
    assert len(tiles) == 6
    expected = [luma[y : y + 32, x : x + 32] for y in (0, 19, 38) for x in (0, 32)]
    np.testing.assert_array_equal(tiles.take(), expected)


def test_the_packaged_photographs_are_there():
    assert len(images_module.packaged_images()) == len(images_module.PACKAGED)
    assert list(images_module.find_images("packaged")) == list(images_module.PACKAGED)


def test_images_are_named_by_their_paths_in_a_folder(tmp_path, rng):
    (tmp_path / "below").mkdir()
    for name in ("b.png", "below/a.png"):
        Image.fromarray(picture(rng, 9, 9)).save(tmp_path / name)
    assert images_module.find_images(str(tmp_path)) == {
        name: tmp_path / name for name in ("b.png", str(Path("below", "a.png")))
    }


def test_split_sets_whole_images_aside(tmp_path, rng):
    for i in range(9):
        Image.fromarray(picture(rng, 64, 64)).save(tmp_path / f"{i}.png")
    tiles = sources.open_source(str(tmp_path), **OPTIONS)
    training, validation = tiles_module.split(tiles, 2, seed=3)
    assert (len(training.names), len(validation.names)) == (7, 2)
    assert set(training.names) | set(validation.names) == set(tiles.names)
    assert (len(training), len(validation)) == (28, 8)
    assert not {t.tobytes() for t in training.take()} & {t.tobytes() for t in validation.take()}
    again = tiles_module.split(tiles, 2, seed=3)[1]
    assert again.names == validation.names
    assert len(tiles_module.split(tiles, 100, seed=0)[1].names) == 3
    with pytest.raises(ValueError, match="holds 1 image; expected at least 2"):
        tiles_module.split(tiles.of_images([0]), 1, seed=0)


def test_drawings_are_never_set_aside(tmp_path, rng):
    """Whatever the seed; and the photographs are those that a pack without drawings gives."""
    for i in range(9):
        Image.fromarray(picture(rng, 64, 64)).save(tmp_path / f"{i}.png")
    photographs = images_module.open_images(str(tmp_path))
    joined, numbers = pack_sources.join_sources(photographs, 32, graphics=4, skies=2)
    packs.write_pack(tmp_path / "pack", joined, copies_of=numbers, **OPTIONS)
    tiles = sources.open_source(str(tmp_path / "pack"), **OPTIONS)
    (drawings,) = tiles.train_only
    assert tiles.names[drawings].startswith("text")
    for seed in range(20):
        training, validation = tiles_module.split(tiles, 3, seed)
        assert tiles.names[drawings] in training.names and len(validation.names) == 3
        assert set(training.names).isdisjoint(validation.names)
        assert {training.names[i] for i in training.train_only} == {tiles.names[drawings]}
    with pytest.raises(ValueError, match="holds 1 image; expected at least 2"):
        tiles_module.split(tiles.of_images([drawings]), 1, seed=0)


def test_fingerprints_follow_content_and_not_place(tmp_path, rng):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image = Image.fromarray(picture(np.random.default_rng(1)))
        image.save(tmp_path / name / "x.png")
    first, second = (sources.open_source(str(tmp_path / n), **OPTIONS) for n in "ab")
    assert first.fingerprint == second.fingerprint
    files = [images_module.open_images(str(tmp_path / n)) for n in "ab"]
    assert files[0].fingerprint == files[1].fingerprint
    Image.fromarray(picture(rng)).save(tmp_path / "b" / "x.png")
    assert sources.open_source(str(tmp_path / "b"), **OPTIONS).fingerprint != first.fingerprint


@pytest.mark.parametrize("compact", [False, True], ids=["npy", "webp"])
def test_a_pack_holds_what_it_was_given(tmp_path, rng, compact):
    (tmp_path / "images").mkdir()
    for i in range(3):
        noise = rng.integers(0, 256, (64, 96, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "images" / "bad.png").write_bytes(b"bad")
    arguments = [sys.executable, TOOL, tmp_path / "images", "-o", tmp_path / "pack", "--tile=32"]
    run = subprocess.run(
        [*arguments, "--max-short-side=0", *(["--compact"] if compact else [])],
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT,
    )
    assert "18 tiles of 3 images" in run.stdout
    assert "skipped: 1 unreadable" in run.stdout
    direct = sources.open_source(str(tmp_path / "images"), **OPTIONS)
    packed = sources.open_source(str(tmp_path / "pack"), **OPTIONS)
    assert packed.names == direct.names
    assert packed.fingerprint == direct.fingerprint
    np.testing.assert_array_equal(packed.take(), direct.take())
    assert isinstance(packed.pixels, np.memmap) is not compact
    with pytest.raises(ValueError, match=r"set --config\.data\.tile=32"):
        sources.open_source(str(tmp_path / "pack"), **OPTIONS | {"tile": 64})
    with pytest.raises(ValueError, match="holds tiles of luma 'studio'"):
        sources.open_source(str(tmp_path / "pack"), **OPTIONS | {"luma": "full"})
    with pytest.raises(ValueError, match="is 'rgb'; pack the images again with --luma rgb"):
        sources.open_source(str(tmp_path / "pack"), **OPTIONS | {"luma": "rgb"})
    with pytest.raises(ValueError, match=r"is a pack, whose tiles need no tf\.data"):
        images_module.open_images(str(tmp_path / "pack"))

    again = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    assert "exists; name another folder" in again.stderr
    about = json.loads((tmp_path / "pack" / "pack.json").read_text())
    (tmp_path / "pack" / "pack.json").write_text(json.dumps(about | {"images": [0]}))
    with pytest.raises(ValueError, match=r"holds 18 tiles, but its pack.json lists 1"):
        sources.open_source(str(tmp_path / "pack"), **OPTIONS)
    for text, message in (
        ("no JSON", r"pack.json' doesn't describe a pack"),
        ("[1]", r"pack.json' doesn't describe a pack"),
        ('{"version": 2}', "is a pack of version 2; expected 1"),
        ('{"version": 1, "tile": 32}', "lacks images, luma, names, skipped; pack the images again"),
    ):
        (tmp_path / "pack" / "pack.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            sources.open_source(str(tmp_path / "pack"), **OPTIONS)


class Repeated:
    """One image many times, which no memory holds at once."""

    fingerprint = "repeated"

    def __init__(self, rgb, count):
        file = io.BytesIO()
        Image.fromarray(rgb).save(file, "BMP")
        self.rgb, self._content, self._count = rgb, file.getvalue(), count

    def __len__(self):
        return self._count

    def name(self, index):
        return f"{index}.bmp"

    def open(self, index):
        return io.BytesIO(self._content)


@pytest.mark.parametrize("compact, count", [(False, 1500), (True, 500)], ids=["npy", "webp"])
def test_a_pack_is_written_as_it_is_cut(tmp_path, rng, compact, count):
    images = Repeated(picture(rng, 128, 128), count)
    tracemalloc.start()
    about = packs.write_pack(tmp_path / "pack", images, compact=compact, **OPTIONS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = len(about["images"]) * 32 * 32
    assert size == count * 128 * 128
    assert peak < size / 3
    packed = sources.open_source(str(tmp_path / "pack"), **OPTIONS)
    assert len(packed) == count * 16
    first = packed.take(slice(16))
    np.testing.assert_array_equal(first, tiles_module.cut_tiles(rgb_to_y(images.rgb, "studio"), 32))
    assert (packed.take().reshape(count, 16, 32, 32) == first).all()


def test_an_image_may_have_more_tiles_than_a_webp_image_holds(tmp_path, rng):
    images = Repeated(picture(rng, 736, 736), 2)
    packs.write_pack(tmp_path / "pack", images, compact=True, **OPTIONS)
    assert len(list((tmp_path / "pack").glob("*.webp"))) == 4
    packed = sources.open_source(str(tmp_path / "pack"), **OPTIONS)
    expected = tiles_module.cut_tiles(rgb_to_y(images.rgb, "studio"), 32)
    np.testing.assert_array_equal(packed.take(), np.concatenate([expected, expected]))


def test_a_pack_that_cannot_be_finished_leaves_nothing(tmp_path, rng):
    images = Repeated(picture(rng), 3)
    (tmp_path / "pack.partial").mkdir()  # somebody's, in spite of its name

    def stop(items, total):
        yield next(iter(items))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packs.write_pack(tmp_path / "pack", images, progress=stop, **OPTIONS)
    assert os.listdir(tmp_path) == ["pack.partial"]
    with pytest.raises(ValueError, match=r"none of 3 images gives a tile of 64 × 64"):
        packs.write_pack(tmp_path / "pack", images, **OPTIONS | {"tile": 64})
    assert os.listdir(tmp_path) == ["pack.partial"]


def test_no_folder_of_images_is_missed_in_silence(tmp_path, rng, monkeypatch):
    """Linked folders are searched; one that can't be read ends training and evaluation at once."""
    for name in ("a/1.png", "private/2.png", "disk/3.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / name)
    source = tmp_path / "a"
    (tmp_path / "private").rename(source / "private")
    (source / "link").symlink_to(tmp_path / "disk")
    (source / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(source / "pipe.png")  # reading it would wait for ever
    found = images_module.find_images(source)
    assert list(found) == ["1.png", "link/3.png", "private/2.png"]
    scandir = os.scandir

    def refuse(path):
        # The tests may run as root, who may read everything.
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for find in (images_module.find_images, lambda path: list(read_pairs(path, path))):
        with pytest.raises(PermissionError, match=r"a/private: this folder can't be read: Perm"):
            find(source)


def test_images_of_too_many_pixels_are_counted_and_not_decoded(tmp_path):
    """A few bytes can stand for gigabytes of pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
    png += struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(bytes(1000))
    png += struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    (tmp_path / "bomb.png").write_bytes(png)
    images = images_module.ImageFiles([tmp_path / "bomb.png"])
    tracemalloc.start()
    with pytest.raises(images_module.UnusableImageError, match=r"^too large$"):
        images_module.read_usable(images, 0, 0, 8)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
