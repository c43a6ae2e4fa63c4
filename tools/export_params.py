#!/usr/bin/env python
"""Exports a model as npz, safetensors, Orbax, PyTorch, ONNX or StableHLO, and imports weights.

The format follows from the suffix, or is named:

    python tools/export_params.py dmcnn-small-qf10 --format onnx -o dmcnn.onnx
    python tools/export_params.py runs/qf10 -o dmcnn.pt
    python tools/export_params.py finetuned.pt -o finetuned.safetensors

The last converts PyTorch weights, for example to continue training from them with
--config.init_from. Each export is reloaded and checked before it is saved.
"""

import argparse
import sys
from collections.abc import Sequence

from dmcnn_jax.cli.process import command_parser, run_command
from dmcnn_jax.export.exporter import exporter


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    add = parser.add_argument
    add(
        "source",
        help="bundled name, .safetensors file or workdir of a run; or .npz, .pt, Orbax directory",
    )
    add("-o", "--output", required=True, help="file, or new directory for orbax")
    add("--format", default="", choices=list(exporter.TOLERANCES), help="default: by the suffix")
    add("--like", default="", help="a source of the same network, if SOURCE doesn't name its own")
    options = parser.parse_args(argv)
    return run_command("export_params", lambda: _export(options))


def _export(options: argparse.Namespace) -> None:
    model = exporter.import_model(options.source, options.like)
    done = exporter.export_model(model, options.output, options.format)
    detail = {
        "onnx": f", opset {exporter.ONNX_OPSET}",
        "stablehlo": f", for {', '.join(exporter.STABLEHLO_PLATFORMS)}",
    }
    print(
        f"{done.path}: {done.format}{detail.get(done.format, '')}, {done.bytes / 1e6:.2f} MB; on "
        f"{done.images} images within {done.difference:.1e} of the model "
        f"(at most {exporter.TOLERANCES[done.format]:.0e}, pixels from 0 to 1)"
    )


if __name__ == "__main__":
    sys.exit(main())
