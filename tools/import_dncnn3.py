"""Converts DnCNN-3's published weights to a weights file of this package.

    python tools/import_dncnn3.py DnCNN3.mat -o dncnn3.safetensors
    dmcnn-evaluate --weights dncnn3.safetensors --images LIVE1 --quality 10

The file is model/DnCNN3.mat of https://github.com/cszn/DnCNN. Needs h5py:
`pip install -e ".[compare]"`.
"""

import argparse
import sys
from collections.abc import Sequence

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("import_dncnn3: interrupted")  # imports take seconds

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import command_parser
from dmcnn_jax.inference.weights import save_weights
from dmcnn_jax.models.baselines.matconvnet import read_dncnn


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    parser.add_argument("mat", help="the authors' file, MATLAB v7.3")
    parser.add_argument("-o", "--output", default="dncnn3.safetensors", help="default: %(default)s")
    options = parser.parse_args(argv)
    return run_main("import_dncnn3", lambda: _convert(options), argv)


def _convert(options: argparse.Namespace) -> None:
    variables, model = read_dncnn(options.mat)
    about = {"model": model, "name": "dncnn3", "luma": "studio", "quality_range": [5, 99]}
    about["source"] = "weights published by K. Zhang et al., https://github.com/cszn/DnCNN"
    save_weights(options.output, variables, about)
    count = sum(w.size for layer in variables["params"].values() for w in layer.values())
    print(f"{options.output}: {count:,} weights")


if __name__ == "__main__":
    sys.exit(main())
