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
