#!/usr/bin/env python
"""Trains a network from images to the weights that are bundled, phase after phase.

    python tools/train_recipe.py configs/shipped/dmcnn_qf20.py --source FOLDER -o runs/dmcnn-qf20

It packs the images as the phases need them, trains each phase from the weights of an earlier one,
and writes best.safetensors to the output folder. If interrupted, the same command resumes, and
skips phases that are done.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import command_parser, prepare_process


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    parser.add_argument("recipe", help="recipe: a file of configs/shipped/")
    parser.add_argument("--source", required=True, help='folder of images, or "packaged"')
    parser.add_argument("-o", "--output", required=True, type=Path, help="folder for all results")
    options = parser.parse_args(argv)
    return run_main("train_recipe", lambda: _train(options), argv)


def _train(options: argparse.Namespace) -> None:
    from dmcnn_jax.config.files import load_recipe
    from dmcnn_jax.config.recipes import TrainPhase
    from dmcnn_jax.config.validation import batch_sizes, validate_config
    from dmcnn_jax.system import devices
    from dmcnn_jax.training.recipe_runs import run_recipe

    prepare_process()
    phases = load_recipe(options.recipe)
    configs = [phase.config for phase in phases if isinstance(phase, TrainPhase)]
    for config in configs:
        validate_config(config)
    devices.use_cores_as_devices([size for c in configs for size in batch_sizes(c)])
    name = Path(options.recipe).stem.replace("_", "-")
    weights = run_recipe(phases, options.source, options.output, name=name)
    print(f"weights: {weights}")


if __name__ == "__main__":
    sys.exit(main())
