"""The package as a whole: what it says of itself, what importing it costs."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import command

import dmcnn_jax
from dmcnn_jax import __main__ as overview

ROOT = Path(__file__).parents[1]
COMMANDS = ("banding", "compare", "evaluate", "gallery", "restore")


def python(*arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_importing_it_imports_nothing_else():
    """So that it takes milliseconds: JAX comes when it is first asked for something."""
    heavy = ("jax", "flax", "numpy", "PIL", "optax", "orbax", "tensorflow", "ml_collections")
    loaded = python("-c", "import sys, dmcnn_jax; print(*sys.modules)").split()
    assert "dmcnn_jax" in loaded and not set(heavy) & set(loaded)
    assert sum(name.startswith("dmcnn_jax") for name in loaded) == 2  # itself, and its version


def test_the_overview():
    shown = python("-m", "dmcnn_jax", "--no-devices")
    assert f"dmcnn_jax {dmcnn_jax.__version__}" in shown
    for path in (ROOT / "dmcnn_jax" / "weights").glob("*.safetensors"):
        (line,) = (line for line in shown.splitlines() if line.split()[:1] == [path.stem])
        assert line.endswith(".") and "MB" in line
    assert importlib.metadata.version("jax") in shown
    assert python("-m", "dmcnn_jax", "--version") == f"dmcnn_jax {dmcnn_jax.__version__}\n"


def test_the_overview_names_devices(capsys):
    assert overview.main([]) == 0
    assert "devices: " in capsys.readouterr().out


def test_the_overview_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(overview.importlib.util, "find_spec", lambda name: None)
    overview.main(["--no-devices"])
    assert 'needs: pip install "dmcnn-jax[train]"' in capsys.readouterr().out


def test_commands_of_the_overview_are_there():
    for words, *_ in overview._COMMANDS:
        if words.startswith("python -m "):
            file = words.split()[2].replace(".", "/") + ".py"
        else:
            file = f"dmcnn_jax/cli/{words.split()[0].removeprefix('dmcnn-')}.py"
        assert (ROOT / file).is_file(), words


def test_the_version_stands_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+", dmcnn_jax.__version__)
    wanted = dmcnn_jax.__version__
    for path in ("setup.cfg", "pyproject.toml", "setup.py", "CITATION.cff", "README.md"):
        assert f"version = {wanted}" not in (ROOT / path).read_text(), path
    assert wanted in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("name", [f"dmcnn-{n}" for n in COMMANDS])
def test_help_teaches_by_example(name):
    usage, _, examples = python(*command(name)[1:], "--help").partition("\nexample")
    assert name in usage and name in examples


def test_help_of_training_teaches_by_example():
    pytest.importorskip("ml_collections", reason="ml_collections is not installed: extra 'train'")
    from dmcnn_jax import main

    assert "python -m dmcnn_jax.main --config configs/qf20.py" in main.__doc__
    assert "--mode=evaluate" in main.__doc__
