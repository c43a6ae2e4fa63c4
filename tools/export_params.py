#!/usr/bin/env python
"""Writes a model as npz, safetensors, Orbax, PyTorch, ONNX or StableHLO, and reads weights back.

The output's suffix chooses the format, or --format does:

    python tools/export_params.py dmcnn-small-qf10 --format onnx -o dmcnn.onnx
    python tools/export_params.py runs/qf10 -o dmcnn.pt
    python tools/export_params.py finetuned.pt -o finetuned.safetensors

The last command turns PyTorch weights into a file that --config.init_from starts training from.
"""

import argparse
import sys
from collections.abc import Sequence

from dmcnn_jax.cli.exit_signals import exit_on_signals

if __name__ == "__main__":
    exit_on_signals("export_params: interrupted")  # imports take seconds

from dmcnn_jax.cli.interrupts import run_main
from dmcnn_jax.cli.process import command_parser
from dmcnn_jax.export.exporter import FORMATS, export_model, import_model


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    parser.add_argument(
        "source",
        help="a bundled name, a weights file (.safetensors, .npz or .pt), or the folder of a run"
        " or an Orbax checkpoint",
    )
    parser.add_argument(
        "-o", "--output", required=True, help="file, or new folder for orbax, to write"
    )
    parser.add_argument(
        "--format", default="", choices=list(FORMATS), help="default: by the suffix of the output"
    )
    parser.add_argument(
        "--like",
        default="",
        help="another source of the same network, if SOURCE does not name its network",
    )
    options = parser.parse_args(argv)
    return run_main("export_params", lambda: _export(options), argv)


def _export(options: argparse.Namespace) -> None:
    model = import_model(options.source, options.like)
    result = export_model(model, options.output, options.format)
    format = FORMATS[result.format]
    print(
        f"{result.path}: {format.name}{format.details}, {result.bytes / 1e6:.2f} MB; on "
        f"{result.images} images within {result.max_difference:.1e} of the model "
        f"(at most {format.tolerance:.0e}, pixels from 0 to 1)"
    )


if __name__ == "__main__":
    sys.exit(main())
