#!/usr/bin/env python
"""Averages the weights of several runs of one network, often better than each of them.

    python tools/average_weights.py runs/first runs/second -o mean.safetensors

Each run should start from the weights of another: weights that were trained independently don't
average well. The method is that of Izmailov et al., "Averaging weights leads to wider optima and
better generalization" (UAI 2018). Validation images show whether the mean is better:

    python -m dmcnn_jax.main --config CONFIG --mode=evaluate --weights=mean.safetensors
"""

import argparse
import sys
from collections.abc import Sequence

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import command_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    parser.add_argument("sources", nargs="+", help="workdirs, weights files or bundled names")
    parser.add_argument("-o", "--output", required=True, help="weights file to write")
    options = parser.parse_args(argv)
    return run_main("average_weights", lambda: _average(options), argv)


def _average(options: argparse.Namespace) -> None:
    from dmcnn_jax.training.averaging import average_weights

    average_weights(options.sources, options.output)
    print(f"the mean of {len(options.sources)} weights files: {options.output}")


if __name__ == "__main__":
    sys.exit(main())
