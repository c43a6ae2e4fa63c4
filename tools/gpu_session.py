r"""Makes the most of a few minutes on a GPU machine without an internet connection.

python tools/gpu_session.py pack FOLDER_OF_IMAGES -o PACK --wheels WHEELS
python tools/gpu_session.py train configs/fast_qf20.py:4 configs/fast_qf10.py:3 --source PACK -o OUT

`pack` writes reduced copies of photographs and says how much would travel: the copies, the files
of this repository, and wheels that the machine lacks. `train` finds the fastest way to compute
convolutions, checks the machine (the codec's bits, a step's gradients, and its speed with each size
of patches), then trains each configuration for a number of minutes. The learning rate follows the
clock, so that a slow machine ends with annealed weights too. Weights and curves are written every
minute. If interrupted, the same command resumes. On another machine,
`--set init_from=OUT/NAME.safetensors` starts from weights.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

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

# Environment variable with the time at which a command began that has started again, seconds.
_BEGUN = "GPU_SESSION_BEGUN"

# Seconds that a run takes besides its minutes: opening the data, the last validation, saving.
_BESIDE_TRAINING = 15


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
    add(
        "--until",
        type=float,
        metavar="SECONDS",
        help="shorten the runs so that the last ends this long after the start of the command",
    )
    add("--no-check", action="store_true", help="don't check the machine")
    add(
        "--check-limit",
        type=float,
        default=180,
        help="give up if the check takes longer, seconds (default: 180)",
    )
    add(
        "--convolutions",
        choices=tuple(WAYS),
        help="how a GPU computes convolutions (default: the fastest, found by trying; if the check"
        " then fails, products)",
    )
    add(
        "--min-rate",
        type=float,
        default=0,
        help="give up if the first network trains fewer million pixels a second (default: 0)",
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
    begun = float(os.environ.pop(_BEGUN, time.monotonic()))
    has_gpu = bool(shutil.which("nvidia-smi")) and os.environ.get("JAX_PLATFORMS") != "cpu"
    if has_gpu:
        from dmcnn_jax.system.compile_cache import enable_compilation_cache

        # Without the memory allocation for training on CPUs, which threads that compile wait for.
        enable_compilation_cache()
    else:
        prepare_process()
    # All mistakes are found before the minutes of the machine are spent.
    plan = _plan(options)
    from dmcnn_jax.config.validation import batch_sizes
    from dmcnn_jax.models.convolution import use_products
    from dmcnn_jax.system import devices

    way = options.convolutions or (_fastest_convolutions(begun) if has_gpu else "convolutions")
    own_flags = os.environ.get("XLA_FLAGS", "")
    # JAX reads them when it first computes.
    os.environ["XLA_FLAGS"] = f"{convolution_probe.flags(way)} {own_flags}".strip()
    use_products(way == "products")
    devices.use_cores_as_devices([size for config, _ in plan for size in batch_sizes(config)])
    options.output.mkdir(parents=True, exist_ok=True)

    def restart() -> NoReturn:
        _say(begun, "starting again with --convolutions products")
        os.environ.update({_BEGUN: str(begun), "XLA_FLAGS": own_flags})
        os.execv(sys.executable, [*sys.orig_argv, "--convolutions", "products"])

    if not options.no_check:
        found = has_gpu and not options.convolutions
        with _limited(options.check_limit, restart if found and way != "products" else None):
            _check([config for config, _ in plan], options, begun)
    return 0 if options.check_only else _run_all(plan, options, begun)


def _plan(options: argparse.Namespace) -> list[tuple[Any, float]]:
    """Returns the configurations and their minutes, checked.

    Raises:
        ValueError: for an invalid configuration.
        FileNotFoundError: if the images are missing, or weights that no earlier run writes.
    """
    from dmcnn_jax.config.files import load_config, set_fields
    from dmcnn_jax.config.validation import validate_config
    from dmcnn_jax.data.reduced_copies import use_copies
    from dmcnn_jax.inference.weights import find_weights
    from dmcnn_jax.training import timed_runs

    plan = [(load_config(name), minutes) for name, minutes in map(_split, options.runs)]
    source = options.source
    if not (source == "packaged" or source.startswith("tfds:") or Path(source).exists()):
        raise FileNotFoundError(f"--source is {source!r}, which doesn't exist; expected images")
    workdirs: dict[str, str] = {}
    for config, minutes in plan:
        if (Path(source) / "training").is_dir():
            use_copies(config.data, source, options.tile)
        else:
            config.data.source = source
        set_fields(config, options.set)
        config.workdir = str(options.runs_in / config.name)
        # Configurations name the weights of others by the usual folder of runs.
        config.init_from = workdirs.get(config.init_from, config.init_from)
        if config.init_from and config.init_from not in workdirs.values():
            find_weights(config.init_from)
        workdirs[f"runs/{config.name}"] = config.workdir
        validate_config(timed_runs.timed_config(config, minutes))
    return plan


def _run_all(plan: Sequence[tuple[Any, float]], options: argparse.Namespace, begun: float) -> int:
    """Trains one configuration after another, and returns an exit status."""
    from dmcnn_jax.training import timed_runs

    status = 0
    for index, (config, minutes) in enumerate(plan):
        if options.until is not None:
            left = options.until - (time.monotonic() - begun)
            left -= _BESIDE_TRAINING * (len(plan) - index)
            share = minutes / sum(minutes for _, minutes in plan[index:])
            minutes = min(minutes, left / 60 * share)
        if not minutes > 0:
            say("gpu_session", f"{config.name}: --until {options.until:g} leaves no time for it")
            status = FAILED
            continue
        print(f"{config.name}: {minutes:.3g} minutes", flush=True)
        try:
            weights = timed_runs.run(config, minutes, options.output)
        except USER_ERRORS as error:
            # The other runs need not lose their minutes.
            say("gpu_session", f"{config.name}: {error}")
            status = FAILED
            continue
        _say(begun, f"weights in {weights}")
    return status


def _fastest_convolutions(begun: float) -> str:
    """Returns the fastest of `WAYS`."""
    way = convolution_probe.probe(lambda text: _say(begun, text))
    _say(begun, f"convolutions are computed so: {way} (--convolutions {way} takes it untried)")
    return way


@contextlib.contextmanager
def _limited(seconds: float, restart: Callable[[], NoReturn] | None) -> Iterator[None]:
    """Ends the process if the block takes longer or is interrupted: compilers can't be stopped.

    Args:
        seconds: time limit.
        restart: replaces the process if the block takes longer or fails.
    """

    def end() -> None:
        say(
            "gpu_session",
            f"the check has taken --check-limit {seconds:g} s; expected compiled steps by now; "
            "try other --convolutions, or another version of jax",
        )
        if restart is not None:
            restart()
        os._exit(FAILED)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except KeyboardInterrupt:
        say("gpu_session", "interrupted in the check; nothing has been trained")
        os._exit(INTERRUPTED)
    except Exception as error:
        timer.cancel()
        if restart is None:
            raise
        say("gpu_session", str(error))
        restart()
    finally:
        timer.cancel()


def _say(begun: float, text: str) -> None:
    print(f"{time.monotonic() - begun:.0f} s: {text}", flush=True)


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
    about = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "codec": digest,
        "gradients": difference,
        "copied": copied,
        "steps": [],
    }
    for rates in machine_check.step_rates(
        configs, lambda jaxpr: sum(flops for _, flops in arithmetic(jaxpr)), write
    ):
        about["steps"].append(rates)
        about["seconds"] = time.monotonic() - begun
        write_file(options.output / "check.json", (json.dumps(about, indent=2) + "\n").encode())
        # A slow machine isn't measured any further.
        rate = about["steps"][0]["rate"]
        if rate < 1e6 * options.min_rate:
            raise RuntimeError(
                f"{rate / 1e6:.2f} million pixels a second; expected at least --min-rate "
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
