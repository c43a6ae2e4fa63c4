"""The network as an ONNX program, by way of its PyTorch module: any number and size of images."""

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dmcnn_jax.export import pytorch
from dmcnn_jax.export.formats import Coefficients, Format, Runner
from dmcnn_jax.inference.model import Model

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dmcnn_jax.export.torch_dmcnn import Restorer

OPSET = 18

_DESCRIPTION = (
    "coefficients: k, int32 [batch, H/8, W/8, 64], channel 8*v + u, v the vertical frequency; "
    "table: Q, int32 [batch, 8, 8], likewise in natural order; "
    "image: luma, float32 [batch, H, W], scaled to [0, 1], not clipped."
)


def write(model: Model, path: Path) -> None:
    """Writes a program with inputs "coefficients" and "table", and output "image".

    Raises:
        ValueError: if the model has no PyTorch module.
    """
    import onnx
    import torch

    coefficients = torch.zeros((2, 3, 5, 64), dtype=torch.int32)
    table = torch.ones((2, 8, 8), dtype=torch.int32)
    batch, rows, columns = (torch.export.Dim(n, max=65535) for n in ("batch", "rows", "columns"))
    with _silence_exporter():
        program = torch.onnx.export(
            _luma_module(pytorch.make_module(pytorch.state_dict(model))),
            (coefficients, table),
            dynamo=True,
            opset_version=OPSET,
            input_names=["coefficients", "table"],
            output_names=["image"],
            dynamic_shapes={
                "coefficients": {0: batch, 1: rows, 2: columns},
                "table": {0: batch},
            },
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    proto.doc_string = _DESCRIPTION
    onnx.helper.set_model_props(proto, {"dmcnn_jax": json.dumps(dict(model.about))})
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def run(path: Path) -> Runner:
    """Returns a function that restores a batch by ONNX Runtime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def restore(coefficients: Coefficients, table: np.ndarray) -> np.ndarray:
        return session.run(["image"], {"coefficients": coefficients, "table": table})[0]

    return restore


def _luma_module(network: "Restorer") -> "torch.nn.Module":
    """Returns a module with the final estimate as its one output, [B, H, W]."""
    import torch

    class Luma(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, coefficients: "Tensor", table: "Tensor") -> "Tensor":
            return self.network(coefficients, table)["image"][:, 0]

    return Luma().eval()


@contextlib.contextmanager
def _silence_exporter() -> Iterator[None]:
    """Suppresses PyTorch's remarks about its exporter and about optional packages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


ONNX = Format(
    name="onnx",
    suffixes=(".onnx",),
    tolerance=1e-5,
    write=write,
    run=run,
    packages=("torch", "onnx", "onnxscript", "onnxruntime"),
    float32=True,
    details=f", opset {OPSET}",
)
