"""The command `dmcnn-banding`: measures the steps that models leave in smooth skies."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.evaluation.banding import banding_ratios, make_skies, restore_skies
from dmcnn_jax.inference.model import load
from dmcnn_jax.system.atomic_write import replacing
from dmcnn_jax.system.compile_cache import enable_compilation_cache
from dmcnn_jax.system.malloc import tune_malloc


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; an error that a user can mend is one line and exit status 1."""
    parser = argparse.ArgumentParser(
        prog="dmcnn-banding",
        description="Measures how much of a JPEG's stair models leave in smooth skies.",
        epilog="example:\n"
        "  dmcnn-banding dmcnn-small-qf10 runs/mine --quality 10 --picture sky.png\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", help="bundled names, weights files or workdirs")
    parser.add_argument("--quality", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--count", type=int, default=8, help="skies (default: %(default)s)")
    parser.add_argument(
        "--picture", help="PNG of the first sky: itself, JPEG, models; contrast × 4"
    )
    options = parser.parse_args(argv)
    tune_malloc()
    enable_compilation_cache()
    try:
        if not 1 <= options.quality <= 100:
            raise ValueError(f"--quality is {options.quality}; expected 1 to 100")
        if options.count < 1:
            raise ValueError(f"--count is {options.count}; expected at least 1")
        models = [load(name) for name in options.models]
        images, ramps = make_skies(options.count)
        jpegs = np.asarray(jpeg.roundtrip(images, jpeg.quality_table(options.quality)))
        results = {"the sky itself": images, "JPEG": jpegs}
        for model in models:
            results[model.name] = restore_skies(model, images, options.quality)
        if options.picture:
            _write_picture(Path(options.picture), [stack[0] for stack in results.values()])
    except (ValueError, OSError) as error:
        sys.exit(f"banding: {error}")
    width = max(map(len, results))
    print(f"{len(images)} skies, quality {options.quality}: share of the JPEG's stair that remains")
    for name, stack in results.items():
        share = banding_ratios(stack, jpegs, ramps)
        print(f"{name:{width}}  {share.mean():6.1%}   ({share.min():.1%} to {share.max():.1%})")


def _write_picture(path: Path, planes: Sequence[np.ndarray]) -> None:
    middle = planes[0].mean()
    stretched = [np.clip(128 + 4 * (plane - middle), 0, 255) for plane in planes]
    with replacing(path) as file:
        Image.fromarray(np.hstack(stretched).astype(np.uint8)).save(file, format="png")
