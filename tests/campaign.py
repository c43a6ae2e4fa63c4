"""Attacks the whole program: damaged files, kills, full disks, flipped bits, hostile weights.

    python tests/campaign.py                   everything, in hours
    python tests/campaign.py --scale 0.01      a hundredth of it, in minutes

Everything is drawn from a seed. Prints a table of counts, and what went wrong; the exit status is 1
if anything did. The whole campaign: 20,000 mutated files through `dmcnn-restore`, to every format;
200 runs that end by a signal at a random moment, half of them `--in-place`; 100 runs whose results
may not grow beyond a random number of bytes; 200 flipped bits in checkpoints; 200 hostile weights
files; and 1,000 requests to the page from slow, broken and parallel clients.
"""

import argparse
import collections
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mutated
import numpy as np
from commands import command
from jpeg_cases import pillow
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.jpeg.errors import JpegError

FILES, KILLS, FULL_DISKS = 20_000, 200, 100
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
TESTS = {
    "flipped bits in checkpoints": (200, "test_damaged_checkpoints.py", "two_hundred"),
    "hostile weights": (200, "test_hostile_weights.py", "two_hundred"),
    "requests to the page": (1_000, "test_serve_campaign.py", "thousand"),
}
PICTURES = 6


def main() -> int:
    """Runs the campaign and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of it (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    def scaled(count: int) -> int:
        return max(1, round(options.scale * count))

    parts: dict[str, tuple[int, Callable[[int], list[str]]]] = {
        "mutated files": (scaled(FILES), lambda count: mutate_files(count, options.seed)),
        "runs ended by a signal": (scaled(KILLS), lambda count: kill_runs(count, options.seed)),
        "runs on a full disk": (scaled(FULL_DISKS), lambda count: fill_disks(count, options.seed)),
    }
    for name, (count, file, words) in TESTS.items():
        parts[name] = count, lambda _, file=file, words=words: run_test(file, words)
    failed = False
    print(f"{'':30}{'count':>8}{'wrong':>8}{'seconds':>9}", flush=True)
    for name, (count, attack) in parts.items():
        start = time.perf_counter()
        wrong = attack(count)
        seconds = time.perf_counter() - start
        print(f"{name:30}{count:8,}{len(wrong):8,}{seconds:9.0f}", flush=True)
        for line in wrong[:5]:
            print(f"    {line}", flush=True)
        failed |= bool(wrong)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"peak memory of a process: {peak:.2f} GB")
    return int(failed)


def mutate_files(count: int, seed: int) -> list[str]:
    """Restores mutated files, and returns what went wrong."""
    wrong = []
    kinds = [(kind, truncated) for kind in mutated.FORMATS for truncated in (False, True)]
    share = -(-count // len(kinds))
    for number, (kind, truncated) in enumerate(kinds):
        with tempfile.TemporaryDirectory() as folder:
            try:
                mutated.run(Path(folder), share, seed + number * share, truncated, kind)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                wrong.append(f"{kind}, allow_truncated={truncated}: {str(error)[-300:]}")
    return wrong


def kill_runs(count: int, seed: int) -> list[str]:
    """Ends runs by signals at random moments, and returns what went wrong."""
    rng = random.Random(seed)
    wrong = []
    for number in range(count):
        with tempfile.TemporaryDirectory() as name:
            folder, in_place = Path(name), number % 2 == 1
            inputs = write_pictures(folder)
            arguments = arguments_of(folder, in_place)
            sent = rng.choice(SIGNALS)
            process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
            time.sleep(rng.uniform(0.3, 6))
            process.send_signal(sent)
            _, said = process.communicate(timeout=60)
            what = f"run {number}, {sent.name}{', in place' if in_place else ''}"
            if process.returncode not in (0, 130, -sent) or "Traceback" in said:
                wrong.append(f"{what}: status {process.returncode}: {said[-200:]}")
            wrong += [f"{what}: {line}" for line in check_files(folder, inputs, in_place)]
            again = subprocess.run(arguments, capture_output=True, text=True, check=False)
            if again.returncode:
                wrong.append(f"{what}: the next run fails: {again.stderr[-200:]}")
            wrong += [f"{what}, again: {line}" for line in check_files(folder, inputs, in_place)]
            if left := list(folder.rglob("*.partial")):
                wrong.append(f"{what}: the next run leaves {left[0].name}")
    return wrong


def fill_disks(count: int, seed: int) -> list[str]:
    """Runs the command where files can't exceed a random size, and returns what went wrong."""
    rng = random.Random(seed)
    wrong = []
    for number in range(count):
        with tempfile.TemporaryDirectory() as name:
            folder, in_place = Path(name), number % 2 == 1
            inputs = write_pictures(folder)
            limit = rng.randrange(12_000)

            arguments = arguments_of(folder, in_place)
            arguments[2] = _BOUND.format(limit) + arguments[2]  # python -c CODE
            done = subprocess.run(
                arguments,
                capture_output=True,
                text=True,
                check=False,
                env=os.environ | {"DMCNN_JAX_CACHE": ""},
            )
            what = f"run {number}, at most {limit} bytes"
            if done.returncode not in (0, 1) or "Traceback" in done.stderr:
                wrong.append(f"{what}: status {done.returncode}: {done.stderr[-300:]}")
            said = sum(f"/{path.name}: " in done.stderr for path in inputs)
            if said != len(inputs):
                wrong.append(f"{what}: {said} of {len(inputs)} files have a line")
            wrong += [f"{what}: {line}" for line in check_files(folder, inputs, in_place)]
            if left := list(folder.rglob("*.partial")):
                wrong.append(f"{what}: {left[0].name} is left")
    return wrong


# Writing more is an error then, instead of a signal.
_BOUND = (
    "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0})); "
)


def write_pictures(folder: Path) -> dict[Path, bytes]:
    """Writes a tiny network and some JPEG files; returns these."""
    mutated.write_weights(folder / "weights.safetensors")
    rng = np.random.default_rng(1)
    inputs = {}
    (folder / "in").mkdir()
    for number in range(PICTURES):
        noise = rng.integers(0, 256, (12, 15, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(noise).resize((60 + number, 45)))
        path = folder / "in" / f"{number}.jpg"
        inputs[path] = pillow(picture, quality=30)
        path.write_bytes(inputs[path])
    return inputs


def arguments_of(folder: Path, in_place: bool) -> list[str]:
    """Returns the command that restores the files of a folder."""
    where = ["--in-place"] if in_place else ["-o", str(folder / "out"), "--format", "jpg"]
    weights = ["--weights", str(folder / "weights.safetensors"), "--engine", "jax"]
    return [*command("dmcnn-restore"), str(folder / "in"), *where, *weights, "--device", "cpu"]


def check_files(folder: Path, inputs: dict[Path, bytes], in_place: bool) -> list[str]:
    """Returns what is lost, half-written or foreign in a folder."""
    wrong = []
    for path, data in inputs.items():
        found = path.read_bytes()
        if found == data:
            continue
        if not in_place:
            wrong.append(f"the input {path.name} was changed")
        elif not is_restored(found):
            wrong.append(f"{path.name} is neither the old file nor a restored one")
        elif path.with_name(f"{path.name}_original").read_bytes() != data:
            wrong.append(f"the original of {path.name} is lost")
    for path in folder.glob("out/*.jpg"):
        if not is_restored(path.read_bytes()):
            wrong.append(f"{path.name} is half-written")
    names = collections.Counter(p.suffix for p in folder.rglob("*") if p.is_file())
    foreign = set(names) - {".jpg", ".jpg_original", ".partial", ".safetensors"}
    return wrong + [f"a file {suffix} is left" for suffix in foreign]


def is_restored(data: bytes) -> bool:
    """Returns whether a file is a whole JPEG file that the command wrote."""
    try:
        return jpeg.read(data).certificate is not None
    except JpegError:
        return False


def run_test(file: str, words: str) -> list[str]:
    """Runs a slow test that is a campaign of its own, and returns what went wrong."""
    test = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "slow", "-k", words]
    done = subprocess.run(
        [*test, str(Path(__file__).with_name(file))], capture_output=True, text=True, check=False
    )
    passed = done.returncode == 0 and " passed" in done.stdout
    return [] if passed else [line for line in done.stdout.splitlines() if line][-3:]


if __name__ == "__main__":
    sys.exit(main())
