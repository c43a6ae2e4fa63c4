"""Measures archives: planning and status of millions of rows; speed and memory of workers.

    python tools/benchmark/archives.py rows                     ten million made-up rows
    python tools/benchmark/archives.py rows --files 1000000
    python tools/benchmark/archives.py programs --files 300     programs to compile, counted
    python tools/benchmark/archives.py workers --plot memory.png         2,000 JPEGs, two workers

`programs` plans the tiles of pictures of random sizes, as `dmcnn-restore` and as archives' workers
do, and counts their shapes: JAX compiles a program for each.

`workers` restores half of the pictures by `dmcnn-restore`, then all of them by `dmcnn-archive`, and
then the other half by `dmcnn-restore`, on the same cores: what changes evenly on the machine
meanwhile is the same for both. Each command has a cache of compiled programs of its own, empty at
first. On a busy machine, rely on processor seconds. The resident memory of each of the archive's
workers is printed, and drawn with `--plot`.
"""

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("archives: interrupted")  # imports take seconds

import numpy as np
from PIL import Image

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import command_parser

_CHECKOUT = Path(__file__).resolve().parents[2]
_FILES = {"rows": 10_000_000, "programs": 300, "workers": 2000}
_SIDES = 300, 800  # of pictures, in pixels


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    parser.add_argument("what", choices=("rows", "programs", "workers", "plan", "status"))
    parser.add_argument("--files", type=int, help="how many (10 million; 300; 2,000)")
    parser.add_argument("--workers", type=int, default=2, help="and cores (%(default)s)")
    parser.add_argument("--engine", default="jax", help="what restores (%(default)s)")
    parser.add_argument("--plot", metavar="FILE", help="draws the workers' memory there")
    parser.add_argument("--folder", help="where files are made (default: a temporary folder)")
    options = parser.parse_args(argv)
    options.files = options.files or _FILES.get(options.what)
    steps: dict[str, Callable[[argparse.Namespace], None]] = {
        "rows": _measure_rows,
        "programs": _count_programs,
        "workers": _measure_workers,
        "plan": _plan_rows,
        "status": _read_status,
    }
    return run_main("archives", lambda: steps[options.what](options), argv)


# Rows


def _measure_rows(options: argparse.Namespace) -> None:
    """Makes a list and reports, and runs each step in a process of its own."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        listing = Path(folder, "list.txt")
        with open(listing, "w") as file:
            for number in range(options.files):
                file.write(f"/photos/{number // 1000:06}/IMG_{number:09}.jpg\n")
        for step in ("plan", "status"):
            command = [sys.executable, __file__, step, "--folder", folder]
            subprocess.run(command, check=True)


def _plan_rows(options: argparse.Namespace) -> None:
    from dmcnn_jax.archives.options import ArchiveOptions
    from dmcnn_jax.archives.planning import make_plan

    folder = options.folder
    began = time.perf_counter()
    plan, _ = make_plan(f"{folder}/list.txt", f"{folder}/out", ArchiveOptions())
    seconds = time.perf_counter() - began
    sizes = [p.stat().st_size for p in Path(folder, "out").rglob("*.parquet")]
    print(
        f"plan: {plan.files:,} rows in {plan.shards:,} shards, {seconds:.1f} s, peak memory"
        f" {_peak_mib():.0f} MiB, manifest {sum(sizes) / 2**20:.0f} MiB"
    )


def _read_status(options: argparse.Namespace) -> None:
    from dmcnn_jax.archives.plan import Archive
    from dmcnn_jax.archives.reports import Record, report_name, write_report
    from dmcnn_jax.archives.status import read_status

    archive = Archive(f"{options.folder}/out")
    digest = "0123456789abcdef" * 4
    records = [
        Record(
            index=number,
            path=f"{number:09}.jpg",
            output=f"{number:09}.png",
            status="failed" if number % 100 == 0 else "restored",
            error="damaged" if number % 100 == 0 else "",
            width=640,
            height=480,
            input_sha256=digest,
            output_sha256=digest,
        )
        for number in range(archive.plan.shard_size)
    ]
    now = time.time()
    write_report(archive.target, archive.plan.id, 0, records, now - 600, now)
    report = Path(options.folder, "out", report_name(0)).read_bytes()
    for shard in range(archive.plan.shards):
        path = Path(options.folder, "out", report_name(shard))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(report)
    began = time.perf_counter()
    status = read_status(archive)
    seconds = time.perf_counter() - began
    print(
        f"status: {status.done_files:,} rows in {status.done_shards:,} reports, {seconds:.1f} s,"
        f" peak memory {_peak_mib():.0f} MiB"
    )


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# Programs


def _count_programs(options: argparse.Namespace) -> None:
    """Counts the shapes of tiles that small models have in 4:2:0 pictures of random sizes."""
    from dmcnn_jax.inference import tiling
    from dmcnn_jax.inference.model import load

    luma, chroma = load("dmcnn-small-any").module, load("dmcnn-chroma").module
    rng = np.random.default_rng(0)
    sizes = rng.integers(_SIDES[0], _SIDES[1] + 1, (options.files, 2))
    for few in (False, True):
        tiling.use_few_shapes(few)
        sides = tiling.chroma_tile_sides((2, 2))
        plans: dict[str, list[Sequence[tiling.TilePlan]]] = {
            "luma": [tiling.plan_plane(luma, *map(int, size)) for size in -(-sizes // 8)],
            "chroma": [
                [
                    tiling.plan_tiles(int(blocks), halo, sides)
                    for blocks, halo in zip(size, chroma.halo((2, 2)), strict=True)
                ]
                for size in -(-sizes // 16)
            ],
        }
        found = []
        for name, side in (("luma", 8), ("chroma", 16)):
            shapes = {tuple(p.length for p in pair) for pair in plans[name]}
            computed = sum(math.prod(len(p.tiles) * p.length for p in pair) for pair in plans[name])
            share = computed * side**2 / np.prod(sizes, axis=1).sum()
            found.append(f"{len(shapes)} of {name}, which compute {share:.2f} times the pixels")
        print(f"{'few sides' if few else 'all sides'}: {'; '.join(found)}")


# Workers


def _measure_workers(options: argparse.Namespace) -> None:
    """Restores pictures by the plain command and as an archive; compares rates and results."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source, plain, target = (Path(folder, name) for name in ("in", "plain", "out"))
        halves = source / "0", source / "1"
        for seed, half in enumerate(halves):
            _make_pictures(half, options.files // 2, seed)
        costs = [_restore(options, halves[0], plain, folder)]
        cost, samples = _run_archive(options, source, target, folder)
        costs.append(_restore(options, halves[1], plain, folder))
        if options.engine == "jax":  # OpenVINO's last bits depend on the number of threads
            _compare_results(plain, target)
    for kind, unit in enumerate(("seconds", "processor seconds")):
        both = sum(c[kind] for c in costs)
        print(
            f"{unit}: {both:.0f} of the plain command and {cost[kind]:.0f} of the archive, whose"
            f" rate is {both / cost[kind]:.3f} of the plain command's (its halves:"
            f" {', '.join(f'{2 * c[kind] / cost[kind]:.3f}' for c in costs)})"
        )
    every = max(1, len(samples) // 20)
    for seconds, files, memory in [*samples[::every], samples[-1]]:
        print(f"{seconds:6.0f} s, {files:6} files, MiB: {', '.join(f'{m:.0f}' for m in memory)}")
    if options.plot:
        _draw(samples, options.plot)


def _restore(options: argparse.Namespace, source: Path, result: Path, folder: str) -> "Cost":
    """Restores a folder by `dmcnn-restore`."""
    command = [str(source), "-o", str(result / source.name), "--engine", options.engine]
    with _Timer("dmcnn-restore", options.files // 2) as timer:
        environment = os.environ | {"DMCNN_JAX_CACHE": f"{folder}/cache-restore"}
        command = _command("restore", [*command, "--size", "fast", "-q"])
        subprocess.run(command, env=environment, check=True)
    return timer.cost


def _run_archive(
    options: argparse.Namespace, source: Path, target: Path, folder: str
) -> "tuple[Cost, list[Sample]]":
    """Restores a folder by `dmcnn-archive`, and samples its workers' memory."""
    arguments = ["plan", str(source), str(target), "--engine", options.engine, "--size", "fast"]
    subprocess.run(_command("archive", [*arguments, "--shard-size", "25", "-q"]), check=True)
    arguments = ["run", str(target), "--driver", "processes", "--workers", str(options.workers)]
    with _Timer("dmcnn-archive", options.files) as timer:
        environment = os.environ | {"DMCNN_JAX_CACHE": f"{folder}/cache-archive"}
        process = subprocess.Popen(_command("archive", [*arguments, "-q"]), env=environment)
        samples = _sample(process, target)
        if process.wait():
            raise RuntimeError("the run failed")
    return timer.cost, samples


def _compare_results(plain: Path, archive: Path) -> None:
    """Raises an AssertionError unless two folders have the same results."""
    files = sorted(file.relative_to(plain) for file in plain.glob("*/*.png"))
    assert files and len(files) == sum(1 for _ in archive.glob("*/*.png"))
    for file in files:
        assert (plain / file).read_bytes() == (archive / file).read_bytes(), file


def _make_pictures(folder: Path, files: int, seed: int) -> None:
    """Writes JPEG files of random sizes and qualities, cut from a photograph."""
    from skimage import data

    photograph = Image.fromarray(data.astronaut())
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(files):
        width, height = map(int, rng.integers(_SIDES[0], _SIDES[1] + 1, 2))
        left, top = map(int, rng.integers(0, 200, 2))
        box = (left, top, left + 300, top + 300)
        picture = photograph.resize((width, height), Image.Resampling.LANCZOS, box)
        picture.save(folder / f"{number:06}.jpg", quality=int(rng.choice([10, 20, 30, 40])))


def _command(name: str, arguments: Sequence[str]) -> list[str]:
    code = f"import sys; from dmcnn_jax.cli.{name} import main; sys.exit(main())"
    return [sys.executable, "-c", code, *arguments]


Cost = tuple[float, float]
"""Seconds and processor seconds."""


class _Timer:
    """Prints and keeps what the child processes of a `with` block have cost."""

    cost: Cost

    def __init__(self, name: str, files: int) -> None:
        self._name, self._files = name, files

    def __enter__(self) -> "_Timer":
        self._began, self._before = time.perf_counter(), _children_seconds()
        return self

    def __exit__(self, *error: object) -> None:
        seconds = time.perf_counter() - self._began
        busy = _children_seconds() - self._before
        self.cost = seconds, busy
        print(
            f"{self._name}: {self._files / seconds:.3f} files a second,"
            f" {busy / self._files:.3f} processor seconds a file ({self._files} files,"
            f" {seconds:.0f} s, {busy:.0f} processor seconds, starts included)",
            flush=True,
        )


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


Sample = tuple[float, int, list[float]]
"""Seconds since the start, files that are done, and MiB of each worker."""


def _sample(process: subprocess.Popen[bytes], target: Path) -> list[Sample]:
    """Returns samples of the memory of a run's workers, until it ends."""
    samples: list[Sample] = []
    began, ended = time.perf_counter(), threading.Event()
    while process.poll() is None:
        memory = [_resident_mib(pid) for pid in _children(process.pid)]
        files = sum(1 for _ in target.glob("*/*.png"))
        if memory:
            samples.append((time.perf_counter() - began, files, memory))
        ended.wait(2)
    return samples


def _children(pid: int) -> list[int]:
    text = "".join(p.read_text() for p in Path(f"/proc/{pid}/task").glob("*/children"))
    return sorted(map(int, text.split()))


def _resident_mib(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def _draw(samples: Sequence[Sample], path: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for worker in range(max(len(memory) for _, _, memory in samples)):
        points = [(files, m[worker]) for _, files, m in samples if len(m) > worker and m[worker]]
        axes.plot(*zip(*points, strict=True), label=f"worker {worker + 1}")
    axes.set(xlabel="files done", ylabel="resident memory, MiB", ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.path.insert(0, str(_CHECKOUT))
    raise SystemExit(main())
