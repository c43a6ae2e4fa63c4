"""tools/average_weights.py: the mean of weights, and what can't be averaged."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from dmcnn_jax.inference.weights import load_weights, save_weights

TOOL = Path(__file__).parents[1] / "tools" / "average_weights.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True
    )


def test_the_mean(tmp_path, rng):
    values = rng.normal(size=(3, 2, 4)).astype(np.float32)
    about = {"model": {"name": "arcnn"}, "step": 5, "validation": {"psnr": 30.0}}
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path, kernel in zip(paths, values, strict=True):
        save_weights(path, {"params": {"conv1": {"kernel": kernel}}}, about)
    done = run(*paths, "-o", tmp_path / "mean.safetensors")
    assert done.returncode == 0, done.stderr
    variables, said = load_weights(tmp_path / "mean.safetensors")
    found = np.asarray(variables["params"]["conv1"]["kernel"])
    np.testing.assert_allclose(found, values.mean(axis=0), atol=1e-7)
    assert said["model"] == about["model"] and "validation" not in said


def test_other_networks_are_refused(tmp_path):
    paths = [tmp_path / f"{name}.safetensors" for name in ("arcnn", "tnrd")]
    for path in paths:
        save_weights(path, {"params": {"w": np.zeros(2, "f4")}}, {"model": {"name": path.stem}})
    done = run(*paths, "-o", tmp_path / "mean.safetensors")
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
    assert "is of another network than" in done.stderr
    assert not (tmp_path / "mean.safetensors").exists()
