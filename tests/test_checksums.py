"""Whether a folder of test images is the one that figures were measured on."""

import hashlib
import runpy

import numpy as np
from PIL import Image
from runs import CHECKOUT

checksums = runpy.run_path(str(CHECKOUT / "tools/checksums.py"))["main"]


def test_pixels_count_and_not_files(tmp_path, rng, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = rng.integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    for i in range(2):
        Image.fromarray(pixels[i]).save(folder / f"{i}.png")
    checksums([str(folder)])
    listed = capsys.readouterr().out
    assert listed.splitlines()[1] == f"{hashlib.sha256(pixels[1].tobytes()).hexdigest()}  7x5  1"
    (tmp_path / "list.txt").write_text(listed)
    check = [str(folder), "--check", str(tmp_path / "list.txt")]
    (folder / "0.png").unlink()
    Image.fromarray(pixels[0]).save(folder / "0.tif")
    checksums(check)
    assert "all 2 images" in capsys.readouterr().out
    pixels[0, 0, 0, 0] ^= 1
    Image.fromarray(pixels[0]).save(folder / "0.tif")
    (folder / "1.png").rename(folder / "2.png")
    assert checksums(check) == 1
    assert "0 differs; 1 is missing; 2 is not in the list" in capsys.readouterr().err
    (tmp_path / "list.txt").write_text("".join(f"{i:064x}  7x5  x{i}\n" for i in range(99)))
    assert checksums(check) == 1
    assert "x13 is missing; and 93 more" in capsys.readouterr().err


def test_live1_is_what_figures_were_measured_on(live1, capsys):
    checksums([str(live1[0].parent), "--check", str(CHECKOUT / "docs/live1.txt")])
    assert "all 29 images" in capsys.readouterr().out


def test_bsds500_is_what_the_bundled_networks_learned_from(train_images, capsys):
    checksums([str(train_images[0].parent), "--check", str(CHECKOUT / "docs/bsds500.txt")])
    assert "all 300 images" in capsys.readouterr().out
