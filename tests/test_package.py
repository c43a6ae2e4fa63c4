"""The package as a whole: what it says of itself, what importing it costs."""

import configparser
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
from dmcnn_jax.cli import process

ROOT = Path(__file__).parents[1]
setup = configparser.ConfigParser()
setup.read(ROOT / "setup.cfg")
SCRIPTS = dict(
    map(str.strip, line.split("="))
    for line in setup["options.entry_points"]["console_scripts"].strip().splitlines()
)


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


def test_the_overview_and_setup_name_the_same_commands():
    listed = {entry.words.split()[0] for entry in overview.COMMANDS}
    assert listed == {*SCRIPTS, "python"}
    for words in (entry.words for entry in overview.COMMANDS):
        if words.startswith("python -m "):
            assert (ROOT / f"{words.split()[2].replace('.', '/')}.py").is_file(), words
    # Every extra named there is one of setup.cfg.
    extras = {entry.extra for entry in overview.COMMANDS if entry.extra}
    assert extras <= set(setup["options.extras_require"])


def test_the_overview_lists_every_command(capsys):
    assert overview.main(["--no-devices"]) == 0
    shown = capsys.readouterr().out
    for name in (*SCRIPTS, "python -m dmcnn_jax.main"):
        assert f"  {name}" in shown


def test_the_version_stands_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+", dmcnn_jax.__version__)
    wanted = dmcnn_jax.__version__
    for path in ("setup.cfg", "pyproject.toml", "setup.py", "CITATION.cff", "README.md"):
        assert f"version = {wanted}" not in (ROOT / path).read_text(), path
    assert wanted in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_commands_know_their_version_without_jax(name):
    module, function = SCRIPTS[name].split(":")
    code = f"""
import sys, {module}
try:
    {module}.{function}(["--version"])
finally:
    print(*(x for x in ("jax", "numpy", "PIL") if x in sys.modules))
"""
    assert python("-c", code).splitlines() == [f"{name} {dmcnn_jax.__version__}", ""]


def test_choices_of_the_commands_are_those_of_the_library():
    """The parsers repeat them, so that they need not import JAX."""
    from dmcnn_jax.cli import evaluate, restore_arguments
    from dmcnn_jax.evaluation.color_protocol import SUBSAMPLING
    from dmcnn_jax.inference.model import ENGINES
    from dmcnn_jax.restoration.options import SIZES

    def choices(module, name):
        (action,) = (a for a in module.make_parser()._actions if a.dest == name)
        return tuple(action.choices)

    assert choices(restore_arguments, "engine") == choices(evaluate, "engine") == ENGINES
    assert choices(restore_arguments, "size") == SIZES
    assert choices(evaluate, "subsampling") == SUBSAMPLING


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (lambda: None, 0, ""),
        (lambda: 7, 7, ""),
        (ValueError("no\nsuch   thing"), 1, "dmcnn-x: no such thing\n"),
        (FileNotFoundError(2, "No such file", "a.jpg"), 1, "dmcnn-x: a.jpg: No such file\n"),
        (process.UsageError("x is 1; expected 2"), 2, "dmcnn-x: x is 1; expected 2\n"),
        (KeyboardInterrupt(), 130, "dmcnn-x: interrupted\n"),
        (KeyboardInterrupt("stopped at step 3"), 130, "dmcnn-x: stopped at step 3\n"),
        (ValueError(), 1, "dmcnn-x: ValueError\n"),
    ],
)
def test_errors_become_a_line_and_a_status(body, status, message, capsys):
    def fail():
        raise body

    assert process.run_command("dmcnn-x", body if callable(body) else fail) == status
    assert capsys.readouterr().err == message


def test_mistakes_in_arguments_are_a_line_and_a_pointer(capsys):
    with pytest.raises(SystemExit) as caught:
        process.command_parser("dmcnn-x", None).parse_args(["--strenght", "1"])
    assert caught.value.code == 2
    expected = "dmcnn-x: unrecognized arguments: --strenght 1; see dmcnn-x --help\n"
    assert capsys.readouterr().err == expected


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        process.run_command("dmcnn-x", lambda: 1 // 0)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_teaches_by_example(name):
    usage, _, examples = python(*command(name)[1:], "--help").partition("\nexample")
    assert name in usage and name in examples


def test_help_of_training_teaches_by_example():
    pytest.importorskip("ml_collections", reason="ml_collections is not installed: extra 'train'")
    from dmcnn_jax import main

    assert "python -m dmcnn_jax.main --config configs/qf20.py" in main.__doc__
    assert "--mode=evaluate" in main.__doc__
