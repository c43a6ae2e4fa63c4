"""Only one command trains in a workdir; another is refused, and touches nothing."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import command, environment, load_config, start, write_images

from dmcnn_jax.inference.weights import find_weights
from dmcnn_jax.training import workdir_lock
from dmcnn_jax.training.loop import train
from dmcnn_jax.training.workdir_lock import NAME, WorkdirInUseError, WorkdirLock

# The module alone, without JAX, in a process of its own.
HOLDER = """
import pathlib, runpy, sys, time
lock = runpy.run_path(sys.argv[1])["WorkdirLock"](pathlib.Path(sys.argv[2]))
print("locked", flush=True)
time.sleep(60)
"""


def hold(workdir):
    arguments = [sys.executable, "-c", HOLDER, workdir_lock.__file__, str(workdir)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    return process


def snapshot(folder):
    return {
        path.relative_to(folder): (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in folder.rglob("*")
    }


def test_a_second_run_is_refused_by_the_name_of_the_first_and_touches_nothing(tmp_path):
    workdir = tmp_path / "run"
    # What another run is writing, and would be killed by the loss of.
    half = workdir / "checkpoints" / "7.orbax-checkpoint-tmp" / "arrays"
    half.mkdir(parents=True)
    (half / "manifest.ocdbt").write_bytes(b"half")
    (workdir / "best.safetensors").write_bytes(b"weights")
    write_images(tmp_path / "images", count=1)
    config = load_config(**{"data.source": str(tmp_path / "images")})
    process = hold(workdir)
    try:
        before = snapshot(workdir)
        with pytest.raises(
            WorkdirInUseError, match=rf"^process {process.pid} is training in the workdir '.*run';"
        ):
            train(config, workdir)
        assert snapshot(workdir) == before
        # Reading needs no lock.
        assert find_weights(workdir) == workdir / "best.safetensors"
    finally:
        process.kill()
        process.wait()
    # Its death freed the lock.
    WorkdirLock(workdir).release()
    assert not (workdir / NAME).exists()


def test_a_process_on_another_machine_is_named_with_it(tmp_path, monkeypatch):
    with WorkdirLock(tmp_path):
        monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
        here = re.escape(repr((tmp_path / NAME).read_text().split()[-1]))
        with pytest.raises(WorkdirInUseError, match=f"^process {os.getpid()} on {here} is"):
            WorkdirLock(tmp_path)


def test_a_lock_on_a_file_that_was_removed_meanwhile_does_not_count(tmp_path, monkeypatch):
    first = WorkdirLock(tmp_path)
    lock, opened = workdir_lock._lock, []

    def release_before(file):
        # The second process has opened the file; the first one ends before it is locked.
        opened.append(file)
        if len(opened) == 1:
            first.release()
        lock(file)

    monkeypatch.setattr(workdir_lock, "_lock", release_before)
    second = WorkdirLock(tmp_path)
    assert len(opened) == 2
    monkeypatch.undo()
    with pytest.raises(WorkdirInUseError):
        WorkdirLock(tmp_path)
    second.release()


def test_where_there_are_no_locks_training_goes_on_without(tmp_path, monkeypatch):
    def refuse(file):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(workdir_lock, "_lock", refuse)
    with WorkdirLock(tmp_path) as lock:
        assert not lock.works


@pytest.mark.parametrize("missing", ["data.source", "init_from"])
def test_a_start_that_fails_leaves_nothing_behind(tmp_path, missing):
    write_images(tmp_path / "images", count=1)
    fields = {"data.source": str(tmp_path / "images"), missing: str(tmp_path / "nowhere")}
    with pytest.raises(FileNotFoundError):
        train(load_config(**fields), tmp_path / "runs" / "tiny")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_command_in_the_workdir_of_a_running_one_does_it_no_harm(cache, tmp_path):
    write_images(tmp_path / "images")
    env = environment(cache)
    flags = [f"--config.data.source={tmp_path / 'images'}", "--config.train.checkpoint_every=1"]
    arguments = command(tmp_path, tmp_path / "run", *flags)
    # A checkpoint after each step, so that one is always being written, and no end by a plateau.
    endless = ["--config.train.stage_steps=(100000, 24)", "--config.schedule.patience=100000"]
    first = start([*arguments, *endless], env)
    while not list(Path(tmp_path / "run").glob("checkpoints/[1-9]*")):
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.05)
    for more in ([], ["--config.seed=5"], ["--config.data.source=nowhere"]):
        second = start([*arguments, *more], env)
        output, _ = second.communicate(timeout=300)
        assert second.returncode == 1
        assert output.startswith(f"dmcnn_jax: process {first.pid} is training in the workdir")
        assert output.count("\n") == 1
    evaluation = start([*arguments, "--mode=evaluate", "--config.evaluate.images=packaged"], env)
    output, _ = evaluation.communicate(timeout=300)
    assert evaluation.returncode == 0, output
    first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 130
    assert "stopped at step" in output.splitlines()[-1]
