"""Runs in a given time: their files, and that the same command resumes."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from runs import CHECKOUT, CONFIG, read_log, write_images

from dmcnn_jax.config import default_config, files
from dmcnn_jax.inference.weights import load_weights
from dmcnn_jax.training import timed_runs


def command(folder, *arguments):
    return subprocess.run(
        [sys.executable, CHECKOUT / "tools/campaign.py", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(CHECKOUT), "PATH": "", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
def test_a_campaign(tmp_path):
    write_images(tmp_path / "images")
    text = CONFIG.replace("checkpoint_every = 4", "checkpoint_every = 0")
    text = text.replace("log_every = 2", "log_every = 50")
    (tmp_path / "first.py").write_text(text.replace('"tiny"', '"first"'))
    second = text.replace('"tiny"', '"second"').replace(
        "config.quality = 10", 'config.quality = 20\n    config.init_from = "runs/first"'
    )
    (tmp_path / "second.py").write_text(second)
    arguments = ["first.py:0.02", "second.py:0.01", "--source", "images", "-o", "out"]
    done = command(tmp_path, *arguments, "--set", "train.learning_rate=1e-4")
    assert done.returncode == 0, done.stderr
    assert "million pixels" in done.stdout
    for name in ("first", "second"):
        variables, about = load_weights(tmp_path / "out" / f"{name}.safetensors")
        assert about["name"] == name and variables["params"]
        log = read_log(tmp_path / "runs" / name)
        with (tmp_path / "out" / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        gains = [float(row["validation_gain"]) for row in rows if row["validation_gain"]]
        np.testing.assert_allclose(
            gains, [r["validation"]["gain"] for r in log if "validation" in r], rtol=1e-5
        )
        losses = [float(row["loss"]) for row in rows if row["loss"]]
        np.testing.assert_allclose(losses, [r["loss"] for r in log if "loss" in r], rtol=1e-5)
        assert (tmp_path / "runs" / name / "campaign.json").exists()
        # The rate has come to the end of what was planned, not of what the file says.
        assert float(rows[0]["learning_rate"]) <= 1e-4
    again = command(tmp_path, *arguments, "--set", "train.learning_rate=1e-4")
    assert again.returncode == 0, again.stderr
    assert read_log(tmp_path / "runs/second") == log


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["first.py"], "'first.py' is not CONFIG[:ARGUMENT]:MINUTES"),
        (["first.py:soon"], "'first.py:soon' is not CONFIG[:ARGUMENT]:MINUTES"),
        (["nowhere.py:1"], "there is no configuration 'nowhere.py'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, message):
    (tmp_path / "first.py").write_text("")
    done = command(tmp_path, *arguments, "--source", "images", "-o", "out")
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


def test_a_run_of_other_minutes_is_refused(tmp_path):
    config = default_config()
    config.workdir = str(tmp_path)
    (tmp_path / "campaign.json").write_text('{"minutes": 8}')
    with pytest.raises(ValueError, match="was planned for 8 minutes, not 30"):
        timed_runs.run(config, 30, tmp_path / "out")


def test_a_configuration_may_have_an_argument_before_the_minutes(tmp_path):
    for name, expected in (("arcnn.py:cpu", "arcnn-cpu"), ("arcnn.py", "arcnn")):
        assert files.load_config(str(CHECKOUT / "configs" / name)).name == expected
    with pytest.raises(ValueError, match=r"quickstart.py' takes no argument, but 'fast' follows"):
        files.load_config(str(CHECKOUT / "configs" / "quickstart.py:fast"))
    (tmp_path / "first.py").write_text(
        CONFIG.replace("get_config()", "get_config(kind)").replace('"tiny"', "kind")
    )
    # The argument arrives: the first mistake is that there are no such images.
    done = command(tmp_path, "first.py:some:0.01", "--source", "nowhere", "-o", "out")
    assert done.returncode == 1
    assert "'nowhere'" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_file_that_is_no_configuration(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"has no get_config\(\)"):
        files.load_config(str(tmp_path / "empty.py"))
