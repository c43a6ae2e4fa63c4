"""The real command, killed again and again, ends with the bits of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from runs import command, environment, read_log, start, write_images

# The stage's last step, after which the other begins (see runs.CONFIG).
STAGE_END = 30

KILLS = {"pack": 15, "tf.data": 6}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def sources(tmp_path_factory, cache):
    """Flags of the two ways to feed a run."""
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "images")
    tool = Path(__file__).parents[1] / "tools" / "pack_images.py"
    pack = [sys.executable, tool, folder / "images", "-o", folder / "pack"]
    subprocess.run([*pack, "--tile=32"], check=True, env=environment(cache))
    return {
        "pack": [f"--config.data.source={folder / 'pack'}"],
        "tf.data": [
            f"--config.data.source={folder / 'images'}",
            "--config.data.pipeline=tf.data",
        ],
    }


class Watch:
    """What a workdir looks like from outside."""

    def __init__(self, workdir: Path):
        self._workdir = workdir

    def complete(self) -> set[int]:
        """Steps of complete checkpoints."""
        return {int(name) for name in self._checkpoints() if name.isdigit()}

    def writing(self) -> bool:
        """Whether a checkpoint is being written."""
        return any("tmp" in name for name in self._checkpoints())

    def step(self) -> int:
        """Of the last line of the log."""
        log = read_log(self._workdir)
        return log[-1]["step"] if log else 0

    def validated(self, step: int) -> bool:
        """Whether the log says that a step was validated."""
        return any(r["step"] == step and "validation" in r for r in read_log(self._workdir))

    def reduced(self) -> int | None:
        """The step of the first fall of the learning rate."""
        steps = [r["step"] for r in read_log(self._workdir) if r.get("event") == "reduced"]
        return steps[0] if steps else None

    def _checkpoints(self) -> list[str]:
        try:
            return os.listdir(self._workdir / "checkpoints")
        except FileNotFoundError:
            return []


def moments(watch: Watch, count: int, rng: random.Random):
    """Conditions to kill at, in the order in which a run comes past them.

    Yields:
        The moment's name, and a function that says whether it has come.
    """

    def after_reduction():
        # Logged, and perhaps not yet in any checkpoint.
        return watch.reduced() is not None

    def reduced_and_saved():
        reduced = watch.reduced()
        return reduced is not None and max(watch.complete(), default=0) >= reduced

    def ended():
        return watch.validated(STAGE_END) and STAGE_END not in watch.complete()

    def begun():
        return STAGE_END in watch.complete() and watch.step() == STAGE_END

    named = [
        ("while a checkpoint is written", watch.writing),
        ("after the learning rate fell", after_reduction),
        ("after that was saved", reduced_and_saved),
        ("stage over, not saved", ended),
        ("stage over, saved, next one not begun", begun),
    ]
    for name, condition in named[:3]:
        yield name, condition
    for _ in range((count - 5) // 2):
        yield "at random", _progress(watch, rng)
    for name, condition in named[3:]:
        yield name, condition
    for _ in range(count - 5 - (count - 5) // 2):
        yield "at random", _progress(watch, rng)


def _progress(watch: Watch, rng: random.Random):
    """A moment some lines of the log after the start, or some milliseconds after the first."""
    lines, pause = rng.randrange(0, 2), rng.uniform(0, 0.05)
    before, seen = watch.step(), []

    def has_come():
        if watch.step() != before and not seen:
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() - seen[0] >= pause * (1 + lines)

    return has_come


def run_to_the_end(arguments, env):
    process = start(arguments, env)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


def arrays_of_checkpoint(workdir: Path, step: int):
    import jax
    import orbax.checkpoint as ocp

    path = workdir.absolute() / "checkpoints" / str(step) / "arrays"
    return jax.tree.map(np.asarray, ocp.StandardCheckpointer().restore(path))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pack", "tf.data"])
def test_a_run_killed_again_and_again_ends_as_one_left_alone(kind, sources, cache, tmp_path):
    env = environment(cache)
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    # Their names are in what they print and nowhere in what they train.
    run_to_the_end(command(tmp_path, alone, *sources[kind]), env)

    arguments = command(tmp_path, killed, *sources[kind])
    watch, kills = Watch(killed), []
    for name, has_come in moments(watch, KILLS[kind], random.Random(kind)):
        process = start(arguments, env)
        began = time.monotonic()
        while process.poll() is None and not has_come():
            assert time.monotonic() - began < 900
            time.sleep(0.0005)
        process.kill()
        output, _ = process.communicate()
        if process.returncode == -signal.SIGKILL:
            kills.append((name, watch.step(), sorted(watch.complete()), watch.writing()))
            print("killed", *kills[-1])
        else:
            assert process.returncode == 0, output
    run_to_the_end(arguments, env)

    names = [kill[0] for kill in kills]
    assert len(kills) >= KILLS[kind] - 2, kills
    for name in (
        "while a checkpoint is written",
        "after the learning rate fell",
        "stage over, not saved",
        "stage over, saved, next one not begun",
    ):
        assert name in names, kills
    for file in ("best.safetensors", "last.safetensors"):
        assert (killed / file).read_bytes() == (alone / file).read_bytes(), file
    assert read_log(killed) == read_log(alone)
    assert Watch(killed).complete() == Watch(alone).complete()
    last = max(Watch(alone).complete())
    import jax

    jax.tree.map(
        np.testing.assert_array_equal,
        arrays_of_checkpoint(killed, last),
        arrays_of_checkpoint(alone, last),
    )


def test_at_least_twenty_kills():
    assert sum(KILLS.values()) - 1 >= 20


@pytest.mark.slow
def test_sigterm_saves_and_the_exit_says_so(sources, cache, tmp_path):
    env = environment(cache)
    arguments = command(tmp_path, tmp_path / "run", *sources["pack"])
    process = start([*arguments, "--config.train.stage_steps=(100000, 24)"], env)
    watch = Watch(tmp_path / "run")
    while watch.step() < 6:
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    last = output.strip().splitlines()[-1]
    assert last.startswith("dmcnn_jax: stopped at step ")
    step = int(last.split("stopped at step ")[1].split()[0].replace(",", ""))
    assert step in watch.complete()
    assert not watch.writing()
    output = run_to_the_end([*arguments, f"--config.train.stage_steps=({step + 4}, 2)"], env)
    assert f"going on from step {step:,}" in output
