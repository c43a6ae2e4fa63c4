"""The command `dmcnn-banding`: measures how much banding remains in skies that models restore."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import UsageError, command_parser, prepare_process

if TYPE_CHECKING:
    import numpy as np

_EXAMPLES = """example:
  dmcnn-banding dmcnn-small-qf10 runs/mine --quality 10 --picture sky.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `dmcnn-banding` and returns its exit status."""
    return run_main("dmcnn-banding", lambda: _run(make_parser().parse_args(argv)), argv)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of `dmcnn-banding`."""
    parser = command_parser(
        "dmcnn-banding",
        "Measures how much of a JPEG's banding remains in smooth skies that models restore.",
        _EXAMPLES,
    )
    add = parser.add_argument
    add("models", nargs="+", help="bundled names, weights files or folders of training runs")
    add("--quality", type=int, default=10, help="JPEG quality (default: %(default)s)")
    add("--count", type=int, default=8, help="number of skies (default: %(default)s)")
    add(
        "--picture",
        type=Path,
        metavar="PNG",
        help="write the first sky, its JPEG and each model's output, side by side, contrast × 4",
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    if not 1 <= options.quality <= 100:
        raise UsageError(f"--quality is {options.quality}; expected 1 to 100")
    if options.count < 1:
        raise UsageError(f"--count is {options.count}; expected at least 1")
    prepare_process()
    import numpy as np

    from dmcnn_jax import jpeg
    from dmcnn_jax.evaluation.banding import banding_ratios, make_skies, restore_skies
    from dmcnn_jax.inference.model import load

    models = [load(name) for name in options.models]
    images, ramps = make_skies(options.count)
    jpegs = np.asarray(jpeg.roundtrip(images, jpeg.quality_table(options.quality)))
    results = {"the sky itself": images, "JPEG": jpegs}
    for model in models:
        results[model.name] = restore_skies(model, images, options.quality)
    if options.picture:
        _write_picture(options.picture, [stack[0] for stack in results.values()])
    width = max(map(len, results))
    print(f"{len(images)} skies, quality {options.quality}: remaining share of the JPEG's banding")
    for name, stack in results.items():
        share = banding_ratios(stack, jpegs, ramps)
        print(f"{name:{width}}  {share.mean():6.1%}   ({share.min():.1%} to {share.max():.1%})")


def _write_picture(path: Path, planes: Sequence["np.ndarray"]) -> None:
    """Writes planes [H, W] side by side, their contrast enlarged four times."""
    import numpy as np
    from PIL import Image

    from dmcnn_jax.system.atomic_write import replacing

    middle = planes[0].mean()
    stretched = [np.clip(128 + 4 * (plane - middle), 0, 255) for plane in planes]
    with replacing(path) as file:
        Image.fromarray(np.hstack(stretched).astype(np.uint8)).save(file, format="png")
