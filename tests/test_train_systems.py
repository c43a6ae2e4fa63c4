"""All systems trained for the same time: trials of optimizers, choices, and resuming."""

import json
import os
import shlex
import subprocess
import sys

import pytest
from runs import CHECKOUT, read_log, write_images


def command(folder, *arguments):
    return subprocess.run(
        [sys.executable, CHECKOUT / "tools/train_systems.py", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_the_best_optimizer_trains_from_the_start(tmp_path):
    write_images(tmp_path / "images", side=128)
    arguments = ["--source", "images", "-o", "out", "--systems", "ARCNN"]
    arguments += ["--minutes", "0.05", "--trial-minutes", "0.03"]
    arguments += ["--set", "data.tile=96", "--set", "data.validation_images=2"]
    done = command(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    choice = json.loads((tmp_path / "out/choices.json").read_text())["ARCNN"]
    assert set(choice["trials"]) == {"adam", "muon", "muon-3e-3", "own"}
    assert choice["trials"][choice["optimizer"]] == max(choice["trials"].values())
    name = f"arcnn-{choice['optimizer']}"
    log = read_log(tmp_path / "out/systems/runs" / f"{name}-0.05")
    # Another run than the trial's, and its rate ends at 0.
    assert len(log) != len(read_log(tmp_path / "out/trials/runs" / f"{name}-0.03"))
    assert (tmp_path / f"out/systems/{name}.safetensors").exists()
    assert f'dmcnn-compare "ARCNN=out/systems/{name}.safetensors"' in done.stdout
    again = command(tmp_path, *arguments)
    assert again.returncode == 0, again.stderr
    assert read_log(tmp_path / "out/systems/runs" / f"{name}-0.05") == log
    assert "ARCNN: trained already" in again.stdout


def test_trained_systems_need_only_their_weights_and_choices(tmp_path):
    """As if their runs were left on another machine."""
    write_images(tmp_path / "images", side=128)
    (tmp_path / "out/systems").mkdir(parents=True)
    (tmp_path / "out/systems/tnrd-adam.safetensors").touch()
    choices = {
        "DMCNN, half width": {"optimizer": "adam", "minutes": 40},
        "DMCNN": {"optimizer": "muon", "minutes": 40},
        "TNRD": {"optimizer": "adam", "minutes": 40},
    }
    (tmp_path / "out/choices.json").write_text(json.dumps(choices))
    done = command(tmp_path, "--source", "images", "-o", "out", "--systems", "TNRD")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "TNRD: trained already",
        'dmcnn-compare "TNRD=out/systems/tnrd-adam.safetensors" '
        '"DMCNN=out/systems/dmcnn-muon.safetensors" '
        '"DMCNN, half width=out/systems/dmcnn_half_width-adam.safetensors" '
        "--images LIVE1=FOLDER --qualities 10",
    ]
    # An entry's label ends at the first "=".
    entries = [text for text in shlex.split(done.stdout) if text.endswith(".safetensors")]
    assert {entry.partition("=")[0] for entry in entries} == {*choices}


def test_mistakes_are_one_line(tmp_path):
    done = command(tmp_path, "--source", "images", "-o", "out", "--minutes", "0")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        "train_systems: --minutes is 0, --trial-minutes 5; expected positive numbers"
    ]
