"""The tables: what is measured, what stands beside it, and going on where it stopped."""

import csv
import importlib.util
import itertools
import json
import math
import sys
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
import scipy.stats
from lengths import length
from PIL import Image

from dmcnn_jax.cli import compare as compare_command
from dmcnn_jax.evaluation import comparison, paper_results
from dmcnn_jax.images import metrics
from dmcnn_jax.inference.model import load
from dmcnn_jax.inference.variables import check_variables, initialize
from dmcnn_jax.inference.weights import load_weights, save_weights
from dmcnn_jax.models import MODELS, create_model
from dmcnn_jax.models.baselines.matconvnet import read_dncnn

TOOLS = Path(__file__).parents[1] / "tools"
TINY = {"name": "dncnn", "features": 2, "depth": 3, "batch_norm": False}


def tool(name):
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, *arguments, monkeypatch):
    if name == "compare":
        return compare_command.main([*map(str, arguments)])
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    return tool(name).main()


def save(path, config, seed=0, **about):
    variables = initialize(create_model(config), jax.random.key(seed))
    variables = jax.tree.map(lambda x: x / 100, variables)
    save_weights(path, variables, {"model": config, **about})
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    save(folder / "a.safetensors", TINY)
    save(folder / "b.safetensors", {"name": "arcnn"}, 1)
    save(folder / "c10.safetensors", TINY, 2)
    save(folder / "c30.safetensors", TINY, 3)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory, photographs):
    folder = tmp_path_factory.mktemp("images") / "LIVE1"
    folder.mkdir()
    for i, (name, (y, x)) in enumerate({"camera": (60, 200), "chelsea": (100, 120)}.items()):
        Image.fromarray(photographs[name][y : y + 67 + i, x : x + 85]).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def no_profiles(monkeypatch):
    """Costs take long to measure, and are tested elsewhere."""
    fake = {"weights": 123_456, "flops": 54_321.0, "speed": 2.5e6, "field": 7}
    monkeypatch.setattr(comparison, "measure_complexity", lambda model: fake)


def scored(weights, images, output, *more, monkeypatch, status=0):
    arguments = [f"A={weights / 'a.safetensors'}", f"Blurry={weights / 'b.safetensors'}"]
    arguments += ["--images", f"{images}", "--qualities", "10", "30", "-o", output, *more]
    assert run("compare", *arguments, monkeypatch=monkeypatch) == status
    return json.loads((output / "results.json").read_text()) if status == 0 else None


def test_the_command(weights, images, tmp_path, monkeypatch, no_profiles, capsys):
    results = scored(weights, images, tmp_path, monkeypatch=monkeypatch)
    assert [(t["images"], t["quality"]) for t in results["tables"]] == [
        ("LIVE1", 10),
        ("LIVE1", 30),
    ]
    rows = {row["label"]: row for row in results["tables"][0]["rows"]}
    assert list(rows)[:3] == ["JPEG", "A", "Blurry"]
    assert rows["JPEG"]["paper"] == [27.77, 0.791, 25.33] and rows["JPEG"]["later"] is None
    assert rows["A"]["later"] == [29.19, 0.8123] and rows["A"]["system"] == "DnCNN-3"
    # Systems that were not measured are there with what is published.
    assert rows["SwinIR"]["measured"] is None and rows["SwinIR"]["later"] == [29.86, 0.8287]
    assert [row["label"] for row in results["tables"][1]["rows"]] == ["JPEG", "A", "Blurry"]
    printed = capsys.readouterr().out
    table = (tmp_path / "table.md").read_text()
    assert table in printed and "29.19 / 0.8123" in table and "| 123,456 | 54 | 2.50 | 7 |" in table
    lines = table[: table.index("quality 30")].splitlines()
    cells = {line.split("|")[1].strip(): line.split("|") for line in lines if "|" in line}
    assert cells["A"][9] == f" {29.19 - rows['A']['measured']['psnr']:.2f} "
    assert cells["JPEG"][9] == cells["SwinIR"][9] == " – "
    lines = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert len(lines) == sum(len(table["rows"]) for table in results["tables"])
    for line, row in zip(lines, results["tables"][0]["rows"], strict=False):
        assert line["label"] == row["label"]
        if row["measured"]:
            assert float(line["psnr_b"]) == row["measured"]["psnr_b"]
    for name in ("flops.png", "gain.png", "crop-q10.png", "crop-q30.png"):
        assert Image.open(tmp_path / name).size[0] > 100
    assert not list(tmp_path.glob("*.partial"))


def test_jpeg_rows_are_pillows(images, tmp_path):
    entries, folders = [], [comparison.parse_folder(str(images))]
    results = comparison.compare(
        entries, folders, [10], comparison.MeasurementCache(tmp_path / "m.json")
    )
    measured = []
    for path in sorted(images.iterdir()):
        original = np.asarray(Image.open(path))
        assert original.ndim == 2  # gray, so measured as it is
        Image.fromarray(original).save(tmp_path / "x.jpg", quality=10)
        measured.append(metrics.measure(original, np.asarray(Image.open(tmp_path / "x.jpg"))))
    row = results["tables"][0]["rows"][0]
    assert row["measured"] == pytest.approx(metrics.mean(measured))
    assert row["gain"] is None


def test_measures_are_those_of_evaluate(weights, images, tmp_path, no_profiles):
    from dmcnn_jax.evaluation.protocol import evaluate_folder

    entries = [comparison.parse_entry(f"A={weights / 'a.safetensors'}", [10])]
    folders = [comparison.parse_folder(f"Two={images}")]
    results = comparison.compare(
        entries, folders, [10], comparison.MeasurementCache(tmp_path / "m.json")
    )
    expected = evaluate_folder(load(weights / "a.safetensors"), images, 10)
    rows = {row["label"]: row for row in results["tables"][0]["rows"]}
    assert set(rows) == {"JPEG", "A"}  # nothing is published for "Two"
    assert rows["A"]["measured"] == pytest.approx(expected["mean"]["model"])
    gains = [row["model"]["psnr"] - row["jpeg"]["psnr"] for row in expected["per_image"]]
    assert rows["A"]["gain"]["mean"] == pytest.approx(np.mean(gains))
    assert rows["A"]["gain"]["low"] == pytest.approx(min(gains))
    assert rows["A"]["gain"]["high"] == pytest.approx(max(gains))


def test_it_goes_on_where_it_stopped(weights, images, tmp_path, monkeypatch, no_profiles):
    """Killed while scoring: what was measured is kept, and not measured again."""
    calls, score = [], comparison.score_model

    def counted(model, folder, quality):
        calls.append((model.name, quality))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(model, folder, quality)

    monkeypatch.setattr(comparison, "score_model", counted)
    scored(weights, images, tmp_path, "--no-plots", monkeypatch=monkeypatch, status=130)
    assert [p.name for p in tmp_path.iterdir()] == ["measured.json"]
    stopped = list(calls)
    results = scored(weights, images, tmp_path, "--no-plots", monkeypatch=monkeypatch)
    assert calls[3:] == [stopped[2], calls[-1]] and len(set(calls)) == 4
    again = scored(weights, images, tmp_path, "--no-plots", monkeypatch=monkeypatch)
    assert len(calls) == 5 and again == results


def test_other_weights_or_images_are_measured_anew(weights, images, tmp_path, no_profiles):
    measured = comparison.MeasurementCache(tmp_path / "m.json")
    folders = [comparison.parse_folder(str(images))]
    copy = tmp_path / "a.safetensors"
    copy.write_bytes((weights / "a.safetensors").read_bytes())
    first = comparison.compare([comparison.parse_entry(str(copy), [10])], folders, [10], measured)
    save(copy, {"name": "arcnn"})
    second = comparison.compare([comparison.parse_entry(str(copy), [10])], folders, [10], measured)
    means = [r["tables"][0]["rows"][1]["measured"]["psnr"] for r in (first, second)]
    assert means[0] != means[1]


def test_images_are_known_by_their_contents(tmp_path, rng):
    """Of two files of one name and size, too."""
    digests = set()
    for _ in range(2):
        Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(tmp_path / "a.bmp")
        folder = comparison.parse_folder(str(tmp_path))
        digests |= {comparison.digest_images(folder), comparison.digest_images(folder)}
    assert len(digests) == 2


def test_labels_and_paths(weights, tmp_path):
    path = save(tmp_path / "lr=1e-3.safetensors", TINY)
    assert comparison.parse_entry(str(path), [10]).label == "lr=1e-3"
    entry = comparison.parse_entry(f"A={path}", [10])
    assert (entry.label, entry.paths[10]) == ("A", path)


def test_a_quality_in_the_name(weights):
    entry = comparison.parse_entry(f"C={weights}/c{{q}}.safetensors", [10, 30])
    assert {q: p.name for q, p in entry.paths.items()} == {
        10: "c10.safetensors",
        30: "c30.safetensors",
    }
    with pytest.raises(FileNotFoundError, match="c20"):
        comparison.parse_entry(f"C={weights}/c{{q}}.safetensors", [10, 20])


def test_gains_over_another_model(weights, images, tmp_path, monkeypatch, no_profiles):
    results = scored(
        weights, images, tmp_path, "--no-plots", "--against", "Blurry", monkeypatch=monkeypatch
    )
    rows = {row["label"]: row for row in results["tables"][0]["rows"]}
    assert rows["Blurry"]["gain"] is None
    difference = rows["A"]["measured"]["psnr"] - rows["Blurry"]["measured"]["psnr"]
    assert rows["A"]["gain"]["mean"] == pytest.approx(difference)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no weights 'nothing'"),
        (["dmcnn-chroma"], "are weights of the network 'chroma', which restores colour"),
        (["arcnn={a}"], "calls its weights arcnn, but they are of DnCNN-3"),
        (["MemNet={a}"], "calls its weights MemNet, but they are of DnCNN-3"),
        (["dmcnn-photo"], "are weights of the network 'photo', which restores colour"),
        (["{misfit}"], "don't fit the model DnCNN"),
        (["{text}"], "is not a safetensors file"),
        (["{a}", "--images", "{empty}"], "no image in"),
        (["{a}", "--images", "{empty}/none"], "is not a folder"),
        (["{a}", "--qualities", "0"], "--qualities has 0; expected 1 to 100"),
        (["X={a}", "X={b}"], "two rows are called 'X'"),
        (["X={a}", "--against", "Y"], "nothing is called 'Y'; expected JPEG, X"),
        (["{a}", "--crop", "lena"], "--crop is 'lena'; expected IMAGE:TOP,LEFT,SIZE"),
        (["{a}", "--crop", "lena:0,0,9"], "expected the name of an image in --images"),
    ],
)
def test_errors_are_one_line(arguments, message, weights, images, tmp_path, monkeypatch, capsys):
    names = {"a": weights / "a.safetensors", "b": weights / "b.safetensors"}
    names |= {"empty": tmp_path / "empty", "misfit": tmp_path / "m.safetensors"}
    names |= {"text": tmp_path / "t.safetensors"}
    names["empty"].mkdir()
    names["text"].write_text("no weights")
    variables, _ = load_weights(names["a"])
    save_weights(names["misfit"], variables, {"model": TINY | {"depth": 4}})
    arguments = [text.format(**names) for text in arguments]
    if "--images" not in arguments:
        arguments += ["--images", str(images)]
    output = tmp_path / "out"
    assert run("compare", *arguments, "-o", output, monkeypatch=monkeypatch) in (1, 2)
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not output.exists()


def test_exact_reproduction_leaves_valid_json(weights, tmp_path, no_profiles):
    """A flat image has infinite PSNR: null in the record, and read back as infinite."""
    folder = tmp_path / "flat"
    folder.mkdir()
    Image.new("L", (32, 32), 128).save(folder / "flat.png")
    entries = [comparison.parse_entry(f"A={weights / 'a.safetensors'}", [10])]
    folders = [comparison.parse_folder(str(folder))]
    path = tmp_path / "m.json"
    first, second = (
        comparison.compare(entries, folders, [10], comparison.MeasurementCache(path))
        for _ in range(2)
    )
    assert first == second
    json.loads(path.read_text(), parse_constant=pytest.fail)
    row = first["tables"][0]["rows"][0]
    assert row["measured"]["psnr"] == math.inf
    written = json.loads(comparison.to_json(first), parse_constant=pytest.fail)
    assert written["tables"][0]["rows"][0]["measured"]["psnr"] is None
    gain = first["tables"][0]["rows"][1]["gain"]
    assert all(map(math.isfinite, gain.values()))


def test_a_broken_record_is_named(tmp_path):
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(ValueError, match="is not a record of measurements"):
        comparison.MeasurementCache(tmp_path / "m.json")


def test_the_bootstrap_is_scipys(rng):
    differences = rng.normal(1.4, 0.5, 29)
    ours = metrics.bootstrap(differences)
    theirs = scipy.stats.bootstrap(
        (differences,), np.mean, n_resamples=10_000, method="percentile", rng=1
    ).confidence_interval
    assert ours["mean"] == pytest.approx(differences.mean())
    assert ours["low"] == pytest.approx(theirs.low, abs=0.01)
    assert ours["high"] == pytest.approx(theirs.high, abs=0.01)
    assert metrics.bootstrap([0.5] * 4) == {"mean": 0.5, "low": 0.5, "high": 0.5}


def test_published_figures_are_plausible():
    assert set(paper_results.SYSTEMS) <= set(MODELS)
    for figures in paper_results.DMCNN_PAPER.values():
        for psnr, ssim, psnr_b in figures.values():
            assert 25 < psnr_b < psnr < 33 and 0.7 < ssim < 0.91
        assert max(figures, key=figures.get) == "DMCNN"
    for key, figures in paper_results.LATER_PAPERS.items():
        values = list(figures.values())
        assert values == sorted(values)
        for system in figures.keys() & paper_results.DMCNN_PAPER.get(key, {}).keys():
            assert 0.03 < paper_results.DMCNN_PAPER[key][system][0] - figures[system][0] < 0.18


def test_crops_are_of_one_place(weights, images):
    entries = [comparison.parse_entry(f"A={weights / 'a.safetensors'}", [10])]
    path = images / "camera.png"
    pictures = comparison.make_crops(entries, path, 10, 8, 16, 24)
    assert list(pictures) == ["original", "JPEG", "A"]
    assert all(p.shape == (24, 24) and p.dtype == np.uint8 for p in pictures.values())
    whole = comparison.make_crops(entries, path, 10, 0, 0, 1000)
    for label, picture in pictures.items():
        np.testing.assert_array_equal(picture, whole[label][8:32, 16:40])


# The importer of DnCNN-3.


def write_mat(path, kernels, biases, kinds=None):
    """A MATLAB v7.3 file as MatConvNet leaves it: axes reversed, trailing ones dropped."""
    with h5py.File(path, "w") as file:
        references = file.create_group("#refs#")
        layers = []
        for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            layer = references.create_group(f"conv{i}")
            layer["type"] = np.array([[ord(c)] for c in (kinds or {}).get(i, "conv")], np.uint16)
            stored = kernel.transpose(3, 2, 1, 0)
            weights = [stored[0] if kernel.shape[3] == 1 else stored, bias[None]]
            cells = [references.create_dataset(f"w{i}{j}", data=w) for j, w in enumerate(weights)]
            cell = layer.create_dataset("weights", (2, 1), h5py.ref_dtype)
            cell[:, 0] = [c.ref for c in cells]
            layers.append(layer.ref)
            if i < len(kernels) - 1:
                relu = references.create_group(f"relu{i}")
                relu["type"] = np.array([[ord(c)] for c in "relu"], np.uint16)
                layers.append(relu.ref)
        cell = file.create_dataset("net/layers", (len(layers), 1), h5py.ref_dtype)
        cell[:, 0] = layers


def random_layers(rng, channels=(1, 5, 5, 1)):
    pairs = list(itertools.pairwise(channels))
    kernels = [rng.normal(size=(3, 3, *pair)).astype(np.float32) for pair in pairs]
    return kernels, [rng.normal(size=pair[1]).astype(np.float32) for pair in pairs]


def test_matconvnets_axes(tmp_path, rng):
    kernels, biases = random_layers(rng)
    write_mat(tmp_path / "net.mat", kernels, biases)
    variables, config = read_dncnn(tmp_path / "net.mat")
    assert config == {"name": "dncnn", "features": 5, "depth": 3, "batch_norm": False}
    check_variables(create_model(config), variables, "test")
    for i in range(3):
        np.testing.assert_array_equal(variables["params"][f"conv{i + 1}"]["kernel"], kernels[i])
        np.testing.assert_array_equal(variables["params"][f"conv{i + 1}"]["bias"], biases[i])


def test_the_importers_command(tmp_path, rng, monkeypatch, capsys):
    write_mat(tmp_path / "net.mat", *random_layers(rng))
    output = tmp_path / "net.safetensors"
    run("import_dncnn3", tmp_path / "net.mat", "-o", output, monkeypatch=monkeypatch)
    model = load(output)
    assert model.module.depth == 3 and model.about["quality_range"] == [5, 99]
    assert f"{45 + 5 + 225 + 5 + 45 + 1:,} weights" in capsys.readouterr().out


def test_files_that_are_no_dncnn(tmp_path, rng, monkeypatch, capsys):
    with pytest.raises(FileNotFoundError, match=r"no file .*none.mat"):
        read_dncnn(tmp_path / "none.mat")
    (tmp_path / "text.mat").write_text("MATLAB 5.0 MAT-file")
    with pytest.raises(ValueError, match=r"is not a MATLAB v7\.3 file"):
        read_dncnn(tmp_path / "text.mat")
    with h5py.File(tmp_path / "empty.mat", "w"):
        pass
    with pytest.raises(ValueError, match=r"holds no 'net.layers'"):
        read_dncnn(tmp_path / "empty.mat")
    with h5py.File(tmp_path / "numbers.mat", "w") as file:
        file["net/layers"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"its 'net.layers' are no layers of MatConvNet"):
        read_dncnn(tmp_path / "numbers.mat")
    write_mat(tmp_path / "pool.mat", *random_layers(rng), kinds={1: "pool"})
    with pytest.raises(ValueError, match="has layers conv, relu, pool"):
        read_dncnn(tmp_path / "pool.mat")
    write_mat(tmp_path / "wide.mat", *random_layers(rng, (1, 5, 6, 1)))
    with pytest.raises(ValueError, match=r"conv2 of \(3, 3, 5, 6\); expected \(3, 3, 5, 5\)"):
        read_dncnn(tmp_path / "wide.mat")
    assert run("import_dncnn3", tmp_path / "none.mat", monkeypatch=monkeypatch) == 1
    error = capsys.readouterr().err
    assert "no file" in error and error.count("\n") == 1


def test_dncnn3_is_the_published_network(dncnn3):
    model = load(dncnn3)
    assert sum(x.size for x in jax.tree.leaves(model.variables)) == 665_921
    assert model.module == create_model({"name": "dncnn", "batch_norm": False})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quality", "expected"),
    [(10, (29.195, 0.8262, 0.8123, 28.90)), (20, (31.589, 0.8936, 0.8802, 31.07))][: length(1, 2)],
)
def test_dncnn3_on_live1(dncnn3, live1, quality, expected):
    from dmcnn_jax.evaluation.protocol import evaluate_folder

    mean = evaluate_folder(load(dncnn3), live1[0].parent, quality)["mean"]["model"]
    for measure, value in zip(("psnr", "ssim", "ssim_gauss", "psnr_b"), expected, strict=True):
        tolerance = 0.0005 if measure.startswith("ssim") else 0.005
        assert math.isclose(mean[measure], value, abs_tol=tolerance + 1e-9), measure


@pytest.mark.slow
@pytest.mark.parametrize("quality", [10, 20])
def test_jpeg_rows_on_live1_are_the_papers(live1, quality, tmp_path):
    folders = [comparison.parse_folder(f"LIVE1={live1[0].parent}")]
    results = comparison.compare(
        [], folders, [quality], comparison.MeasurementCache(tmp_path / "m.json")
    )
    row = results["tables"][0]["rows"][0]
    psnr, ssim, psnr_b = row["paper"]
    assert round(row["measured"]["psnr"], 2) == psnr
    assert round(row["measured"]["ssim"], 3) == ssim
    assert round(row["measured"]["psnr_b"], 2) == psnr_b
