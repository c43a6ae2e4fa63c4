"""What there is: commands, models, and what they would run on.

python -m dmcnn_jax
"""

import argparse
import importlib.metadata
import importlib.util
import platform
from collections.abc import Sequence
from pathlib import Path

from dmcnn_jax.version import __version__

# Command, what it does, what it needs besides a plain installation: (module, extra).
_COMMANDS = (
    ("dmcnn-restore photo.jpg", "clean JPEG files; folders with -o", None),
    ("dmcnn-restore --verify A.jpg B.png", "could B be the original of A?", None),
    ("dmcnn-restore --serve", "a page to drop files on", ("starlette", "serve")),
    ("dmcnn-evaluate", "score a model on images: PSNR, SSIM, PSNR-B", None),
    ("dmcnn-gallery", "a page with a slider between before and after", None),
    ("python -m dmcnn_jax.main", "train, by a file of configs/", ("ml_collections", "train")),
    ("dmcnn-compare", "score several models; tables, plots, pictures", None),
    ("dmcnn-banding", "stairs that models leave in skies", None),
    ("dmcnn-plot", "curves of a training run", ("matplotlib", "compare")),
)
_PACKAGES = ("jax", "flax", "numpy", "pillow", "optax", "orbax-checkpoint", "tensorflow-datasets")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints it; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dmcnn_jax",
        description="Says what dmcnn_jax can do here: commands, bundled models, devices.",
        epilog="Every command explains itself with --help.",
    )
    parser.add_argument("--version", action="version", version=f"dmcnn_jax {__version__}")
    parser.add_argument(
        "--no-devices", action="store_true", help="don't ask JAX for devices: at once"
    )
    options = parser.parse_args(argv)
    print(f"dmcnn_jax {__version__}: removes JPEG artifacts with DMCNN, in JAX\n")
    _print_commands()
    _print_models()
    found = [f"{name} {version}" for name in _PACKAGES if (version := _version(name))]
    print(f"runs on: Python {platform.python_version()}, {', '.join(found)}")
    if not options.no_devices:
        print(f"devices: {_devices()}")
    return 0


def _print_commands() -> None:
    width = max(len(command) for command, *_ in _COMMANDS)
    for command, does, needs in _COMMANDS:
        missing = needs and importlib.util.find_spec(needs[0]) is None
        note = f'  [needs: pip install "dmcnn-jax[{needs[1]}]"]' if missing else ""
        print(f"  {command:{width}}  {does}{note}")
    print(f"  {'import dmcnn_jax':{width}}  dmcnn_jax.restore(...), dmcnn_jax.load(...)\n")


def _print_models() -> None:
    print("models:")
    for path in sorted(Path(__file__).with_name("weights").glob("*.safetensors")):
        card = path.with_suffix(".md")
        # The first paragraph after the title.
        purpose = card.read_text().split("\n\n")[1].replace("\n", " ") if card.is_file() else ""
        print(f"  {path.stem:20}  {path.stat().st_size / 1e6:.1f} MB  {purpose}")
    print()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> str:
    """What JAX would run on."""
    import jax

    try:
        return ", ".join(f"{device} ({device.device_kind})" for device in jax.devices())
    except RuntimeError as error:
        return f"none: {str(error).splitlines()[0]}"


if __name__ == "__main__":
    raise SystemExit(main())
