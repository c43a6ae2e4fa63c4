#!/usr/bin/env python
"""Writes a model as npz, safetensors, Orbax, PyTorch, ONNX or StableHLO, and brings weights back.

The format follows from the suffix, or is named:

    python tools/export_params.py dmcnn-small-qf10 --format onnx -o dmcnn.onnx
    python tools/export_params.py runs/qf10 -o dmcnn.pt
    python tools/export_params.py finetuned.pt -o finetuned.safetensors

The last makes weights of PyTorch something that --config.init_from goes on training from.
"""

import argparse
import sys

from dmcnn_jax.export.exporter import exporter


def main() -> None:
    """Does what the arguments say; an error that a user can mend is one line and exit status 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source",
        help="bundled name, .safetensors file or workdir of a run; or .npz, .pt, Orbax directory",
    )
    parser.add_argument("-o", "--output", required=True, help="file, or new directory for orbax")
    parser.add_argument(
        "--format", default="", choices=list(exporter.TOLERANCES), help="default: by the suffix"
    )
    parser.add_argument(
        "--like",
        default="",
        help="a source of the same network, where SOURCE does not say which its weights are of",
    )
    arguments = parser.parse_args()
    try:
        model = exporter.import_model(arguments.source, arguments.like)
        done = exporter.export_model(model, arguments.output, arguments.format)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"export_params: {error}")
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
    main()
