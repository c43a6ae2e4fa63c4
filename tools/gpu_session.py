r"""Makes the most of a few minutes on a GPU machine without an internet connection.

python tools/gpu_session.py pack FOLDER_OF_IMAGES -o PACK --wheels WHEELS
python tools/gpu_session.py train configs/fast_qf20.py:4 configs/fast_qf10.py:3 --source PACK -o OUT

`pack` writes reduced copies of photographs and says how much would travel: the copies, the files
of this repository, and wheels that the machine lacks. `train` checks the machine (the codec's bits,
a step's gradients, and its speed with each size of patches), then trains each configuration for a
number of minutes. The learning rate follows the clock, so that a slow machine ends with annealed
weights too. Weights and curves are written every minute. If interrupted, the same command resumes.
On another machine, `--set init_from=OUT/NAME.safetensors` starts from weights.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("gpu_session: interrupted")  # imports take seconds

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import (
    FAILED,
    INTERRUPTED,
    USER_ERRORS,
    UsageError,
    command_parser,
    prepare_process,
    say,
)
from dmcnn_jax.training import convolution_probe
from dmcnn_jax.training.convolution_probe import WAYS

_MIB = 2**20


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="pack|train")
    _add_pack(commands.add_parser("pack", help="write what travels"))
    _add_train(commands.add_parser("train", help="check the machine, then train by the clock"))
    options = parser.parse_args(argv)
    # A KeyError names a field that a configuration lacks.
    body = _pack if options.command == "pack" else _train
    return run_main("gpu_session", lambda: body(options), argv, errors=(*USER_ERRORS, KeyError))


def _add_pack(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", help='folder of photographs, searched recursively; or "packaged"')
    add("-o", "--output", required=True, help="folder to write")
    add("--quality", type=int, default=88, help="quality of AVIF, 0 to 100 (default: %(default)s)")
    add(
        "--scales",
        type=float,
        nargs=2,
        default=(0.55, 0.9),
        metavar=("LOW", "HIGH"),
        help="reduce each photograph by a random factor between these (default: 0.55 0.9)",
    )
    add(
        "--shortest",
        type=int,
        default=224,
        help="reduce no shorter side below this, pixels, the size of tiles (default: %(default)s)",
    )
    add("--validation", type=int, default=12, help="photographs to set aside (default: 12)")
    add("--graphics", type=int, default=100, help="drawings to add (default: 100)")
    add("--wheels", help="folder of wheels that travel too")
    add("--limit", type=float, default=60, help="largest size of all, MiB (default: 60)")


def _add_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        metavar="CONFIG[:ARGUMENT]:MINUTES",
        help="a configuration, its argument if it takes one, and minutes to train it for",
    )
    add("--source", required=True, help="what `pack` wrote; or a folder or a pack of images")
    add("-o", "--output", required=True, type=Path, help="folder for weights and curves")
    add("--tile", type=int, default=224, help="side of tiles of copies, pixels (default: 224)")
    add(
        "--runs-in",
        type=Path,
        default=Path("runs"),
        help="folder for the runs' own files (default: %(default)s)",
    )
    add("--no-check", action="store_true", help="don't check the machine")
    add(
        "--check-limit",
        type=float,
        default=180,
        help="end here if the check takes longer, seconds (default: 180)",
    )
    add(
        "--convolutions",
        choices=tuple(WAYS),
        help="how a GPU computes convolutions (default: the fastest, found by trying all)",
    )
    add(
        "--min-rate",
        type=float,
        default=0,
        help="end here if the first network trains fewer million pixels a second (default: 0)",
    )
    add("--check-only", action="store_true", help="check the machine, and don't train")
    add(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="set a field of every configuration, such as data.luma=full or init_from=dmcnn-qf20",
    )


def _pack(options: argparse.Namespace) -> int:
    from dmcnn_jax.data import images, reduced_copies
    from dmcnn_jax.data.tiles import format_counts
    from dmcnn_jax.system.item_progress import show_progress

    low, high = options.scales
    if not 0 < low <= high <= 1:
        raise UsageError(f"--scales is {low} {high}; expected two numbers, 0 < LOW <= HIGH <= 1")
    if not 0 <= options.quality <= 100:
        raise UsageError(f"--quality is {options.quality}; expected 0 to 100")
    for name, smallest in (("shortest", 16), ("validation", 1), ("graphics", 0)):
        value = getattr(options, name)
        if value < smallest:
            raise UsageError(f"--{name} is {value}; expected at least {smallest}")
    if options.wheels and not Path(options.wheels).is_dir():
        raise UsageError(f"--wheels is {options.wheels!r}, which is no folder; expected one")
    about = reduced_copies.write_copies(
        options.output,
        images.open_images(options.folder),
        quality=options.quality,
        scales=(low, high),
        shortest=options.shortest,
        validation_images=options.validation,
        graphics=options.graphics,
        progress=show_progress,
    )
    print(
        f"{about['photographs']:,} photographs and {about['graphics']:,} drawings, "
        f"{about['pixels'] / 1e6:.1f} million pixels, luma at {about['psnr']:.2f} dB; "
        f"left out: {format_counts(about['skipped'])}"
    )
    sizes = {"copies": about["bytes"], "repository": _repository_size()}
    if options.wheels:
        sizes["wheels"] = reduced_copies.total_size([options.wheels])
    total = sum(sizes.values()) / _MIB
    parts = ", ".join(f"{name} {size / _MIB:.1f}" for name, size in sizes.items())
    print(f"{total:.1f} MiB travel: {parts}")
    if total > options.limit:
        raise ValueError(
            f"{total:.1f} MiB travel; expected at most --limit {options.limit:g}; set a lower "
            "--quality, or leave files of the repository at home"
        )
    return 0


def _repository_size() -> int:
    """Returns the size of the files of this checkout that git knows, and that are there, bytes."""
    root = Path(__file__).resolve().parents[1]
    command = ["git", "ls-files", "-z"]
    try:
        listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        print("this is no checkout that git knows: its files are not counted", file=sys.stderr)
        return 0
    files = (root / name for name in listed.stdout.split("\0") if name)
    return sum(file.stat().st_size for file in files if file.is_file())


def _train(options: argparse.Namespace) -> int:
    begun = time.perf_counter()
    parts = [_split(text) for text in options.runs]
    way = options.convolutions or _fastest_convolutions(begun)
    # Before JAX reads them.
    os.environ["XLA_FLAGS"] = f"{WAYS[way]} {os.environ.get('XLA_FLAGS', '')}".strip()
    prepare_process()
    from dmcnn_jax.config.files import load_config, set_fields
    from dmcnn_jax.config.validation import batch_sizes
    from dmcnn_jax.data.reduced_copies import use_copies
    from dmcnn_jax.models.convolution import use_products
    from dmcnn_jax.system import devices
    from dmcnn_jax.training import timed_runs

    use_products(way == "products")

    plan = [(load_config(name), minutes) for name, minutes in parts]
    for config, _ in plan:
        if (Path(options.source) / "training").is_dir():
            use_copies(config.data, options.source, options.tile)
        else:
            config.data.source = options.source
        set_fields(config, options.set)
        config.workdir = str(options.runs_in / config.name)
    devices.use_cores_as_devices([size for config, _ in plan for size in batch_sizes(config)])
    options.output.mkdir(parents=True, exist_ok=True)
    if not options.no_check:
        with _limited(options.check_limit):
            _check([config for config, _ in plan], options, begun)
    if options.check_only:
        return 0
    for config, minutes in plan:
        print(f"{config.name}: {minutes:g} minutes", flush=True)
        weights = timed_runs.run(config, minutes, options.output)
        print(f"{time.perf_counter() - begun:.0f} s: weights in {weights}", flush=True)
    return 0


def _fastest_convolutions(begun: float) -> str:
    """Returns the fastest of `WAYS` on a GPU, and the usual one elsewhere."""
    if not shutil.which("nvidia-smi"):
        return "convolutions"
    way = convolution_probe.probe(lambda text: _say(begun, text))
    _say(begun, f"convolutions are computed so: {way} (--convolutions {way} takes it untried)")
    return way


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Ends the process if the block takes longer or is interrupted: compilers can't be stopped."""

    def end() -> None:
        say(
            "gpu_session",
            f"the check has taken --check-limit {seconds:g} s; expected compiled steps by now; "
            "try other --convolutions, or another version of jax",
        )
        os._exit(FAILED)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except KeyboardInterrupt:
        say("gpu_session", "interrupted in the check; nothing has been trained")
        os._exit(INTERRUPTED)
    finally:
        timer.cancel()


def _say(begun: float, text: str) -> None:
    print(f"{time.perf_counter() - begun:.0f} s: {text}", flush=True)


def _check(configs: Sequence[Any], options: argparse.Namespace, begun: float) -> None:
    """Checks the machine, and writes `check.json`.

    Raises:
        RuntimeError: if the machine computes wrongly, or too slowly.
    """
    import jax

    from dmcnn_jax.evaluation.complexity import arithmetic
    from dmcnn_jax.system.atomic_write import write_file
    from dmcnn_jax.training import machine_check

    def write(text: str) -> None:
        _say(begun, text)

    device = jax.devices()[0]
    write(f"{jax.device_count()} × {device.device_kind}, JAX {jax.__version__}")
    digest = machine_check.codec_digest()
    write(f"codec: digest {digest}, expected {machine_check.CODEC_DIGEST}")
    difference = machine_check.gradient_difference()
    tolerance = machine_check.GRADIENT_TOLERANCE
    write(f"gradients: {difference:.2e} from the CPU's, expected at most {tolerance:g}")
    if digest != machine_check.CODEC_DIGEST or not difference <= tolerance:
        raise RuntimeError(
            f"{device.device_kind} computes wrongly: digest {digest}, gradients {difference:.2e} "
            "from the CPU's; try another version of jax, or report it"
        )
    copied = machine_check.copy_rate()
    write(f"memory: {copied / 1e9:.0f} GB a second")
    rates = machine_check.step_rates(
        configs, lambda jaxpr: sum(flops for _, flops in arithmetic(jaxpr)), write
    )
    about = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "codec": digest,
        "gradients": difference,
        "copied": copied,
        "steps": rates,
        "seconds": time.perf_counter() - begun,
    }
    write_file(options.output / "check.json", (json.dumps(about, indent=2) + "\n").encode())
    if rates[0]["rate"] < 1e6 * options.min_rate:
        raise RuntimeError(
            f"{rates[0]['rate'] / 1e6:.2f} million pixels a second; expected at least --min-rate "
            f"{options.min_rate:g}"
        )


def _split(text: str) -> tuple[str, float]:
    """Splits CONFIG[:ARGUMENT]:MINUTES at its last colon."""
    name, _, minutes = text.rpartition(":")
    try:
        number = float(minutes)
    except ValueError:
        number = 0.0
    if not name or not number > 0:
        raise ValueError(
            f"{text!r} is not CONFIG[:ARGUMENT]:MINUTES; expected, for example,"
            " configs/fast_qf20.py:8"
        )
    return name, number


if __name__ == "__main__":
    sys.exit(main())
