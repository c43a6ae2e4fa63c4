"""The real command, killed again and again, ends with the bits of one that was left alone."""

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from lengths import length
from runs import command, environment, read_log, start, write_images

# The stage's last step, after which the other begins (see runs.CONFIG).
STAGE_END = 30

KILLS = {"pack": length(7, 12), "tf.data": length(6, 8)}
NAMED = (
    "while a checkpoint is written",
    "right after the learning rate fell",
    "that saved, and nothing since",
    "stage over, not saved",
    "stage over, saved, next one not begun",
)
# Kills that may come too late, of each that is due.
TRIES = 10


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

    def opened(self) -> int | None:
        """The log's inode: another one as soon as a run has begun or gone on."""
        path = self._workdir / "log.jsonl"
        return path.stat().st_ino if path.exists() else None

    def lines(self) -> int:
        """Of the log."""
        return len(read_log(self._workdir))

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


@dataclasses.dataclass
class Moment:
    """When to kill.

    Attributes:
        name: what to call it.
        has_come: whether it is now, asked all the time once the run has resumed.
        holds: whether it was then, asked when the run is dead.
    """

    name: str
    has_come: Callable[[], bool]
    holds: Callable[[], bool]


def moments(watch: Watch, count: int, rng: random.Random) -> Iterator[Callable[[int], Moment]]:
    """The moments to kill at, in the order in which a run comes past them.

    Yields:
        What makes the moment, given how often it was missed.
    """

    def saved(step: int) -> bool:
        return max(watch.complete(), default=0) >= step

    def reduced() -> bool:
        return watch.reduced() is not None and watch.step() == watch.reduced()

    def reduced_and_saved() -> bool:
        return watch.reduced() is not None and max(watch.complete(), default=0) == watch.reduced()

    def ended() -> bool:
        return watch.validated(STAGE_END) and not saved(STAGE_END)

    def begun() -> bool:
        return saved(STAGE_END) and watch.step() == STAGE_END

    def named(name: str, condition: Callable[[], bool]) -> Callable[[int], Moment]:
        return lambda missed: Moment(name, condition, condition)

    def at_random(holds: Callable[[], bool]) -> Callable[[int], Moment]:
        return lambda missed: Moment("at random", _progress(watch, rng, 0.1 / 2**missed), holds)

    # One of two that are left is killed before the stage changes, the other after.
    early = (count - len(NAMED)) // 2
    conditions = (watch.writing, reduced, reduced_and_saved, ended, begun)
    at_moments = [named(*pair) for pair in zip(NAMED, conditions, strict=True)]
    yield from at_moments[:3]
    yield from (at_random(lambda: not saved(STAGE_END)) for _ in range(early))
    yield from at_moments[3:]
    yield from (at_random(lambda: True) for _ in range(count - len(NAMED) - early))


def _progress(watch: Watch, rng: random.Random, longest: float) -> Callable[[], bool]:
    """Some time, up to the longest, seconds, after the first line that a run adds to the log."""
    pause, before, seen = rng.uniform(0, longest), [], []

    def has_come():
        lines = watch.lines()
        if not before:
            before.append(lines)
        elif lines > before[0] and not seen:
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() - seen[0] >= pause

    return has_come


def kill_at(moment: Moment, watch: Watch, arguments, env) -> bool:
    """Starts the command and kills it; whether it was at the moment."""
    before, began = watch.opened(), time.monotonic()
    process = start(arguments, env)
    # What the run before has left must not pass for what this one does.
    while process.poll() is None and (watch.opened() == before or not moment.has_come()):
        assert time.monotonic() - began < 1800
        time.sleep(0.0005)
    process.kill()
    output, _ = process.communicate()
    if process.returncode == -signal.SIGKILL:
        return moment.holds()
    assert process.returncode == 0, output
    return False


def run_to_the_end(arguments, env):
    process = start(arguments, env)
    output, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, output
    return output


def arrays_of_checkpoint(workdir: Path, step: int):
    import jax
    import orbax.checkpoint as ocp

    path = workdir.absolute() / "checkpoints" / str(step) / "arrays"
    checkpointer = ocp.PyTreeCheckpointer()
    # The run may have had more devices than there are here.
    kinds = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
        checkpointer.metadata(path).item_metadata.tree,
    )
    return checkpointer.restore(path, restore_args=kinds)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pack", "tf.data"])
def test_a_run_killed_again_and_again_ends_as_one_left_alone(kind, sources, cache, tmp_path):
    env = environment(cache)
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    # Their names are in what they print and nowhere in what they train.
    run_to_the_end(command(tmp_path, alone, *sources[kind]), env)

    arguments = command(tmp_path, killed, *sources[kind])
    watch, kills, misses = Watch(killed), [], 0
    for make_moment in moments(watch, KILLS[kind], random.Random(kind)):
        before = tmp_path / f"before{len(kills)}"
        if killed.exists():
            shutil.copytree(killed, before)
        for missed in range(TRIES):
            moment = make_moment(missed)
            if kill_at(moment, watch, arguments, env):
                break
            # Again, as if this try had not been.
            misses += 1
            shutil.rmtree(killed)
            if before.exists():
                shutil.copytree(before, killed)
        else:
            raise AssertionError(f"{moment.name}: missed {TRIES} times, after {kills}")
        kills.append((moment.name, watch.step(), sorted(watch.complete()), watch.writing()))
        print("killed", *kills[-1])
    print(f"{len(kills)} kills, besides {misses} that missed their moment")
    run_to_the_end(arguments, env)

    names = [kill[0] for kill in kills]
    assert len(kills) == KILLS[kind]
    assert set(names) == {*NAMED, "at random"}
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


def test_kills_at_each_named_moment_and_at_random():
    assert all(count > len(NAMED) for count in KILLS.values())


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "number"), [("pack", signal.SIGTERM), ("tf.data", signal.SIGINT)])
def test_a_signal_saves_and_the_exit_says_so(kind, number, sources, cache, tmp_path):
    env = environment(cache)
    arguments = command(tmp_path, tmp_path / "run", *sources[kind])
    process = start([*arguments, "--config.train.stage_steps=(100000, 24)"], env)
    watch = Watch(tmp_path / "run")
    while watch.step() < 6:
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(number)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 130
    last = output.strip().splitlines()[-1]
    assert last.startswith("dmcnn_jax: stopped at step ")
    assert output.count("stopping after this step") == 1
    step = int(last.split("stopped at step ")[1].split()[0].replace(",", ""))
    assert step in watch.complete()
    assert not watch.writing()
    output = run_to_the_end([*arguments, f"--config.train.stage_steps=({step + 4}, 2)"], env)
    assert f"resuming from step {step:,}" in output
