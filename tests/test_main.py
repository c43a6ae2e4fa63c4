"""Mistakes on the command line are one line, before anything is begun."""

import importlib
import runpy
import signal
import subprocess
import sys

import jax
import pytest
from runs import CHECKOUT

from dmcnn_jax.cli import restore
from dmcnn_jax.cli.exit_signals import SIGNALS
from dmcnn_jax.version import __version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--config configs/quikstart.py", "did you mean configs/quickstart.py?"),
        ("--config configs/arcnn.py:soon", "dmcnn_jax: unknown budget 'soon'"),
        (
            "--config configs/quickstart.py --config.train.stage_step=1",
            "no field 'stage_step'; did you mean 'stage_steps'?",
        ),
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


def test_an_argument_that_a_configuration_does_not_take_is_one_line(capsys):
    main = pytest.importorskip("dmcnn_jax.main")
    with pytest.raises(SystemExit) as caught:
        main.parse_flags(["main", "--config=quickstart:more"])
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dmcnn_jax: ") and "quickstart.py' takes no argument" in line


def test_a_missing_configuration_is_one_line(capsys):
    main = pytest.importorskip("dmcnn_jax.main")
    with pytest.raises(SystemExit) as caught:
        main.parse_flags(["main"])
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dmcnn_jax: no --config; expected a file or a name")


@pytest.mark.parametrize("failure", [AssertionError(), RuntimeError("Unable to\ninitialize")])
def test_a_device_that_is_not_there_is_one_line(failure, tmp_path, monkeypatch, capsys):
    """JAX without its plugin for GPUs raises an AssertionError without a word."""

    def devices():
        raise failure

    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(jax, "devices", devices)
    assert restore.main([str(tmp_path), "-o", str(tmp_path), "--device", "cuda"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dmcnn-restore: --device cuda: JAX finds no such device")
    assert 'pip install "dmcnn-jax[cuda]"' in line


@pytest.fixture
def own_signals():
    """Brings back the signal handlers that a program replaced: a later interrupt is not for it."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize("name", ["absl", "ml_collections"])
def test_training_without_its_extra_is_one_line(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    line = f'dmcnn_jax: training needs {name}; pip install "dmcnn-jax[train]"'
    monkeypatch.delitem(sys.modules, "dmcnn_jax.main", raising=False)
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("dmcnn_jax.main", run_name="__main__")
    assert caught.value.code == line
    with pytest.raises(ImportError, match=f"training needs {name}"):
        importlib.import_module("dmcnn_jax.main")


@pytest.mark.parametrize(
    ("argument", "shown"), [("--help", "--helpfull"), ("--version", f"dmcnn_jax {__version__}\n")]
)
def test_help_and_version_are_no_failures(argument, shown, capsys):
    main = pytest.importorskip("dmcnn_jax.main")
    app = pytest.importorskip("absl.app")
    with pytest.raises(SystemExit) as caught:
        app.run(main.main, argv=["main", argument], flags_parser=main.parse_flags)
    assert caught.value.code == 0
    assert shown in capsys.readouterr().out


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
