"""Signals: a command ends by a KeyboardInterrupt, at a moment at which nothing breaks."""

import importlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from dmcnn_jax.cli.interrupts import signals_as_interrupt
from dmcnn_jax.training.progress import catch_stop_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_imports_are_not_interrupted_but_what_follows_is(tmp_path, monkeypatch, number):
    (tmp_path / "slow_module.py").write_text(
        f"import os; os.kill(os.getpid(), {int(number)}); done = True"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("slow_module", None)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), signals_as_interrupt(""):
        assert importlib.import_module("slow_module").done
        time.sleep(10)
        raise AssertionError("not interrupted")
    assert signal.getsignal(number) == before


def test_ignored_signals_stay_ignored():
    """As nohup wants it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_as_interrupt(""):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_training_stops_at_the_end_of_its_terminal_unless_it_is_to_go_on(handler, capfd):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with catch_stop_signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
        assert received == ([signal.SIGHUP] if handler is signal.SIG_DFL else [])
        assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


COMMANDS = {
    "archive": ["run", "cleaned"],
    "banding": ["dmcnn-qf10"],
    "compare": ["--images", "photos"],
    "evaluate": ["--images", "photos", "--quality", "10"],
    "gallery": ["a.jpg", "b.png"],
    "plots": ["runs/a", "-o", "a.png"],
    "restore": ["a.jpg"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_ends_after_its_imports_with_a_line(tmp_path, monkeypatch, capsys, name):
    (tmp_path / "slow_module.py").write_text("import os; os.kill(os.getpid(), 2); done = True")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("slow_module", None)
    command = importlib.import_module(f"dmcnn_jax.cli.{name}")

    def run(options):
        assert importlib.import_module("slow_module").done
        time.sleep(10)

    monkeypatch.setattr(command, "_run", run)
    assert command.main(COMMANDS[name]) == 130
    # An import that is interrupted leaves no module, and crashes some libraries.
    assert "slow_module" in sys.modules
    assert capsys.readouterr().err.startswith(f"dmcnn-{name.removesuffix('s')}: interrupted")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_training_ends_with_a_line_while_it_imports_jax(tmp_path, number):
    (tmp_path / "jax.py").write_text(f"import os; os.kill(os.getpid(), {int(number)})")
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "dmcnn_jax.main"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, "\ndmcnn_jax: interrupted\n")


def test_a_second_signal_ends_the_process_at_once_and_leaves_nothing(tmp_path):
    script = """
        import os, signal, sys
        from dmcnn_jax.cli.interrupts import signals_as_interrupt
        from dmcnn_jax.system.atomic_write import replacing
        with signals_as_interrupt("last words"), replacing(sys.argv[1]) as file:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except KeyboardInterrupt:
                os.kill(os.getpid(), signal.SIGHUP)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "a")]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (130, "\nlast words\n")
    assert not list(tmp_path.iterdir())
