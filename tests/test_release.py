"""tools/release_weights.py: scores of other weights don't get onto a card."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from dmcnn_jax.inference.weights import save_weights
from dmcnn_jax.system.bundled import BUNDLED

TOOL = Path(__file__).parents[1] / "tools" / "release_weights.py"


def test_scores_of_other_weights_are_refused(tmp_path):
    weights, scores = tmp_path / "mine.safetensors", tmp_path / "results.json"
    about = {"model": {"name": "arcnn"}, "step": 5, "validation": {"psnr": 30.0, "gain": 1.0}}
    save_weights(weights, {"params": {"conv1": {"kernel": np.ones((2, 4), np.float32)}}}, about)
    for measured in ("dmcnn-small-qf10", str(tmp_path / "none.safetensors")):
        scores.write_text(json.dumps({"model": measured}))
        texts = ("--purpose", "p", "--data", "d", "--hardware", "h", "--command", "c")
        command = [sys.executable, TOOL, weights, "never-bundled", *texts, "--scores", scores]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode != 0
        assert len(done.stderr.splitlines()) == 1 and repr(measured) in done.stderr
        assert not list(BUNDLED.glob("never-bundled*"))
