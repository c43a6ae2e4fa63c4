"""Mistakes on the command line are one line, before anything is begun."""

import subprocess
import sys

import pytest
from runs import CHECKOUT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--config configs/none.py", "No such file or directory: 'configs/none.py'"),
        ("--config configs/arcnn.py:soon", "unknown budget 'soon'"),
        ("--config configs/quickstart.py --config.train.rate=1", "'rate'"),
        ("--config configs/quickstart.py --config.quality=high", "'high'"),
        ("--config configs/quickstart.py --config.quality=0 --mode=evaluate", "expected 1 to 100"),
        ("--config configs/quickstart.py --config.evaluate.images=none", "'none' is not a folder"),
        ("--config configs/quickstart.py --model=dmcnn", "Unknown command line flag 'model'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, message):
    command = [sys.executable, "-m", "dmcnn_jax.main", *arguments.split()]
    done = subprocess.run(
        [*command, "--workdir", tmp_path / "run"], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert message in done.stderr and done.stderr.startswith("dmcnn_jax: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_papers_switches_are_fields(tmp_path):
    """What the paper claims can be switched off from the command line."""
    code = (
        "from absl import app; from dmcnn_jax import main, models;"
        "show = lambda _: print(models.create_model(main.FLAGS.config.model));"
        "app.run(show, flags_parser=main.parse_flags)"
    )
    switches = "--config.model.dilations=(1,1,1) --config.model.rectifier=none"
    switches += " --config.model.learn_residual=False --config.model.dct_features=16"
    command = [sys.executable, "-c", code, "--config", "configs/qf20.py", *switches.split()]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for text in ("dilations = (1, 1, 1)", "rectifier = 'none'", "dct_features = 16"):
        assert text in done.stdout
