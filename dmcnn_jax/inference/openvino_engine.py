"""The convolutions of a restorer on a CPU, by OpenVINO: in bfloat16, where the CPU has it.

XLA's CPU backend turns a bfloat16 convolution into a float32 one; OpenVINO's (oneDNN's) take half
the time of float32 on a CPU that has such instructions. What is next to nothing of the work stays
JAX's and float32: decoding, the DCT branch, the sums that make the output, the projection.

Of a network, OpenVINO gets the layers that its module's `connect` names, with the same weights.
OpenVINO is an option (`pip install "dmcnn-jax[openvino]"`), and imported when it is asked for.
"""

import importlib.util
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dmcnn_jax.models import chroma, dmcnn
from dmcnn_jax.models.chroma import ChromaNet
from dmcnn_jax.models.dmcnn import DMCNN

PRECISIONS = ("float32", "bfloat16")

# Networks are compiled for one size of image, in a tenth of a second, and kept ready while their
# images together have no more pixels than one of the largest tiles: that bounds their memory.
_PIXELS = 1152**2


def is_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return importlib.util.find_spec("openvino") is not None


def supports(module: Any) -> bool:
    """Whether a network's layers can be handed over: those of `DMCNN` and `ChromaNet`."""
    return isinstance(module, tuple(_NETWORKS))


class Engine:
    """The layers of one network, for images of any size.

    Args:
        module: the network, one that `supports` is true of.
        params: its variables.
        precision: one of `PRECISIONS`; empty: what suits this CPU, bfloat16 where it has the
            instructions.

    Raises:
        ImportError: if OpenVINO is not installed.
        ValueError: for another network or precision.
    """

    def __init__(self, module: Any, params: Mapping[str, Any], precision: str = ""):
        if not supports(module):
            raise ValueError(
                f"OpenVINO runs DMCNN and ChromaNet, not {type(module).__name__}; "
                'expected engine "jax"'
            )
        self._openvino = _import_openvino()
        self._core = _core()
        if not precision:
            native = self._core.get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
            precision = "bfloat16" if native in ("bf16", "bfloat16") else "float32"
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; expected one of {PRECISIONS}")
        self.precision = precision
        self._module = module
        params = jax.tree.map(np.asarray, dict(params)["params"])
        self._params = params["g"] if isinstance(module, DMCNN) else params
        self._ready: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, x: np.ndarray, told: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Runs the layers on one image, as if it ended where its mask does.

        Args:
            x: their input, float32 [1, H, W, C].
            told: what the network is told of the tables, float32, as its module's `told` has it.
            mask: bool [1, h, w, 1], true on a rectangle; H and W are multiples of h and w.

        Returns:
            float32 [1, H, W, N], zero outside of the rectangle.
        """
        rows, columns = (_inside(mask, axis, x.shape[axis]) for axis in (1, 2))
        image = np.ascontiguousarray(np.moveaxis(x[:, rows, columns], -1, 1))
        with self._lock:
            request = self._request(image.shape)
            inputs = [image, *self._modulations(told)]
            answer = request.infer(inputs, share_inputs=True, share_outputs=True)[0]
            result = np.zeros((*x.shape[:3], answer.shape[1]), np.float32)
            result[:, rows, columns] = np.moveaxis(answer, 1, -1)
        return result

    def _request(self, shape: tuple[int, ...]) -> Any:
        """What runs images of a shape [1, C, H, W]."""
        if shape not in self._ready:
            while self._ready and sum(map(_pixels, (*self._ready, shape))) > _PIXELS:
                self._ready.popitem(last=False)
            options = {
                "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[self.precision],
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0))
                if hasattr(os, "sched_getaffinity")
                else os.cpu_count(),
            }
            graph = self._build(shape)
            self._ready[shape] = self._core.compile_model(
                graph, "CPU", options
            ).create_infer_request()
        self._ready.move_to_end(shape)
        return self._ready[shape]

    def _build(self, shape: tuple[int, ...]) -> Any:
        layers = _Layers(self._openvino.opset13, self._params)
        x = layers.input(shape)
        answer = _NETWORKS[type(self._module)](self._module, layers, x)
        return self._openvino.Model([answer], layers.inputs)

    def _modulations(self, told: np.ndarray) -> list[np.ndarray]:
        """Scales and shifts of the layers that are told something, [1, channels, 1, 1] each."""
        if "table_dense" not in self._params:
            return []
        code = _dense(self._params["table_dense"], told)
        code = code.mean(axis=tuple(range(1, code.ndim - 1)))  # over Cb and Cr, of chroma
        code = np.where(code >= 0, code, self._params["table_prelu"]["slope"] * code)
        results = []
        for layer in _told(self._params):
            scale, shift = np.split(_dense(self._params[f"table_dense{layer}"], code), 2, axis=-1)
            results += [(1 + scale)[..., None, None], shift[..., None, None]]
        return [np.ascontiguousarray(a, np.float32) for a in results]


class _Layers:
    """Makes layers of the weights of a Flax tree; images are [1, C, H, W]."""

    def __init__(self, ops: Any, params: Mapping[str, Any]):
        self._ops, self._params = ops, params
        self.inputs: list[Any] = []
        self._modulations: dict[int, tuple[Any, Any]] = {}

    def input(self, shape: tuple[int, ...]) -> Any:
        x = self._parameter(shape)
        for layer in _told(self._params):
            channels = len(self._params[f"prelu{layer}"]["slope"])
            self._modulations[layer] = tuple(self._parameter((1, channels, 1, 1)) for _ in range(2))
        return x

    def _parameter(self, shape: tuple[int, ...]) -> Any:
        self.inputs.append(self._ops.parameter(list(shape), np.float32))
        return self.inputs[-1]

    def conv(self, name: str, x: Any, *, stride: int = 1, dilation: int = 1) -> Any:
        weights = self._params[name]
        kernel = weights["kernel"].transpose(3, 2, 0, 1)
        pad = [dilation * (kernel.shape[-1] - 1) // 2] * 2
        y = self._ops.convolution(x, self._constant(kernel), [stride] * 2, pad, pad, [dilation] * 2)
        return self._ops.add(y, self._constant(weights["bias"][None, :, None, None]))

    def deconv(self, name: str, x: Any) -> Any:
        weights = self._params[name]
        y = self._ops.convolution_backprop_data(
            x,
            self._constant(weights["kernel"].transpose(2, 3, 0, 1)),
            [2, 2],
            pads_begin=[1, 1],
            pads_end=[1, 1],
        )
        return self._ops.add(y, self._constant(weights["bias"][None, :, None, None]))

    def rectify(self, i: int, y: Any) -> Any:
        if i in self._modulations:
            scale, shift = self._modulations[i]
            y = self._ops.add(self._ops.multiply(y, scale), shift)
        return self._ops.prelu(y, self._constant(self._params[f"prelu{i}"]["slope"]))

    def _constant(self, values: np.ndarray) -> Any:
        return self._ops.constant(np.ascontiguousarray(values, np.float32))


def _import_openvino() -> Any:
    """The module, without its telemetry.

    Where that is installed, importing OpenVINO reports so to its makers, and forks a process for
    it, which one with JAX's threads can't do safely. Without, it says nothing.
    """
    telemetry = "openvino_telemetry"
    silence = telemetry not in sys.modules
    if silence:
        sys.modules[telemetry] = None
    try:
        import openvino
        import openvino.opset13
    except ImportError as error:
        raise ImportError(
            'no module openvino; pip install "dmcnn-jax[openvino]", or engine "jax"'
        ) from error
    finally:
        if silence:
            del sys.modules[telemetry]
    return openvino


def _core() -> Any:
    """The process's one OpenVINO core, which is kept to its end.

    Each core gives the thread that first uses it a stack of its own for signals, and at its end
    brings back the one that was there before. Of two that don't end in the opposite order, the one
    brought back is gone: the next signal, an interrupt say, would be a segmentation fault.
    """
    global _the_core
    with _making:
        if _the_core is None:
            _the_core = _import_openvino().Core()
        return _the_core


_the_core, _making = None, threading.Lock()


def _pixels(shape: tuple[int, ...]) -> int:
    return shape[2] * shape[3]


def _inside(mask: np.ndarray, axis: int, length: int) -> slice:
    """Where a rectangle lies along an axis that is `length` long in another unit."""
    found = np.flatnonzero(mask[0, :, :, 0].any(axis=2 - axis))
    unit = length // mask.shape[axis]
    return slice(unit * found[0], unit * (found[-1] + 1))


def _told(params: Mapping[str, Any]) -> list[int]:
    """Layers that are told something."""
    prefix = "table_dense"
    return sorted(int(name[len(prefix) :]) for name in params if name[len(prefix) :].isdigit())


def _dense(weights: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    return x @ weights["kernel"] + weights["bias"]


def _pixel_branch(module: DMCNN, layers: _Layers, x: Any) -> Any:
    def layer(i: int, x: Any, channels: int, cells: int, **options: int) -> Any:
        return layers.rectify(i, layers.conv(f"conv{i}", x, **options))

    def up(i: int, x: Any, channels: int, cells: int) -> Any:
        return layers.rectify(i, layers.deconv(f"deconv{i}", x))

    full, *_ = dmcnn.connect(x, module.features, module.dilations, layer, up)
    return layers.conv("conv15", full)


def _chroma_net(module: ChromaNet, layers: _Layers, x: Any) -> Any:
    def layer(i: int, x: Any, dilation: int = 1) -> Any:
        return layers.rectify(i, layers.conv(f"conv{i}", x, dilation=dilation))

    x = chroma.connect(x, module.dilations, layer)
    return layers.conv(f"conv{len(module.dilations) + 2}", x)


_NETWORKS = {DMCNN: _pixel_branch, ChromaNet: _chroma_net}
