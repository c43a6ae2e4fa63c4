"""The gallery: what its file holds, and what a browser makes of it."""

import base64
import hashlib
import io
import json
import os
import struct
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from browsers import chromium, phone, pixels, preferring, unnamed, weakest_contrast
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dmcnn_jax.cli import evaluate
from dmcnn_jax.cli import gallery as gallery_command
from dmcnn_jax.evaluation import protocol
from dmcnn_jax.images import metrics
from dmcnn_jax.inference import model as model_module
from dmcnn_jax.web import gallery
from dmcnn_jax.web.gallery import Item, write_gallery
from dmcnn_jax.web.pairs import read_pairs

GRAYS = {"JPEG": 40, "Restored": 120, "Original": 220}


class Page(HTMLParser):
    """A page's elements, in order: (tag, attributes), and its text by tag."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text, self._open = [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        # Elements without an end, such as <img>, are still open.
        while self._open.pop() != tag:
            pass

    def handle_data(self, data):
        self.text.append((self._open[-1] if self._open else "", data))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def inside(self, tag):
        return "".join(data for name, data in self.text if name == tag)


def decode(uri):
    """Pixels of a data: URI, uint8 [H, W, 3]."""
    kind, data = uri.split(",", 1)
    assert kind in ("data:image/webp;base64", "data:image/png;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def rgb(picture):
    return picture if picture.ndim == 3 else np.stack([picture] * 3, axis=-1)


def item(name, gain=1.0, shape=(48, 64), change=3):
    jpeg, restored, original = (np.full(shape, gray, np.uint8) for gray in GRAYS.values())
    figures = {"jpeg": {"psnr": 27.0, "ssim": 0.8}, "model": {"psnr": 27 + gain, "ssim": 0.81}}
    return Item(name, jpeg, restored, original, figures)


def names(page):
    return [attributes["data-name"] for attributes in page.all("article")]


def test_pictures_are_embedded_without_loss(tmp_path, photographs, rng):
    camera = photographs["camera"][:75, :93]
    noise = rng.integers(0, 256, (21, 34, 3), np.uint8)
    pictures = [camera, camera[::-1], camera[:, ::-1]], [noise, noise[::-1], noise[:, ::-1]]
    items = [Item(f"{n}", *three) for n, three in enumerate(pictures)]
    write_gallery(tmp_path / "g.html", items)
    images = Page(tmp_path / "g.html").all("img")
    assert [image["alt"] for image in images[:3]] == ["1, JPEG", "1, Restored", "1, Original"]
    for image, picture in zip(images, [*pictures[1], *pictures[0]], strict=True):
        assert (int(image["height"]), int(image["width"])) == picture.shape[:2]
        np.testing.assert_array_equal(decode(image["src"]), rgb(picture))


def test_sixteen_bits_are_rounded(tmp_path):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    write_gallery(tmp_path / "g.html", [Item("ramp", levels, levels)])
    found = decode(Page(tmp_path / "g.html").all("img")[0]["src"]).astype(float)
    assert np.abs(found[..., 0] * 257 - levels).max() <= 128


def test_nothing_is_fetched_and_nothing_else_can_run(tmp_path):
    write_gallery(tmp_path / "g.html", [item("a"), item("b")])
    page = Page(tmp_path / "g.html")
    for _, attributes in page.elements:
        for key, value in attributes.items():
            assert not key.startswith("on") and key not in ("style", "srcset", "action")
            if key in ("src", "href"):
                assert value.startswith(("data:", "#")), value
    policies = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    rules = dict(rule.split(" ", 1) for rule in policies[0].split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert "url(" not in page.inside("style") and "@import" not in page.inside("style")
    for directive, tag in (("style-src", "style"), ("script-src", "script")):
        digest = hashlib.sha256(page.inside(tag).encode()).digest()
        assert rules[directive] == f"'sha256-{base64.b64encode(digest).decode()}'"
        assert len(page.all(tag)) == 1


def test_worst_and_best_come_first_in_turn(tmp_path):
    gains = {"a": 0.5, "b": -0.3, "c": 2.0, "d": float("inf"), "e": 1.0}
    write_gallery(tmp_path / "g.html", [item(name, gain) for name, gain in gains.items()])
    page = Page(tmp_path / "g.html")
    assert names(page) == ["b", "d", "a", "c", "e"]
    text = page.inside("td")
    assert "−0.30" in text and "+2.00" in text and "∞" in text


@pytest.mark.parametrize(
    ("gain", "kind"),
    [(0.5, "gain"), (float("inf"), "gain"), (-0.5, "loss"), (-float("inf"), "loss"),
     (float("nan"), None)],
)  # fmt: skip
def test_gains_and_losses_are_told_apart(tmp_path, gain, kind):
    picture = np.zeros((16, 16), np.uint8)
    figures = {"jpeg": {"psnr": 27.0}, "model": {"psnr": 27.0 + gain}}
    write_gallery(tmp_path / "g.html", [Item("a", picture, picture, picture, figures)])
    cells = Page(tmp_path / "g.html").all("td")
    assert {cell.get("class") for cell in cells} == {None, kind}


def test_two_perfect_pictures_gain_nothing(tmp_path):
    figures = {key: {"psnr": float("inf")} for key in ("jpeg", "model")}
    picture = np.zeros((16, 16), np.uint8)
    write_gallery(tmp_path / "g.html", [Item("a", picture, picture, picture, figures)])
    assert Page(tmp_path / "g.html").all("article")[0]["data-psnr"] == "0.0"


def test_without_originals_the_most_changed_comes_first(tmp_path):
    gray = np.full((16, 16), 100, np.uint8)
    items = [Item(f"by {n}", gray, gray + np.uint8(n)) for n in (3, 9, 0)]
    write_gallery(tmp_path / "g.html", items)
    page = Page(tmp_path / "g.html")
    assert names(page) == ["by 9", "by 3", "by 0"]
    assert "Changed by 9.00 levels" in page.inside("p")


def test_means_are_the_protocols(tmp_path, rng):
    items, original = [], rng.integers(0, 256, (24, 32), np.uint8)
    for n, strength in enumerate((4, 12)):
        noisy = [
            np.clip(original + rng.normal(0, s, original.shape), 0, 255).astype(np.uint8)
            for s in (strength, strength / 2)
        ]
        figures = {
            k: metrics.measure(original, p) for k, p in zip(("jpeg", "model"), noisy, strict=True)
        }
        items.append(Item(str(n), *noisy, original, figures))
    write_gallery(tmp_path / "g.html", items)
    cells = Page(tmp_path / "g.html").inside("td")
    for key in ("jpeg", "model"):
        assert f"{np.mean([i.figures[key]['psnr'] for i in items]):.2f}" in cells


def test_a_large_gallery_leaves_out_the_middle(tmp_path, rng):
    items = []
    for n in range(12):
        noise = rng.integers(0, 256, (3, 64, 64), np.uint8)
        items.append(item(f"picture {n:02}", gain=float(n)))
        items[-1] = Item(items[-1].name, *noise, items[-1].figures)
    order = rng.permutation(12)
    limit = 220_000
    left_out = write_gallery(tmp_path / "g.html", [items[n] for n in order], max_bytes=limit)
    assert limit / 2 < (tmp_path / "g.html").stat().st_size < limit
    page = Page(tmp_path / "g.html")
    kept = [name for name in (i.name for i in items) if name not in left_out]
    assert sorted(names(page)) == kept and 2 <= len(kept) < 12
    # What is left is an unbroken run at either end.
    gone = [int(name[-2:]) for name in sorted(left_out)]
    assert gone == list(range(gone[0], gone[-1] + 1)) and 0 not in gone and 11 not in gone
    assert all(name in page.inside("th") + page.inside("a") for name in left_out)
    assert f"{len(left_out)} of 12 pictures are left out" in page.inside("p")


def test_of_large_pictures_the_middle_is_shown(tmp_path):
    picture = np.arange(50 * 70, dtype=np.uint16).astype(np.uint8).reshape(50, 70)
    write_gallery(tmp_path / "g.html", [Item("a", picture, picture)], crop=20)
    page = Page(tmp_path / "g.html")
    found = decode(page.all("img")[0]["src"])
    np.testing.assert_array_equal(found, rgb(picture[15:35, 25:45]))
    assert "70 × 50, the middle 20 × 20 shown" in page.inside("span")


@settings(max_examples=8, deadline=None)
@given(name=st.text(min_size=1, max_size=30).filter(lambda s: "\0" not in s and "\r" not in s))
def test_names_are_text_whatever_is_in_them(name, tmp_path_factory):
    path = tmp_path_factory.mktemp("names") / "g.html"
    write_gallery(path, [item(f"<b onclick='x'>&amp;\"{name}")])
    page = Page(path)
    assert not page.all("b")
    expected = f"<b onclick='x'>&amp;\"{name}".encode(errors="replace").decode()
    assert names(page) == [expected]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "no picture"),
        ([Item("x", np.zeros((8, 8), np.uint8), np.zeros((8, 9), np.uint8))], "different shapes"),
        ([Item("x", *[np.zeros((8, 8, 4), np.uint8)] * 2)], r"expected \[H, W\]"),
        ([Item("x", *[np.zeros((8, 8))] * 2)], "float64"),
        ([item("x"), Item("y", *[np.zeros((8, 8), np.uint8)] * 2)], "y: some items have figures"),
    ],
)
def test_what_makes_no_gallery_leaves_the_file_alone(items, message, tmp_path):
    path = tmp_path / "g.html"
    path.write_text("before")
    with pytest.raises(ValueError, match=message):
        write_gallery(path, items)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_an_evaluations_gallery_names_no_folder(tmp_path):
    shown = gallery.Gallery()
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    shown.add(Item("ramp", levels, levels))
    results = {"model": "/home/me/runs/mine", "images": "/home/me/LIVE1", "quality": 10}
    protocol.write_gallery(tmp_path / "g.html", shown, {**results, "per_image": [{}]})
    page = (tmp_path / "g.html").read_text()
    assert "/home" not in page
    assert "mine" in page and "1 images of LIVE1, quality 10" in page


def save(path, picture, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, **options)
    return path


def test_the_command_pairs_files_by_name(tmp_path, photographs, capsys):
    color = rgb(photographs["camera"][:40, :56])
    turned = Image.Exif()
    turned[0x0112] = 6
    for name in ("a.jpg", "sub/b.JPEG"):
        save(tmp_path / "jpeg" / name, color, quality=20, exif=turned, format="JPEG")
    save(tmp_path / "clean/a.png", color, exif=turned)
    save(tmp_path / "clean/sub/b-restored.png", color, exif=turned)
    save(tmp_path / "originals/a.png", np.rot90(color, -1))
    save(tmp_path / "originals/sub/b.png", np.rot90(color, -1))
    output = tmp_path / "out" / "g.html"
    arguments = [str(tmp_path / "jpeg"), str(tmp_path / "clean"), "-o", str(output)]
    assert gallery_command.main([*arguments, "--originals", str(tmp_path / "originals")]) == 0
    assert "MB" in capsys.readouterr().out
    page = Page(output)
    assert sorted(names(page)) == ["a", "sub/b"]
    assert {(i["width"], i["height"]) for i in page.all("img")} == {("40", "56")}
    restored = decode(page.all("img")[1]["src"])
    np.testing.assert_array_equal(restored, np.rot90(color, -1))
    # Restored and original are the same here.
    assert "∞" in page.inside("td")


def test_the_command_leaves_out_what_it_cannot_show_and_says_so(tmp_path, capsys):
    gray = np.full((16, 24), 90, np.uint8)
    for name in ("alone", "cut", "damaged", "good", "other"):
        save(tmp_path / "jpeg" / f"{name}.jpg", gray)
        save(tmp_path / "clean" / f"{name}.png", gray[: 8 if name == "other" else 16])
    (tmp_path / "clean/alone.png").unlink()
    cut = tmp_path / "clean/cut.png"
    cut.write_bytes(cut.read_bytes()[:50])  # within its pixels
    (tmp_path / "jpeg/damaged.jpg").write_bytes(b"\xff\xd8nothing")
    output = tmp_path / "g.html"
    arguments = [str(tmp_path / "jpeg"), str(tmp_path / "clean"), "-o", str(output)]
    assert gallery_command.main(arguments) == 1
    said = capsys.readouterr()
    alone, cut, damaged, other = said.err.splitlines()
    assert "left out: " in alone and "has no picture 'alone'" in alone
    assert "cut.png: " in cut and "truncated" in cut
    assert "damaged.jpg: not a picture" in damaged
    assert "other.png: 24 x 8 pixels; expected 24 x 16" in other
    assert said.out.endswith("; 4 could not be shown, see above\n")
    assert names(Page(output)) == ["good"]


def test_whatever_is_left_out_is_named(tmp_path):
    """Some errors named no file, and an OverflowError ended the command."""
    gray = np.full((16, 24), 90, np.uint8)
    jpeg, result = save(tmp_path / "a.jpg", gray), tmp_path / "b"
    save(result, gray, format="PNG")
    cut = result.read_bytes()[:40]
    save(result, gray, format="TIFF")
    tiff = result.read_bytes()
    at = tiff.index(struct.pack("<HH", 256, 4)) + 8  # the width
    for damaged in (cut, tiff[:at] + b"\xff\xff\xff\xff" + tiff[at + 4 :]):
        result.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^\S*/b: "):
            list(read_pairs(jpeg, result))
    small = [save(tmp_path / f"small.{kind}", gray[:8]) for kind in ("jpg", "png")]
    with pytest.raises(ValueError, match=r"^\S*/small\.jpg: .*11 x 11"):
        list(read_pairs(*small, small[1]))


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_results_in_the_folder_of_their_jpegs_are_found(tmp_path, extension):
    """As dmcnn-restore leaves them by default, beside pictures that are not their own."""
    levels = {"a.jpg": 10, "b.jpg": 20, "sub/a.jpg": 30, "a-b.jpg": 40}
    for name, level in levels.items():
        save(tmp_path / name, np.full((16, 16), level, np.uint8), quality=95)
        result = (tmp_path / name).with_name(f"{name.split('/')[-1][:-4]}-restored.{extension}")
        save(result, np.full((16, 16), 200 + level, np.uint8))
    # The original of one of them, which a name alone doesn't tell from a result.
    save(tmp_path / "b.png", np.zeros((16, 16), np.uint8))
    for folder in (tmp_path, f"{tmp_path}/sub/.."):
        found = {item.name: item for item in read_pairs(tmp_path, folder)}
        assert sorted(found) == ["a", "a-b", "b", "sub/a"]
        for name, item in found.items():
            level = levels[f"{name}.jpg"]
            assert abs(item.jpeg.mean() - level) < 2
            assert abs(item.restored.mean() - 200 - level) < 2


@pytest.mark.parametrize("beside", [False, True])
def test_files_that_differ_by_extension_have_the_results_of_dmcnn_restore(tmp_path, beside, capsys):
    """One of them vanished."""
    folder = tmp_path if beside else tmp_path / "clean"
    suffix = "-restored" if beside else ""
    for level, name in ((10, "a.jpg"), (20, "a.jpeg"), (30, "b.jpeg"), (40, "b.jpg")):
        save(tmp_path / name, np.full((16, 16), level, np.uint8), quality=95)
        if name != "b.jpg":
            save(folder / f"{name}{suffix}.png", np.full((16, 16), 200 + level, np.uint8))
    arguments = [str(tmp_path), str(folder), "-o", str(tmp_path / "g.html")]
    assert gallery_command.main(arguments) == 1
    said = capsys.readouterr()
    assert "has no picture 'b.jpg' to go with" in said.err and said.err.count("\n") == 1
    assert "; 1 could not be shown" in said.out
    found = {pair.name: pair for pair in read_pairs(tmp_path, folder, skip=lambda reason: None)}
    assert sorted(found) == ["a.jpeg", "a.jpg", "b.jpeg"]
    for name, level in (("a.jpg", 10), ("a.jpeg", 20), ("b.jpeg", 30)):
        assert abs(found[name].jpeg.mean() - level) < 2
        assert (found[name].restored == 200 + level).all()


def test_files_that_differ_by_extension_share_their_original(tmp_path):
    for name, level in (("a.jpg", 10), ("a.jpeg", 20)):
        save(tmp_path / "in" / name, np.full((16, 16), level, np.uint8), quality=95)
        save(tmp_path / "out" / f"{name}.png", np.full((16, 16), level, np.uint8))
    save(tmp_path / "originals/a.png", np.full((16, 16), 15, np.uint8))
    found = list(read_pairs(tmp_path / "in", tmp_path / "out", tmp_path / "originals"))
    assert [pair.name for pair in found] == ["a.jpeg", "a.jpg"]
    assert all((pair.original == 15).all() for pair in found)


def test_names_that_differ_in_case_are_those_of_two_pictures(tmp_path):
    for name, level in (("A", 10), ("a", 20)):
        save(tmp_path / "in" / f"{name}.jpg", np.full((16, 16), level, np.uint8), quality=95)
        save(tmp_path / "out" / f"{name}.png", np.full((16, 16), 200 + level, np.uint8))
    if len(list((tmp_path / "in").iterdir())) == 1:
        pytest.skip("needs a file system that distinguishes case")
    found = list(read_pairs(tmp_path / "in", tmp_path / "out"))
    assert sorted(pair.restored.mean() - pair.jpeg.mean() for pair in found) == [200, 200]


def test_a_jpeg_is_never_its_own_result(tmp_path):
    save(tmp_path / "a.jpg", np.zeros((16, 16), np.uint8))
    with pytest.raises(ValueError, match="has no picture 'a'"):
        list(read_pairs(tmp_path, tmp_path))


def test_defaults_of_the_command_are_those_of_the_library(tmp_path, monkeypatch):
    options = {}
    monkeypatch.setattr(gallery, "write_gallery", lambda *_, **more: options.update(more) or ())
    monkeypatch.setattr(gallery, "describe", lambda *_: "")
    assert gallery_command.main([str(tmp_path / "a.jpg"), str(tmp_path / "a.png")]) == 0
    assert options["max_bytes"] == gallery.MAX_BYTES and options["crop"] == gallery.CROP


@pytest.mark.parametrize("size", ["inf", "nan", "-1", "1e7", "all"])
def test_sizes_out_of_range_are_refused(size, capsys):
    with pytest.raises(SystemExit) as ended:
        gallery_command.main(["a.jpg", "a.png", "--max-mb", size])
    assert ended.value.code == 2
    assert f"--max-mb: '{size}'; expected a number from 0 to 1000000" in capsys.readouterr().err


def test_titles_and_names_hold_any_bytes(tmp_path, capsys):
    gray = np.full((16, 24), 90, np.uint8)
    for name in ("a.jpg", "a.png"):
        save(tmp_path / name, gray)
    output = tmp_path / os.fsdecode(b"a\xff\x1b.html")
    arguments = [str(tmp_path / "a.jpg"), str(tmp_path / "a.png"), "-o", str(output)]
    assert gallery_command.main([*arguments, "--title", os.fsdecode(b"x\xff<")]) == 0
    page = Page(output)
    assert page.inside("title") == page.inside("h1") == "x?<"
    assert r"a\udcff\x1b.html" in capsys.readouterr().out


def test_two_files_make_a_pair_whatever_they_are_called(tmp_path, photographs):
    gray = photographs["camera"][:16, :24]
    jpeg = save(tmp_path / "x.jpg", gray, quality=30)
    (pair,) = read_pairs(jpeg, save(tmp_path / "y.png", gray))
    np.testing.assert_array_equal(pair.jpeg, np.asarray(Image.open(jpeg)))
    np.testing.assert_array_equal(pair.restored, gray)
    assert pair.original is None and pair.figures is None


def test_evaluate_writes_one(tmp_path, monkeypatch, photographs, capsys):
    folder = tmp_path / "images"
    for name, gain in (("a.png", 2), ("b.png", 1)):
        save(folder / name, photographs["camera"][:32, gain : 40 + gain])

    def measure_image(model, original, quality, **options):
        jpeg, restored = original ^ 8, original ^ 2
        found = {"jpeg": jpeg, "model": restored}
        return {key: metrics.measure(original, p) for key, p in found.items()}, found

    monkeypatch.setattr(protocol, "measure_image", measure_image)
    monkeypatch.setattr(model_module, "load", lambda name, engine: SimpleNamespace(name=name))
    path, results = tmp_path / "g.html", tmp_path / "r.json"
    evaluate.main(
        [*f"--weights tiny --images {folder} --quality 10 -o {results} --gallery {path}".split()]
    )
    page = Page(path)
    assert page.inside("h1") == "tiny"
    assert f"2 images of {folder.name}, quality 10" in page.inside("p")
    assert str(path) in capsys.readouterr().out
    for row in json.loads(results.read_text())["per_image"]:
        (article,) = (a for a in page.all("article") if a["data-name"] == row["name"])
        gain = row["model"]["psnr_b"] - row["jpeg"]["psnr_b"]
        assert float(article["data-psnr-b"]) == pytest.approx(gain)


# In a browser.


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def opened(browser, tmp_path):
    path = tmp_path / "g.html"
    write_gallery(path, [item(n, gain) for n, gain in (("b10", 1), ("b9", -2), ("a", 3))])
    browser.get_log("browser")
    browser.get(path.as_uri())
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def find(driver, css):
    return driver.find_element("css selector", css)


def seen(driver, css="article .stage"):
    """The gray at the left and at the right of the first picture, in the free lower corners."""
    picture = pixels(find(driver, css)).astype(int)
    return picture[-4, 6].mean(), picture[-4, -7].mean()


def test_keyboard_moves_the_divider(opened):
    assert seen(opened) == (GRAYS["JPEG"], GRAYS["Restored"])
    slider = find(opened, "article input[type=range]")
    slider.send_keys("\ue010")  # End
    assert seen(opened) == (GRAYS["JPEG"], GRAYS["JPEG"])
    assert slider.get_attribute("aria-valuetext") == "100 % JPEG, 0 % Restored"
    slider.send_keys("\ue011")  # Home
    assert seen(opened) == (GRAYS["Restored"], GRAYS["Restored"])
    slider.send_keys("\ue014" * 4)  # right
    assert float(slider.get_property("value")) == 2
    assert find(opened, "article").get_attribute("data-name") == "b9"


def test_keyboard_chooses_the_pair(opened):
    find(opened, "article .pair input").send_keys("\ue014")
    assert seen(opened) == (GRAYS["JPEG"], GRAYS["Original"])
    find(opened, "article .pair input:checked").send_keys("\ue014")
    assert seen(opened) == (GRAYS["Restored"], GRAYS["Original"])
    label = find(opened, "article input[type=range]").get_attribute("aria-label")
    assert label == "Divider between Restored and Original, b9"


def test_a_pointer_drags_the_divider(opened):
    from selenium.webdriver import ActionChains

    stage = find(opened, "article .stage")
    width = stage.size["width"]
    ActionChains(opened, duration=20).move_to_element_with_offset(
        stage, 3 - width // 2, 10
    ).click_and_hold().move_by_offset(width // 2, 0).release().perform()
    slider = find(opened, "article input[type=range]")
    middle = float(slider.get_property("value"))
    assert middle == pytest.approx(100 * (3 + width // 2) / width, abs=3)
    ActionChains(opened, duration=20).move_to_element(
        find(opened, "article .divider")
    ).click_and_hold().move_by_offset(15, 0).release().perform()
    assert float(slider.get_property("value")) > middle + 15


def test_enlarged_pictures_scroll_and_keep_the_divider(opened):
    opened.execute_script("document.querySelector('article .stage').style.maxWidth = '100px'")
    opened.execute_script("document.querySelectorAll('article .zoom input')[3].click()")
    view = find(opened, "article .window")
    assert view.get_property("scrollWidth") == 4 * 64 and view.get_attribute("tabindex") == "0"
    picture = pixels(find(opened, "article .stage")).astype(int)
    # Beside the scroll bars.
    assert picture[100, 6].mean() == GRAYS["JPEG"]
    assert picture[100, -20].mean() == GRAYS["Restored"]
    cut = "return parseFloat(document.querySelector('.layers').style.getPropertyValue('--cut'))"
    before = opened.execute_script(cut)
    opened.execute_script("arguments[0].scrollLeft += 40", view)
    opened.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert opened.execute_script(cut) == before + 40
    opened.execute_script("document.querySelectorAll('article .zoom input')[0].click()")
    assert view.get_attribute("tabindex") is None


def test_order(opened):
    def shown():
        return [a.get_attribute("data-name") for a in opened.find_elements("tag name", "article")]

    assert shown() == ["b9", "a", "b10"]
    for order, expected in {
        "rising": ["b9", "b10", "a"],
        "falling": ["a", "b10", "b9"],
        "name": ["a", "b9", "b10"],
        "ends": ["b9", "a", "b10"],
    }.items():
        find(opened, f"#order option[value={order}]").click()
        assert shown() == expected
    assert find(opened, "#said").get_property("textContent") == (
        "3 pictures, worst and best in turn by PSNR gain"
    )
    assert seen(opened) == (GRAYS["JPEG"], GRAYS["Restored"])


def test_every_control_has_a_name(opened):
    assert unnamed(opened) == []


def test_light_and_dark_are_readable(opened):
    background = "return getComputedStyle(document.body).backgroundColor"
    light = opened.execute_script(background)
    assert weakest_contrast(opened) >= 4.5
    with preferring(opened, color_scheme="dark"):
        assert opened.execute_script(background) != light
        assert weakest_contrast(opened) >= 4.5


def test_on_a_phone_it_fits_and_a_finger_drags(opened):
    with phone(opened):
        opened.refresh()
        assert opened.execute_script("return document.documentElement.scrollWidth") == 360
        sizes = opened.execute_script(
            "return [...document.querySelectorAll('select, article label, input[type=range]')]"
            ".map((e) => e.getBoundingClientRect()).map((b) => Math.min(b.width, b.height))"
        )
        assert min(sizes) >= 40
        box = opened.execute_script(
            "const stage = document.querySelector('article .stage');"
            "stage.scrollIntoView({block: 'center'});"
            "return stage.getBoundingClientRect().toJSON()"
        )
        y = box["y"] + box["height"] * 0.8
        for kind, share in (("Start", 0.2), ("Move", 0.5), ("Move", 0.8), ("End", None)):
            x = box["x"] + box["width"] * (share or 0)
            points = [{"x": x, "y": y}] if share else []
            opened.execute_cdp_cmd(
                "Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points}
            )
        value = float(find(opened, "article input[type=range]").get_property("value"))
        assert value == pytest.approx(80, abs=3)


def test_without_scripts_pictures_stand_one_below_the_other(opened):
    opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened.refresh()
        images = opened.find_elements("css selector", "article:first-of-type img")
        tops = [image.rect["y"] for image in images]
        assert len(tops) == 3 and tops == sorted(set(tops))
    finally:
        opened.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
