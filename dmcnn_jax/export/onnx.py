"""The network as an ONNX program, from its PyTorch module; for any number and size of images."""

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dmcnn_jax.export import pytorch
from dmcnn_jax.export.formats import Coefficients, Format, Runner, named_inputs
from dmcnn_jax.images.color import add_color
from dmcnn_jax.inference.model import Model
from dmcnn_jax.models.photo import PhotoNet
from dmcnn_jax.models.photo_input import PhotoInput

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dmcnn_jax.export.torch_dmcnn import Restorer

OPSET = 18

_LUMA_DESCRIPTION = (
    "coefficients: k, int32 [batch, H/8, W/8, 64], channel 8*v + u, v the vertical frequency; "
    "table: Q, int32 [batch, 8, 8], likewise in natural order; "
    "image: luma, float32 [batch, H, W], scaled to [0, 1], not clipped."
)

_PHOTO_DESCRIPTION = (
    "luma: k of Y, int32 [batch, H/8, W/8, 64], channel 8*v + u, v the vertical frequency; "
    "chroma: k of Cb and Cr, int32 [batch, 2, rows, columns, 64]; "
    "table: Q of Y, Cb and Cr, int32 [batch, 3, 8, 8], likewise in natural order; "
    "subsampling: int32 [2], [2, 2] for 4:2:0, [1, 2] for 4:2:2, [1, 1] for 4:4:4; "
    "for gray: zeros as chroma and as its tables, 4:2:0; "
    "rgb, ycbcr: float32 [batch, H, W, 3], levels 0 to 255, neither rounded nor clipped."
)


def write(model: Model, path: Path) -> None:
    """Writes a program whose inputs are those of `named_inputs`.

    Its output is "image"; those of a network for photographs are "rgb" and "ycbcr".

    Raises:
        ValueError: if the model has no PyTorch module.
    """
    import onnx
    import torch

    network = pytorch.make_module(pytorch.state_dict(model))
    make_program = _photo_program if isinstance(model.module, PhotoNet) else _luma_program
    program = make_program(network)
    names = dict.fromkeys(name for axes in program.axes.values() for name in axes.values())
    lengths = {name: torch.export.Dim(name, max=65535) for name in names}
    with _silence_exporter():
        exported = torch.onnx.export(
            program.module.eval(),
            tuple(program.examples.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(program.examples),
            output_names=program.outputs,
            dynamic_shapes={
                name: {axis: lengths[length] for axis, length in axes.items()}
                for name, axes in program.axes.items()
            },
            verbose=False,
        )
    assert exported is not None
    proto = exported.model_proto
    proto.doc_string = program.description
    onnx.helper.set_model_props(proto, {"dmcnn_jax": json.dumps(dict(model.about))})
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def run(path: Path) -> Runner:
    """Returns a function that restores a batch by ONNX Runtime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def restore(coefficients: Coefficients, table: np.ndarray) -> np.ndarray:
        inputs = named_inputs(coefficients, table)
        if isinstance(coefficients, PhotoInput):
            return session.run(["ycbcr"], inputs)[0] / 255
        return session.run(["image"], inputs)[0]

    return restore


class _Program(NamedTuple):
    """A PyTorch module to trace, with its description.

    Attributes:
        module: it returns the outputs in their order.
        examples: inputs by name, in the order of the module's arguments.
        axes: names of the axes of inputs that may have any length, by their number.
        outputs: names of the outputs.
        description: of inputs and outputs, for the file.
    """

    module: "torch.nn.Module"
    examples: dict[str, "Tensor"]
    axes: dict[str, dict[int, str]]
    outputs: list[str]
    description: str


def _luma_program(network: "Restorer") -> _Program:
    """Makes a program with the final estimate of luma as its one output, [B, H, W]."""
    import torch

    class Luma(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, coefficients: "Tensor", table: "Tensor") -> "Tensor":
            return self.network(coefficients, table)["image"][:, 0]

    examples = {
        "coefficients": torch.zeros((2, 3, 5, 64), dtype=torch.int32),
        "table": torch.ones((2, 8, 8), dtype=torch.int32),
    }
    axes = {"coefficients": {0: "batch", 1: "rows", 2: "columns"}, "table": {0: "batch"}}
    return _Program(Luma(), examples, axes, ["image"], _LUMA_DESCRIPTION)


def _photo_program(network: "Restorer") -> _Program:
    """Makes a program with the final estimate in RGB and in YCbCr, [B, H, W, 3] each."""
    import torch

    class Photo(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(
            self, luma: "Tensor", chroma: "Tensor", table: "Tensor", subsampling: "Tensor"
        ) -> tuple["Tensor", "Tensor"]:
            planes = self.network(luma, chroma, table, subsampling)["image"]
            ycbcr = 255 * planes.permute(0, 2, 3, 1)
            y, cb, cr = ycbcr[..., 0], ycbcr[..., 1] - 128, ycbcr[..., 2] - 128
            return torch.stack(add_color(y, cb, cr), -1), ycbcr

    examples = {
        "luma": torch.zeros((2, 4, 6, 64), dtype=torch.int32),
        "chroma": torch.zeros((2, 2, 3, 5, 64), dtype=torch.int32),
        "table": torch.ones((2, 3, 8, 8), dtype=torch.int32),
        "subsampling": torch.ones(2, dtype=torch.int32),
    }
    axes = {
        "luma": {0: "batch", 1: "rows", 2: "columns"},
        "chroma": {0: "batch", 2: "chroma_rows", 3: "chroma_columns"},
        "table": {0: "batch"},
        "subsampling": {},
    }
    return _Program(Photo(), examples, axes, ["rgb", "ycbcr"], _PHOTO_DESCRIPTION)


@contextlib.contextmanager
def _silence_exporter() -> Iterator[None]:
    """Suppresses PyTorch's messages about its exporter and optional packages."""
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
