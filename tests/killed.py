"""`dmcnn-restore` that is killed, or that finds the disk full: parts of the campaign."""

import functools
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import mutated
import numpy as np
from commands import command
from jpeg_cases import pillow
from mutated import Tree, read_tree
from PIL import Image
from warm_commands import Kill, Run, WarmCommands

from dmcnn_jax import jpeg
from dmcnn_jax.jpeg.errors import JpegError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
CHAIN = 4
"""Runs over the same files that are killed before one that is not."""

PICTURES = 24


def kill_chain(
    commands: WarmCommands, folder: Path, count: int, seed: int
) -> tuple[list[Run], list[str]]:
    """Restores files by runs that are killed, and by one that is not; returns what went wrong.

    Each run finds what those before it left. Signals come at random moments: while the command
    starts, or after a random number of files and a random time. Of four runs, one is a new process,
    which may be killed as early as its imports.

    Args:
        commands: to run it.
        folder: an empty folder.
        count: number of runs to kill.
        seed: of signals and moments; if it is odd, files are restored in place.
    """
    rng = random.Random(seed)
    in_place = seed % 2 == 1
    inputs = write_pictures(folder, PICTURES)
    words = arguments(folder, in_place)
    runs, wrong = [], []
    for number in range(count):
        sent = rng.choice(SIGNALS)
        if number % CHAIN == rng.randrange(CHAIN):
            run = _kill_cold(words, sent, rng.uniform(0, 6))
        else:
            done = sum(name.startswith("out/") for name in read_tree(folder))
            line = rng.choice([0, done + 1, done + 2, done + 4])
            kill = Kill(sent, line, rng.uniform(0, 0.2 if line else 5))
            run = commands.run(words, kill=kill)
        what = f"run {number}, {sent.name}{', in place' if in_place else ''}"
        # Before the command's first line, Python says itself what interrupts it.
        early = sent == signal.SIGINT and "dmcnn_jax" not in run.said
        if run.status not in (0, 130, -sent) or ("Traceback" in run.said and not early):
            wrong.append(f"{what}: status {run.status}: {run.said[-500:]}")
        wrong += [f"{what}: {line}" for line in check_files(folder, inputs, in_place)]
        runs.append(run)
    run = commands.run(words)
    if run.status:
        wrong.append(f"after {count} kills: status {run.status}: {run.said[-300:]}")
    wrong += [f"at the end: {line}" for line in check_files(folder, inputs, in_place)]
    if left := list(folder.rglob("*.partial")):
        wrong.append(f"{left[0].name} is left at the end")
    whole = sum(is_restored(data) for data in read_tree(folder).values())
    if whole != PICTURES:
        wrong.append(f"{whole} of {PICTURES} files are restored at the end")
    return runs, wrong


def _kill_cold(words: list[str], sent: signal.Signals, seconds: float) -> Run:
    """Starts a command as users do, and ends it by a signal after some seconds."""
    start = time.monotonic()
    process = subprocess.Popen(
        [*command("dmcnn-restore"), *words], stderr=subprocess.PIPE, text=True
    )
    time.sleep(seconds)
    os.kill(process.pid, sent)  # if it has ended, it is still there to be waited for
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    longest = time.monotonic() - start
    busy = usage.ru_utime + usage.ru_stime
    return Run(process.returncode, said, longest, busy, 1024 * usage.ru_maxrss, False)


def fill_disk(commands: WarmCommands, folder: Path, count: int, seed: int) -> tuple[Run, list[str]]:
    """Runs the command where files can't exceed a random size; returns what went wrong.

    Args:
        commands: to run it.
        folder: an empty folder.
        count: 1.
        seed: of the size; if it is odd, files are restored in place.
    """
    assert count == 1
    in_place = seed % 2 == 1
    _compile(commands)
    inputs = write_pictures(folder, 6)
    limit = random.Random(seed).randrange(5_000)
    run = commands.run(arguments(folder, in_place), bound=limit)
    what = f"at most {limit} bytes"
    wrong = [f"{what}: {line}" for line in mutated.check_lines(run, inputs)]
    wrong += [f"{what}: {line}" for line in check_files(folder, inputs, in_place)]
    if left := list(folder.rglob("*.partial")):
        wrong.append(f"{what}: {left[0].name} is left")
    return run, wrong


@functools.cache
def _compile(commands: WarmCommands) -> None:
    """Runs the command once, so that what it compiles is cached and is not written again."""
    with tempfile.TemporaryDirectory() as name:
        write_pictures(Path(name), 6)
        assert commands.run(arguments(Path(name), in_place=False)).status == 0


def write_pictures(folder: Path, count: int) -> Tree:
    """Writes gray and colour JPEG files; returns them by name."""
    rng = np.random.default_rng(1)
    inputs = {}
    (folder / "in").mkdir()
    for number in range(count):
        noise = rng.integers(0, 256, (12, 15, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(noise).resize((60 + number, 45)))
        # Gray ones are quick.
        name = f"{number:02}.jpg"
        inputs[name] = pillow(picture, None if number % 6 == 5 else "L", quality=30)
        (folder / "in" / name).write_bytes(inputs[name])
    return inputs


def arguments(folder: Path, in_place: bool) -> list[str]:
    """Returns the words that restore the files of a folder."""
    where = ["--in-place"] if in_place else ["-o", str(folder / "out"), "--format", "jpg"]
    return [str(folder / "in"), *where, *mutated.options(0)]


def check_files(folder: Path, inputs: Tree, in_place: bool) -> list[str]:
    """Returns what is lost, half-written or foreign in a folder."""
    wrong = []
    tree = read_tree(folder)
    for name, data in inputs.items():
        found = tree.pop(f"in/{name}", b"")
        original = tree.pop(f"in/{name}_original", None)
        if found == data:
            continue
        if not in_place:
            wrong.append(f"the input {name} was changed")
        elif not is_restored(found):
            wrong.append(f"{name} is neither the old file nor a restored one")
        elif original != data:
            wrong.append(f"the original of {name} is lost")
    for name, data in tree.items():
        if name.endswith(".partial"):
            continue  # the next run removes it
        if not (name.startswith("out/") and is_restored(data)):
            wrong.append(f"{name} is half-written or foreign")
    return wrong


def is_restored(data: bytes) -> bool:
    """Returns whether a file is a whole JPEG file that the command wrote."""
    try:
        return jpeg.read(data).certificate is not None
    except JpegError:
        return False
