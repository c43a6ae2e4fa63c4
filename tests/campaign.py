"""Attacks the whole program: damaged files, kills, full disks, flipped bits, hostile files.

    python tests/campaign.py                   everything, in about an hour on two cores
    python tests/campaign.py --scale 0.01      a hundredth of it, in minutes
    python tests/campaign.py --only kills      one part

Everything is drawn from a seed. A campaign that was stopped goes on where it was: results are kept
in the file that --state names. Delete it after a change of the program, or have parts run again
with --again. At the end, a table of counts, and what went wrong; the exit status is 1 if anything
did. A run counts as wrong if it shows a traceback, lacks a line for a file, loses or half-writes
one, changes an input, restores good files differently than alone, or is silent for 20 s of
processor time, or for five minutes.
"""

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import forgeries
import killed
import mutated
from warm_commands import Run, WarmCommands

from dmcnn_jax.cli.interrupts import run_main

MAX_SECONDS = 20

Attack = Callable[[WarmCommands, Path, int, int], tuple[Run | Sequence[Run], list[str]]]


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the campaign.

    Attributes:
        title: a row of the table.
        count: how many attacks are the whole of it.
        batch: how many run at once.
        attack: runs a batch; it takes commands, an empty folder, a count and a seed.
    """

    title: str
    count: int
    batch: int
    attack: Attack


def main() -> int:
    """Runs the campaign and returns its exit status."""
    stopped = "stopped; the same command goes on from there"
    return run_main("campaign", run_campaign, None, interrupted=stopped)


def run_campaign() -> int:
    """Runs what is missing, prints the table and returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--scale", type=float, default=1.0, help="share of it (default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--jobs", type=int, default=2, help="batches at a time (default: %(default)s)")
    add("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=str([*PARTS]))
    add("--again", action="store_true", help="forget results of these parts")
    add("--table", action="store_true", help="only print the table of what has run")
    add("--state", type=Path, default=Path("campaign.jsonl"), help="(default: %(default)s)")
    options = parser.parse_args()
    state = State(options.state)
    if options.again:
        state.forget(options.only)
    units = plan(options.only, options.scale, options.seed)
    waiting = [unit for unit in units if unit not in state.results]
    if not options.table:
        run_all(waiting, state, options.jobs)
    return print_table([(u, state.results[u]) for u in units if u in state.results])


@dataclasses.dataclass(frozen=True)
class Unit:
    """A batch: of a part, with a seed, so many attacks."""

    part: str
    seed: int
    count: int


def plan(parts: Sequence[str], scale: float, seed: int) -> list[Unit]:
    """Returns the batches of parts, so that all parts advance alike."""
    units: list[tuple[float, Unit]] = []
    for name in parts:
        part = PARTS[name]
        total = max(1, round(scale * part.count))
        for number, first in enumerate(range(0, total, part.batch)):
            count = min(part.batch, total - first)
            units.append((first / total, Unit(name, 1_000_000 * seed + number, count)))
    return [unit for _, unit in sorted(units, key=lambda each: each[0])]


class State:
    """The results of batches, in a file of JSON lines that only grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[Unit, dict[str, Any]] = {}
        self._lock = threading.Lock()
        for line in path.read_text().splitlines() if path.exists() else ():
            self._take(json.loads(line))

    def add(self, unit: Unit, result: dict[str, Any]) -> None:
        """Keeps the result of a batch."""
        self._write({"unit": dataclasses.astuple(unit), "result": result})

    def forget(self, parts: Sequence[str]) -> None:
        """Drops the results of parts."""
        self._write({"forget": list(parts)})

    def _write(self, record: dict[str, Any]) -> None:
        with self._lock, self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            self._take(record)

    def _take(self, record: dict[str, Any]) -> None:
        if "forget" in record:
            for unit in [u for u in self.results if u.part in record["forget"]]:
                del self.results[unit]
        else:
            self.results[Unit(*record["unit"])] = record["result"]


def run_all(units: Sequence[Unit], state: State, jobs: int) -> None:
    """Runs batches, several at a time, and prints how far it is."""
    queue = iter(units)
    lock = threading.Lock()
    start, done = time.monotonic(), itertools.count(1)

    def work() -> None:
        commands = WarmCommands(cache=Path(cache))
        try:
            while True:
                with lock:
                    unit = next(queue, None)
                if unit is None:
                    return
                state.add(unit, run_unit(unit, commands))
                with lock:
                    print_progress(unit, state.results[unit], next(done), len(units), start)
        finally:
            commands.close()

    mutated.weights()  # once for all threads
    with tempfile.TemporaryDirectory() as cache:
        threads = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def run_unit(unit: Unit, commands: WarmCommands) -> dict[str, Any]:
    """Runs a batch and returns its result."""
    start = time.monotonic()
    runs: Run | Sequence[Run]
    with tempfile.TemporaryDirectory() as folder:
        try:
            runs, wrong = PARTS[unit.part].attack(commands, Path(folder), unit.count, unit.seed)
        except Exception as error:
            runs, wrong = [], [f"the attack failed: {error!r}"]
    runs = [runs] if isinstance(runs, Run) else runs
    longest = max((run.longest for run in runs), default=0.0)
    busiest = max((run.busiest for run in runs), default=0.0)
    if busiest > MAX_SECONDS:
        wrong.append(f"{busiest:.0f} s of processor time without a line")
    return {
        "wrong": [f"seed {unit.seed}: {line}" for line in wrong],
        "longest": longest,
        "peak": max((run.peak for run in runs), default=0),
        "seconds": time.monotonic() - start,
    }


def print_progress(unit: Unit, result: dict[str, Any], done: int, total: int, start: float) -> None:
    """Prints a line to standard error for a batch that has ended."""
    left = (time.monotonic() - start) / done * (total - done) / 60
    print(
        f"{done}/{total} batches, {left:.0f} min left: {unit.part}, {unit.count} in"
        f" {result['seconds']:.0f} s, {len(result['wrong'])} wrong",
        *result["wrong"][:3],
        sep="\n    ",
        file=sys.stderr,
        flush=True,
    )


def print_table(results: Sequence[tuple[Unit, dict[str, Any]]]) -> int:
    """Prints what was attacked and what went wrong; returns the exit status."""
    print("| | count | wrong | longest silence, s | peak, MB | minutes |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    lines: list[str] = []
    for name, part in PARTS.items():
        own = [(unit, result) for unit, result in results if unit.part == name]
        if not own:
            continue
        count = sum(unit.count for unit, _ in own)
        wrong = [line for _, result in own for line in result["wrong"]]
        longest = max(result["longest"] for _, result in own)
        peak = max(result["peak"] for _, result in own) / 1e6
        minutes = sum(result["seconds"] for _, result in own) / 60
        cells = (
            f"{count:,}",
            f"{len(wrong)}",
            f"{longest:.1f}" if longest else "",
            f"{peak:.0f}",
            f"{minutes:.0f}",
        )
        print(f"| {part.title} | {' | '.join(cells)} |")
        lines += [f"{name}, {line}" for line in wrong]
    print(*lines, sep="\n")
    return 1 if lines else 0


def files_of(name: str) -> Part:
    """Returns the part that restores mutated files to a format."""

    def attack(
        commands: WarmCommands, folder: Path, count: int, seed: int
    ) -> tuple[Run, list[str]]:
        return mutated.restore(commands, folder, count, seed, mutated.FORMATS[name])

    return Part(f"mutated files to {name}", FILES // len(mutated.FORMATS) + 1, 450, attack)


def in_place(place: str) -> Part:
    """Returns the part that restores mutated files in place, and undoes that."""

    def attack(
        commands: WarmCommands, folder: Path, count: int, seed: int
    ) -> tuple[Run, list[str]]:
        return mutated.restore_and_undo(commands, folder, count, seed, place)

    return Part(f"mutated files, in place, originals {place}, undone", 1_000, 250, attack)


def slow_test(title: str, whole: int, file: str, words: str) -> Part:
    """Returns the part that is a slow test; it runs as a whole or not at all."""

    def attack(_: WarmCommands, folder: Path, count: int, seed: int) -> tuple[Run, list[str]]:
        test = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "slow", "-k", words]
        test += [f"--basetemp={folder / 'test'}", str(Path(__file__).with_name(file))]
        process = subprocess.Popen(test, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wrong = [] if not status and " passed" in said else [said[-500:]]
        return Run(process.returncode, said, 0.0, 0.0, 1024 * usage.ru_maxrss, False), wrong

    return Part(title, whole, whole, attack)


FILES = 20_000
PARTS = {
    **{name: files_of(name) for name in mutated.FORMATS},
    "beside": in_place("beside"),
    "inside": in_place("inside"),
    "kills": Part("runs ended by a signal", 200, killed.CHAIN, killed.kill_chain),
    "disks": Part("runs on a full disk", 100, 1, killed.fill_disk),
    "certificates": Part(
        "forged certificates, in place, undone", 500, 100, forgeries.forge_certificates
    ),
    "recipes": Part("forged recovery recipes, in place, undone", 500, 100, forgeries.forge_recipes),
    "verify": Part("mutated pairs to verify", 500, 50, forgeries.verify_pairs),
    "bytes": Part("mutated bytes to the library", 2_000, 250, forgeries.give_bytes),
    "flips": slow_test(
        "flipped bits in checkpoints", 200, "test_damaged_checkpoints.py", "two_hundred"
    ),
    "weights": slow_test("hostile weights", 200, "test_hostile_weights.py", "two_hundred"),
    "page": slow_test("requests to the page", 1_000, "test_serve_campaign.py", "thousand"),
}


if __name__ == "__main__":
    sys.exit(main())
