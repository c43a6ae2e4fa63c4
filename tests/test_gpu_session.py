"""Sessions on a GPU: what travels, the check of the machine, and runs by the clock."""

import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import types

import jax
import numpy as np
import pytest
from PIL import Image
from runs import CHECKOUT, CONFIG, read_log, write_images

from dmcnn_jax import jpeg
from dmcnn_jax.config import default_config, files
from dmcnn_jax.data import feeds, graphics, reduced_copies, rescaled
from dmcnn_jax.data import images as data_images
from dmcnn_jax.inference.weights import load_weights
from dmcnn_jax.system import devices
from dmcnn_jax.training import convolution_probe, machine_check, timed_runs


def command(folder, *arguments):
    return subprocess.run(
        [sys.executable, CHECKOUT / "tools/gpu_session.py", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(CHECKOUT), "PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def train(folder, *arguments):
    return command(folder, "train", "--source", "images", "-o", "out", *arguments)


def write_configs(folder):
    """Two configurations, the second of which starts from the weights of the first."""
    text = CONFIG.replace("checkpoint_every = 4", "checkpoint_every = 0")
    (folder / "first.py").write_text(text.replace('"tiny"', '"first"'))
    second = text.replace('"tiny"', '"second"').replace(
        "config.quality = 10", 'config.quality = 20\n    config.init_from = "runs/first"'
    )
    (folder / "second.py").write_text(second)


@pytest.mark.slow
def test_a_session(tmp_path):
    write_images(tmp_path / "images")
    write_configs(tmp_path)
    arguments = ["first.py:0.02", "second.py:0.01", "--set", "train.learning_rate=1e-4"]
    arguments += ["--runs-in", "elsewhere"]
    done = train(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    # Both networks are the same, and quality isn't part of a program.
    assert "compiled 2 steps" in done.stdout
    about = json.loads((tmp_path / "out/check.json").read_text())
    assert about["codec"] == machine_check.CODEC_DIGEST
    assert about["gradients"] < machine_check.GRADIENT_TOLERANCE
    assert [step["patch"] for step in about["steps"]] == [16, 24]
    assert all(step["rate"] > 0 and step["flops"] > 0 for step in about["steps"])
    for name in ("first", "second"):
        variables, about = load_weights(tmp_path / "out" / f"{name}.safetensors")
        assert about["name"] == name and variables["params"]
        log = read_log(tmp_path / "elsewhere" / name)
        with (tmp_path / "out" / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        gains = [float(row["validation_gain"]) for row in rows if row["validation_gain"]]
        np.testing.assert_allclose(
            gains, [r["validation"]["gain"] for r in log if "validation" in r], rtol=1e-5
        )
        losses = [float(row["loss"]) for row in rows if row["loss"]]
        np.testing.assert_allclose(losses, [r["loss"] for r in log if "loss" in r], rtol=1e-5)
        assert float(rows[0]["learning_rate"]) <= 1e-4
    again = train(tmp_path, *arguments, "--no-check")
    assert again.returncode == 0, again.stderr
    assert read_log(tmp_path / "elsewhere/second") == log


@pytest.mark.slow
def test_a_slow_machine_is_not_trained_on(tmp_path):
    write_images(tmp_path / "images")
    write_configs(tmp_path)
    done = train(tmp_path, "first.py:9", "--min-rate", "1e6")
    assert done.returncode == 1
    assert "expected at least --min-rate 1e+06" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "runs/first/log.jsonl").exists()


def test_a_check_that_takes_too_long_ends_the_session(tmp_path):
    write_images(tmp_path / "images")
    write_configs(tmp_path)
    done = train(tmp_path, "first.py:9", "--check-limit", "0.1")
    assert done.returncode == 1
    assert "has taken --check-limit 0.1 s" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


PYTHON = sys.executable

# What the probe's process prints for each way; called with the ways that are left.
PROBE = """#!{python}
import json, sys, time
assert sys.argv[1:3] == ["-m", "dmcnn_jax.training.convolution_probe"]
good = {{"backend": "gpu", "rate": 3e13, "layers": "1.0", "compile": 4.0, "difference": 1e-3}}
results = {results}
for way in sys.argv[3:]:
    found = results[way]
    if found == "waits":
        time.sleep(60)
    if found == "crashes":
        sys.exit("no such kernel")
    print("noise")
    print(json.dumps(good | {{"way": way, "kernels": "cudnn"}} | found), flush=True)
"""


def probed(tmp_path, monkeypatch, limit=75, **results):
    """Probes with a process that gives these results; returns the way and the lines printed."""
    script = tmp_path / "python"
    results = {way: results.get(way.replace("-", "_"), "crashes") for way in convolution_probe.WAYS}
    script.write_text(PROBE.format(python=PYTHON, results=results))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(convolution_probe, "_START", 2)
    lines = []
    return convolution_probe.probe(lines.append, timeout=2, limit=limit), lines


def test_the_fastest_way_of_convolutions_is_found(tmp_path, monkeypatch):
    """A way that crashes or takes too long costs only itself."""
    way, lines = probed(
        tmp_path, monkeypatch, products="waits", convolutions={}, convolutions_tuned={"rate": 2e13}
    )
    assert way == "convolutions"
    assert lines == [
        "products: not measured in time",
        "convolutions: 30.0 TFLOP a second (1.0), compiled in 4.0 s, by cudnn",
        "convolutions-fused: its process ended (no such kernel)",
        "convolutions-tuned: 20.0 TFLOP a second (1.0), compiled in 4.0 s, by cudnn",
    ]


def test_wrong_and_slowly_compiled_convolutions_are_refused(tmp_path, monkeypatch):
    way, lines = probed(
        tmp_path,
        monkeypatch,
        products={},
        convolutions={"rate": 9e14, "difference": 0.5},
        convolutions_fused={"rate": 9e14, "compile": 30},
        convolutions_tuned={"failed": "failed (no such plan)"},
    )
    assert way == "products"
    assert lines[1].endswith("refused: its results differ by 5.0e-01")
    assert lines[2].endswith("refused: a training step would take minutes to compile")
    assert lines[3] == "convolutions-tuned: failed (no such plan)"
    way, lines = probed(tmp_path, monkeypatch, products={"rate": 9e14})
    assert way == "products" and len(lines) == 1  # good enough
    assert probed(tmp_path, monkeypatch)[0] == "products"  # the safest
    slow = {"products": {"compile": 30}, "convolutions": {"compile": 20}}
    assert probed(tmp_path, monkeypatch, **slow)[0] == "convolutions"
    with pytest.raises(RuntimeError, match="JAX finds no GPU"):
        probed(tmp_path, monkeypatch, products={"backend": "cpu"})


def test_time_is_limited_for_all_ways_together(tmp_path, monkeypatch):
    way, lines = probed(tmp_path, monkeypatch, limit=1, products="waits", convolutions={})
    assert way == "products"
    assert lines[0] == "products: not measured in time"
    assert lines[1:] == [
        f"{way}: not tried, since the time is over"
        for way in ("convolutions", "convolutions-fused", "convolutions-tuned")
    ]


@pytest.mark.slow
def test_ways_are_measured_in_another_process():
    ways = ["products", "convolutions"]
    command = [sys.executable, "-m", "dmcnn_jax.training.convolution_probe", *ways]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["way"] for result in found] == ways
    for result in found:
        assert result["rate"] > 0 and result["compile"] > 0 and result["layers"].count(",") == 2
        assert result["difference"] == 0  # CPUs have one way
    assert convolution_probe.flags("products") == (
        "--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0"
    )


def load_tool():
    path = CHECKOUT / "tools/gpu_session.py"
    spec = importlib.util.spec_from_file_location("gpu_session", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_failed_or_slow_check_starts_again_by_products(capsys):
    tool, begun = load_tool(), []

    def restart():
        begun.append(True)
        raise SystemExit  # as if the process were replaced

    with pytest.raises(SystemExit), tool._limited(60, restart):
        raise RuntimeError("no such plan")
    assert begun and "no such plan" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="no such plan"), tool._limited(60, None):
        raise RuntimeError("no such plan")
    begun.clear()
    with tool._limited(0.01, lambda: begun.append(True) or threading.Event().wait()):
        deadline = time.monotonic() + 20
        while not begun and time.monotonic() < deadline:
            time.sleep(0.01)
    assert begun


def test_a_restart_is_the_same_command(tmp_path, monkeypatch):
    """A machine whose fastest way fails in the check; a script plays `nvidia-smi`."""
    write_images(tmp_path / "images")
    write_configs(tmp_path)
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    (tmp_path / "sitecustomize.py").write_text(
        "from dmcnn_jax.training import convolution_probe\n"
        "convolution_probe.probe = lambda write: 'convolutions-tuned'\n"
    )
    arguments = ["--source", "images", "-o", "out", "--check-limit", "0.1", "first.py:9"]
    done = subprocess.run(
        [sys.executable, CHECKOUT / "tools/gpu_session.py", "train", *arguments],
        cwd=tmp_path,
        env={
            "PYTHONPATH": f"{tmp_path}:{CHECKOUT}",
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "XLA_FLAGS": "--xla_gpu_autotune_level=3",
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 1
    assert "starting again with --convolutions products" in done.stdout
    # The second attempt takes too long as well, and there is no third.
    assert done.stderr.count("has taken --check-limit 0.1 s") == 2


def test_runs_end_before_the_session_does(tmp_path, monkeypatch, capsys):
    tool, given = load_tool(), []

    def run(config, minutes, output):
        given.append((config.name, minutes))
        if config.name == "b":
            raise FloatingPointError("the loss is nan at step 7")
        return output / f"{config.name}.safetensors"

    monkeypatch.setattr(timed_runs, "run", run)
    monkeypatch.setattr(tool.time, "monotonic", lambda: 1100.0)
    plan = []
    for name, minutes in (("a", 4), ("b", 2), ("c", 6)):
        config = default_config()
        config.name = name
        plan.append((config, minutes))
    options = types.SimpleNamespace(until=505.0, output=tmp_path)
    # 100 s have passed; each run takes 15 s besides its minutes. The first failure is no reason to
    # end.
    assert tool._run_all(plan, options, 1000.0) == 1
    assert given == [
        ("a", pytest.approx(360 / 60 * 4 / 12)),
        ("b", pytest.approx(375 / 60 * 2 / 8)),
        ("c", pytest.approx(6)),
    ]
    assert "b: the loss is nan at step 7" in capsys.readouterr().err
    given.clear()
    options.until = 50.0
    assert tool._run_all(plan, options, 1000.0) == 1
    assert not given and "a: --until 50 leaves no time" in capsys.readouterr().err
    options.until = None
    assert tool._run_all(plan[:1], options, 1000.0) == 0
    assert given == [("a", 4)]


def test_what_travels_is_read_back(tmp_path):
    write_images(tmp_path / "images", count=6, side=80)
    write_images(tmp_path / "images/small", count=1, side=40)
    pack = ["pack", "images", "-o", "copies", "--shortest", "48", "--scales", "0.5", "0.9"]
    done = command(tmp_path, *pack, "--validation", "2", "--graphics", "3")
    assert done.returncode == 0, done.stderr
    assert "6 photographs and 3 drawings" in done.stdout and "1 smaller than 48" in done.stdout
    assert "MiB travel: copies 0." in done.stdout
    colour, luma = default_config(), default_config()
    colour.data.luma = "rgb"
    for config, names in ((colour, 4 + 3), (luma, 4)):
        reduced_copies.use_copies(config.data, tmp_path / "copies", 48)
        mesh = devices.make_mesh()
        feed, validation = feeds.open_data(config, mesh)
        assert f"of {names} images" in str(feed)
        assert len(validation.names) == 2 and validation.side == 48
    # A drawing is stored without loss.
    stored = np.asarray(Image.open(tmp_path / "copies/training/graphics/00001.webp"))
    drawn = np.asarray(Image.open(graphics.Graphics(3, 96).open(1)))
    np.testing.assert_array_equal(stored, drawn)
    # A photograph is a reduced copy, nearly: 40 dB and more of a smooth picture with some noise.
    original = data_images.open_images(str(tmp_path / "images"))
    copy = rescaled.RescaledImages(original, copies=1, scales=(0.5, 0.9), shortest=48)
    numbers = [int(path.stem) for path in (tmp_path / "copies/training/photographs").iterdir()]
    for number in numbers:
        expected = data_images.read_rgb(copy.open(number)).astype(float)
        path = tmp_path / f"copies/training/photographs/{number:05}.avif"
        error = np.mean(np.square(data_images.read_rgb(path) - expected))
        assert error < 255**2 / 10**3.4
    again = command(tmp_path, *pack)
    assert again.returncode == 1 and "'copies' exists" in again.stderr
    assert len(again.stderr.strip().splitlines()) == 1


def test_photographs_that_cannot_be_read_are_left_out(tmp_path):
    write_images(tmp_path / "images", count=3, side=80)
    (tmp_path / "images/bad.png").write_bytes(b"bad")
    pack = ["pack", "images", "-o", "copies", "--graphics", "0", "--shortest"]
    done = command(tmp_path, *pack, "48", "--validation", "1")
    assert done.returncode == 0, done.stderr
    assert "3 photographs and 0 drawings" in done.stdout and "1 unreadable" in done.stdout
    shutil.rmtree(tmp_path / "copies")
    done = command(tmp_path, *pack, "96")
    assert done.returncode == 1
    assert "3 smaller than 96 pixels, 1 unreadable left out" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    done = command(tmp_path, *pack, "48", "--validation=-1")
    assert done.returncode == 2 and "--validation is -1; expected at least 1" in done.stderr


def test_too_much_to_travel_is_said(tmp_path):
    write_images(tmp_path / "images", count=2, side=64)
    arguments = ["images", "-o", "copies", "--shortest", "32", "--graphics", "0"]
    done = command(tmp_path, "pack", *arguments, "--limit", "0.1")
    assert done.returncode == 1
    assert "expected at most --limit 0.1" in done.stderr.splitlines()[-1]
    done = command(tmp_path, "pack", "images", "-o", "others", "--wheels", "nowhere")
    assert done.returncode == 2
    assert "--wheels is 'nowhere', which is no folder" in done.stderr
    assert not (tmp_path / "others").exists()


def test_the_codec_of_this_machine(monkeypatch):
    assert machine_check.codec_digest() == machine_check.CODEC_DIGEST
    decode = jpeg.decode
    monkeypatch.setattr(jpeg, "decode", lambda k, q: decode(k, q).at[50, 3, 3].add(1))
    assert machine_check.codec_digest() != machine_check.CODEC_DIGEST


@pytest.mark.slow
def test_gradients_of_this_machine(monkeypatch):
    assert machine_check.gradient_difference() < machine_check.GRADIENT_TOLERANCE
    right, calls = machine_check._gradients_on, []

    def wrong(device):
        calls.append(device)
        batch, gradients = right(device)
        return batch, jax.tree.map(lambda x: x * (1 + 0.02 * len(calls)), gradients)

    monkeypatch.setattr(machine_check, "_gradients_on", wrong)
    assert machine_check.gradient_difference() > machine_check.GRADIENT_TOLERANCE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["first.py"], "'first.py' is not CONFIG[:ARGUMENT]:MINUTES"),
        (["first.py:soon"], "'first.py:soon' is not CONFIG[:ARGUMENT]:MINUTES"),
        (["nowhere.py:1"], "there is no configuration 'nowhere.py'"),
        (["first.py:1"], "--source is 'images', which doesn't exist"),
        (["first.py:1", "--source", "."], "config.quality is 0; expected 1 to 100"),
        (["first.py:1", "second.py:1", "--source", ".", "--set", "quality=5"], "'runs/other'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, message):
    """Before anything is measured on the machine."""
    (tmp_path / "first.py").write_text(CONFIG.replace("quality = 10", "quality = 0"))
    other = CONFIG.replace('"tiny"', '"tiny"\n    config.init_from = "runs/other"')
    (tmp_path / "second.py").write_text(other)
    done = train(tmp_path, *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_fields_are_set():
    config = default_config()
    items = ["train.learning_rate=3e-3", "data.luma=full", "model.dilations=(1, 1, 1)"]
    files.set_fields(config, [*items, "model.depth=3"])
    assert (config.train.learning_rate, config.data.luma) == (3e-3, "full")
    assert (config.model.dilations, config.model.depth) == ((1, 1, 1), 3)
    for item, message in (
        ("train.lr=1", "'train.lr=1'; expected FIELD=VALUE"),
        ("train.learning_rate", "expected FIELD=VALUE"),
        ("train.learning_rate=fast", "'train.learning_rate=fast': "),
    ):
        with pytest.raises(ValueError, match=message):
            files.set_fields(config, [item])


def test_a_configuration_may_have_an_argument_before_the_minutes(tmp_path):
    for name, expected in (("arcnn.py:cpu", "arcnn-cpu"), ("arcnn.py", "arcnn")):
        assert files.load_config(str(CHECKOUT / "configs" / name)).name == expected
    with pytest.raises(ValueError, match=r"quickstart.py' takes no argument, but 'fast' follows"):
        files.load_config(str(CHECKOUT / "configs" / "quickstart.py:fast"))
    (tmp_path / "first.py").write_text(
        CONFIG.replace("get_config()", "get_config(kind)").replace('"tiny"', "kind")
    )
    # The argument arrives: the first mistake is that there are no such images.
    done = command(
        tmp_path, "train", "first.py:some:0.01", "--source", "nowhere", "-o", "out", "--no-check"
    )
    assert done.returncode == 1
    assert "'nowhere'" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_file_that_is_no_configuration(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"has no get_config\(\)"):
        files.load_config(str(tmp_path / "empty.py"))
