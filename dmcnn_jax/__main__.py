"""Overview of the package: its commands, bundled models, versions and devices.

python -m dmcnn_jax
"""

import argparse
import importlib.metadata
import importlib.util
import platform
from collections.abc import Sequence
from typing import NamedTuple

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import command_parser
from dmcnn_jax.system.bundled import BUNDLED
from dmcnn_jax.version import __version__


class Command(NamedTuple):
    """A line of the overview.

    Attributes:
        words: what to type.
        purpose: what it does.
        module: optional module that it needs, or "".
        extra: the extra that installs the module.
    """

    words: str
    purpose: str
    module: str = ""
    extra: str = ""


COMMANDS = (
    Command("dmcnn-restore photo.jpg", "restore JPEG files and folders of them"),
    Command("dmcnn-restore --verify A.jpg B.png", "check whether B could be A's original"),
    Command("dmcnn-archive", "restore millions of files, each once", "pyarrow", "archive"),
    Command("dmcnn-restore --serve", "serve a local page to drop files on", "starlette", "serve"),
    Command("dmcnn-evaluate", "measure a model on images: PSNR, SSIM, PSNR-B"),
    Command("dmcnn-gallery", "make a page with a slider between before and after"),
    Command("python -m dmcnn_jax.main", "train a configuration", "ml_collections", "train"),
    Command("dmcnn-compare", "measure several models: tables, plots, pictures"),
    Command("dmcnn-banding", "measure the banding that models leave in skies"),
    Command("dmcnn-plot", "plot the curves of a training run", "matplotlib", "compare"),
)
"""All commands, in the order shown."""

_PACKAGES = ("jax", "flax", "numpy", "pillow", "optax", "orbax-checkpoint", "tensorflow-datasets")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the overview and returns the exit status."""

    def overview() -> None:
        _print_overview(not make_parser().parse_args(argv).no_devices)

    return run_main("dmcnn_jax", overview, argv)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the overview."""
    parser = command_parser(
        "python -m dmcnn_jax",
        "Lists the commands, the bundled models and the devices of dmcnn_jax.",
        "--help explains each command.",
        name="dmcnn_jax",
    )
    parser.add_argument(
        "--no-devices", action="store_true", help="don't list devices, which takes seconds"
    )
    return parser


def _print_overview(with_devices: bool) -> None:
    print(f"dmcnn_jax {__version__}: removes JPEG artifacts with DMCNN, in JAX\n")
    _print_commands()
    _print_models()
    found = [f"{name} {version}" for name in _PACKAGES if (version := _installed_version(name))]
    print(f"versions: Python {platform.python_version()}, {', '.join(found)}")
    if with_devices:
        print(f"devices: {_describe_devices()}")


def _print_commands() -> None:
    width = max(len(command.words) for command in COMMANDS)
    print("commands (--help explains each):")
    for command in COMMANDS:
        missing = command.module and importlib.util.find_spec(command.module) is None
        note = f'  [needs: pip install "dmcnn-jax[{command.extra}]"]' if missing else ""
        print(f"  {command.words:{width}}  {command.purpose}{note}")
    print(f"  {'import dmcnn_jax':{width}}  dmcnn_jax.restore(...), dmcnn_jax.load(...)\n")


def _print_models() -> None:
    print("models:")
    for path in sorted(BUNDLED.glob("*.safetensors")):
        card = path.with_suffix(".md")
        # The first paragraph after the title.
        purpose = card.read_text().split("\n\n")[1].replace("\n", " ") if card.is_file() else ""
        print(f"  {path.stem:20}  {path.stat().st_size / 1e6:.1f} MB  {purpose}")
    print()


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _describe_devices() -> str:
    """Returns the devices that JAX finds, or why it finds none."""
    import jax

    try:
        return ", ".join(f"{device} ({device.device_kind})" for device in jax.devices())
    except RuntimeError as error:
        return f"none: {str(error).splitlines()[0]}"


if __name__ == "__main__":
    raise SystemExit(main())
