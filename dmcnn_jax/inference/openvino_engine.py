"""Runs the convolutions of a network on a CPU by OpenVINO, in bfloat16 if that is faster.

XLA's CPU backend computes bfloat16 convolutions in float32. OpenVINO's (oneDNN's) take half the
time of float32 on a CPU with fast bfloat16 instructions. Everything else takes little time and
stays in JAX and float32: decoding, the DCT branch, the final sums, the projection.

A network is compiled once, for images of any size, since a compiled network for each size would
have its own memory and threads.

Only the core of a tile is kept. What lies around it matters less from layer to layer, so the engine
cuts images to what the core still depends on.

OpenVINO runs the layers that `wire_layers` of the network's module connects, and the last one, with
the same weights. It is optional (`pip install "dmcnn-jax[openvino]"`), and imported on first use.
"""

import importlib.util
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from dmcnn_jax.inference.tile_cores import CoreAxis, Cut, masked_part
from dmcnn_jax.models import chroma, dmcnn, photo
from dmcnn_jax.models.chroma import ChromaNet
from dmcnn_jax.models.dmcnn import DMCNN
from dmcnn_jax.models.photo import PhotoNet
from dmcnn_jax.models.table_conditioning import modulated_layers
from dmcnn_jax.system.cpu import has_fast_bfloat16, usable_cores
from dmcnn_jax.system.hidden_modules import hiding

PRECISIONS = ("float32", "bfloat16")

# OpenVINO caches primitives for the latest sizes of images, at least one for each layer and size:
# by default 5000, which take hundreds of megabytes.
_KEPT_PRIMITIVES = 128


def is_installed() -> bool:
    """Returns whether OpenVINO can be imported."""
    return importlib.util.find_spec("openvino") is not None


def supports(module: Any) -> bool:
    """Returns whether OpenVINO can run a network's layers: `DMCNN`, `ChromaNet`, `PhotoNet`."""
    return isinstance(module, tuple(_NETWORKS))


class Engine:
    """The layers of one network, for images of any size.

    Args:
        module: the network, a `DMCNN`, a `ChromaNet` or a `PhotoNet`.
        variables: its variables.
        precision: one of `PRECISIONS`; empty: bfloat16 if that is faster on this CPU, otherwise
            float32.

    Raises:
        ImportError: if OpenVINO is not installed.
        ValueError: if the network or the precision is not supported.
    """

    def __init__(self, module: Any, variables: Mapping[str, Any], precision: str = ""):
        if not supports(module):
            raise ValueError(
                f"OpenVINO runs DMCNN, ChromaNet and PhotoNet, not {type(module).__name__}; "
                'expected engine "jax"'
            )
        self._openvino = _import_openvino()
        self._core = _core()
        if not precision:
            native = self._core.get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
            fast = native in ("bf16", "bfloat16") and has_fast_bfloat16()
            precision = "bfloat16" if fast else "float32"
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; expected one of {PRECISIONS}")
        self.precision = precision
        self._module = module
        # For a network for photographs, the engine of its first part, the network of luma.
        self.luma: Engine | None = None
        if isinstance(module, PhotoNet):
            luma = {"params": variables["frozen"]["luma"]}
            self.luma = Engine(module.luma_network(), luma, precision)
        params = jax.tree.map(np.asarray, dict(variables)["params"])
        self._params = params["g"] if isinstance(module, DMCNN) else params
        self._request: Any = None
        self._cuts: list[Cut] = []
        self._lock = threading.Lock()

    def __call__(
        self,
        x: np.ndarray,
        encoding: np.ndarray,
        mask: np.ndarray,
        *features: np.ndarray,
        core: np.ndarray | None = None,
    ) -> np.ndarray:
        """Runs the layers on one image, which ends at the border of its mask.

        Args:
            x: their input, float32 [1, H, W, C].
            encoding: the encoded quantisation tables, float32: those of `encode_table` for a
                `DMCNN`, of `encode_tables` for a `ChromaNet`, of `encode_input` for a `PhotoNet`.
            mask: bool [1, h, w, 1], true on a rectangle; H and W are multiples of h and w.
            features: for a `PhotoNet`, the result of `coefficient_features`, float32 [1, h, w, N].
            core: the part of the image whose result is wanted, integers [2, 2]: the first row and
                the row after the last, and the same for columns, in cells of the mask. None: the
                whole image.

        Returns:
            float32 [1, H, W, N], zero outside of the rectangle and of the core.
        """
        images = [_cut(image, mask) for image in (x, *features)]
        axes = [CoreAxis.of(mask, axis, core) for axis in (0, 1)]
        with self._lock:
            if self._request is None:
                self._request = self._compile().create_infer_request()
            bounds = [bound for cut in self._cuts for bound in cut.bounds(axes)]
            inputs = [*images, *self._encodings(encoding), *bounds]
            answer = self._request.infer(inputs, share_inputs=True, share_outputs=True)[0]
            result = np.zeros((*x.shape[:3], answer.shape[1]), np.float32)
            had = self._cuts[-1].pixels if self._cuts else None
            scales = x.shape[1] // mask.shape[1], x.shape[2] // mask.shape[2]
            parts = list(zip(axes, scales, strict=True))
            core_in_answer = tuple(axis.core_in_part(scale, had) for axis, scale in parts)
            core_in_tile = tuple(axis.core_in_tile(scale) for axis, scale in parts)
            kept = answer[:, :, *core_in_answer]
            result[:, *core_in_tile] = np.moveaxis(kept, 1, -1)
        return result

    def _compile(self) -> Any:
        """Compiles the network, for images of any size."""
        layers = _Layers(self._openvino.opset13, self._params)
        answer = _NETWORKS[type(self._module)](self._module, layers)
        self._cuts = layers.cuts
        options = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[self.precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": usable_cores(),
            "CPU_RUNTIME_CACHE_CAPACITY": _KEPT_PRIMITIVES,
        }
        graph = self._openvino.Model([answer], layers.inputs)
        return self._core.compile_model(graph, "CPU", options)

    def _encodings(self, encoding: np.ndarray) -> list[np.ndarray]:
        """Returns the input of the perceptron that modulates layers, if there is one."""
        if not modulated_layers(self._params):
            return []
        # The perceptron averages its first layer over planes. That layer is linear, so the mean may
        # as well be taken before it.
        mean = encoding.mean(axis=tuple(range(1, encoding.ndim - 1)))
        return [np.ascontiguousarray(mean[..., None, None], np.float32)]


class _Layers:
    """A builder of OpenVINO layers from a Flax module's parameters; images are [1, C, H, W].

    Attributes:
        inputs: inputs of the OpenVINO model, images first, then the encoded table if layers are
            conditioned on it, [1, N, 1, 1], then begin and end of each cut.
        cuts: the cuts.
    """

    def __init__(self, ops: Any, params: Mapping[str, Any]):
        self.ops, self._params = ops, params
        self.inputs: list[Any] = []
        self.cuts: list[Cut] = []
        self._modulations: dict[int, tuple[Any, Any]] = {}

    def images(self, *channels: int) -> list[Any]:
        """Creates all inputs and returns those of images, [1, C, H, W] of any H and W."""
        images = [self._parameter((1, count, -1, -1)) for count in channels]
        if modulated_layers(self._params):
            self._add_perceptron()
        return images

    def _add_perceptron(self) -> None:
        """Adds the perceptron of `modulate_by_table`, as convolutions of one pixel.

        OpenVINO stores the results of convolutions channels last. Scales and shifts that were
        inputs would be channels first, and OpenVINO would reorder the images to match, and back.
        """
        weights = self._params["table_dense"]
        encoding = self._parameter((1, len(weights["kernel"]), 1, 1))
        hidden = self._dense(encoding, weights["kernel"], weights["bias"])
        code = self.ops.prelu(hidden, self._constant(self._params["table_prelu"]["slope"]))
        for layer in modulated_layers(self._params):
            weights = self._params[f"table_dense{layer}"]
            kernels, biases = (np.split(weights[name], 2, axis=-1) for name in ("kernel", "bias"))
            self._modulations[layer] = (
                self._dense(code, kernels[0], 1 + biases[0]),
                self._dense(code, kernels[1], biases[1]),
            )

    def _dense(self, x: Any, kernel: np.ndarray, bias: np.ndarray) -> Any:
        """Adds a layer of a perceptron, [1, N, 1, 1] → [1, M, 1, 1]."""
        weights = self._constant(kernel.T[..., None, None])
        y = self.ops.convolution(x, weights, [1, 1], [0, 0], [0, 0], [1, 1])
        return self.ops.add(y, self._constant(bias[None, :, None, None]))

    def input_channels(self, name: str) -> int:
        """Returns the channels that a convolution takes."""
        return self._params[name]["kernel"].shape[2]

    def _parameter(self, shape: tuple[int, ...], dtype: type = np.float32) -> Any:
        """Creates one input of the OpenVINO model; -1 stands for any length."""
        self.inputs.append(self.ops.parameter(list(shape), dtype))
        return self.inputs[-1]

    def near(self, x: Any, scale: int, pixels: int, had: int | None = None) -> Any:
        """Cuts an image to the core and so many pixels around it: `near` of `wire_layers`."""
        self.cuts.append(Cut(scale, pixels, had))
        begin, end = (self._parameter((2,), np.int64) for _ in range(2))
        steps, axes = (self.ops.constant(np.array(n, np.int64)) for n in ((1, 1), (2, 3)))
        return self.ops.slice(x, begin, end, steps, axes)

    def conv(self, name: str, x: Any, *, stride: int = 1, dilation: int = 1) -> Any:
        """Adds a convolution, padded by zeros to keep the size at stride 1."""
        weights = self._params[name]
        kernel = weights["kernel"].transpose(3, 2, 0, 1)
        pad = [dilation * (kernel.shape[-1] - 1) // 2] * 2
        y = self.ops.convolution(x, self._constant(kernel), [stride] * 2, pad, pad, [dilation] * 2)
        return self.ops.add(y, self._constant(weights["bias"][None, :, None, None]))

    def conv_of_pairs(self, name: str, x: Any) -> Any:
        """Adds a 1 × 1 convolution of 2 × 2 pixels as channels, as one of 2 × 2 at stride 2.

        OpenVINO 2026.4 can't compile its own rearrangement for images of any size.
        """
        weights = self._params[name]
        kernel = weights["kernel"].reshape(2, 2, -1, len(weights["bias"])).transpose(3, 2, 0, 1)
        y = self.ops.convolution(x, self._constant(kernel), [2, 2], [0, 0], [0, 0], [1, 1])
        return self.ops.add(y, self._constant(weights["bias"][None, :, None, None]))

    def deconv(self, name: str, x: Any) -> Any:
        """Adds a 4 × 4 deconvolution of stride 2, see `models.layers.Deconv`."""
        weights = self._params[name]
        y = self.ops.convolution_backprop_data(
            x,
            self._constant(weights["kernel"].transpose(2, 3, 0, 1)),
            [2, 2],
            pads_begin=[1, 1],
            pads_end=[1, 1],
        )
        return self.ops.add(y, self._constant(weights["bias"][None, :, None, None]))

    def prelu(self, i: int, y: Any, name: str = "") -> Any:
        """Adds scale and shift of layer i, if it has them, and its PReLU."""
        if i in self._modulations:
            scale, shift = self._modulations[i]
            y = self.ops.add(self.ops.multiply(y, scale), shift)
        return self.ops.prelu(y, self._constant(self._params[name or f"prelu{i}"]["slope"]))

    def tiled(self, name: str, cells: Any) -> Any:
        """Repeats a parameter [h, w, C] once for every cell of an image."""
        values = self._constant(self._params[name].transpose(2, 0, 1)[None])
        size = self.ops.shape_of(cells)
        one, height_and_width = np.array([1, 1], np.int64), np.array([2, 3], np.int64)
        counts = self.ops.gather(size, height_and_width, np.array(0, np.int64))
        return self.ops.tile(values, self.ops.concat([self.ops.constant(one), counts], 0))

    def _constant(self, values: np.ndarray) -> Any:
        return self.ops.constant(np.ascontiguousarray(values, np.float32))


def _import_openvino() -> Any:
    """Imports OpenVINO without its telemetry.

    With the package openvino_telemetry installed, importing OpenVINO reports it over the network
    from a forked process; forking isn't safe beside JAX's threads. Hiding that package prevents it.
    """
    try:
        with hiding("openvino_telemetry"):
            import openvino
            import openvino.opset13
    except ImportError as error:
        raise ImportError(
            'no module openvino; pip install "dmcnn-jax[openvino]", or engine "jax"'
        ) from error
    return openvino


def _core() -> Any:
    """Returns the OpenVINO core of this process, which is never destroyed.

    A core replaces the signal stack of the thread that first uses it, and restores the old one when
    it is destroyed. If two cores are destroyed in the order in which they were created, the stack
    restored by the second no longer exists, and the next signal causes a segmentation fault.
    """
    global _the_core
    with _making:
        if _the_core is None:
            _the_core = _import_openvino().Core()
        return _the_core


_the_core: Any = None
_making = threading.Lock()


def _cut(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Cuts out the rectangle of a mask: [1, H, W, C] → [1, C, h, w]."""
    rows, columns = (masked_part(mask, axis, image.shape[axis]) for axis in (1, 2))
    part = np.moveaxis(image[:, rows, columns], -1, 1)
    return np.ascontiguousarray(part, np.float32)


def _pixel_branch(module: DMCNN, layers: _Layers) -> Any:
    """Builds the pixel branch of a `DMCNN` up to its correction at full size."""

    def layer(i: int, x: Any, channels: int, scale: int, **options: int) -> Any:
        return layers.prelu(i, layers.conv(f"conv{i}", x, **options))

    def up(i: int, x: Any, channels: int, scale: int) -> Any:
        return layers.prelu(i, layers.deconv(f"deconv{i}", x))

    (x,) = layers.images(layers.input_channels("conv1"))
    full, *_ = dmcnn.wire_layers(x, module.features, module.dilations, layer, up, layers.near)
    return layers.conv("conv15", full)


def _chroma_net(module: ChromaNet, layers: _Layers) -> Any:
    """Builds the convolutions of a `ChromaNet`."""

    def layer(i: int, x: Any, dilation: int = 1) -> Any:
        return layers.prelu(i, layers.conv(f"conv{i}", x, dilation=dilation))

    (x,) = layers.images(layers.input_channels("conv1"))
    x = chroma.wire_layers(x, module.dilations, layer)
    return layers.conv(f"conv{len(module.dilations) + 2}", x)


def _photo_net(module: PhotoNet, layers: _Layers) -> Any:
    """Builds the convolutions of a `PhotoNet`, except those of coefficients."""

    def block(i: int, x: Any, cells: int, dilation: int = 1) -> Any:
        y = layers.conv(f"block{i}_conv1", x, dilation=dilation)
        y = layers.prelu(i, y, f"block{i}_prelu")
        return x + layers.conv(f"block{i}_conv2", y, dilation=dilation)

    def down(name: str, x: Any, channels: int, cells: int) -> Any:
        return layers.conv_of_pairs(name, x)

    def up(name: str, x: Any, channels: int, cells: int) -> Any:
        return layers.ops.depth_to_space(layers.conv(name, x), "blocks_first", 2)

    x, features = layers.images(layers.input_channels("first"), module.features[2])
    x = layers.conv("first", x) + layers.tiled("position_bias", features)
    x = layers.prelu(0, x, "first_prelu")
    steps = photo.Steps(block, down, up, layers.near)
    x = photo.wire_layers(x, features, module.features, module.dilations, steps)
    return layers.conv("last", x)


_NETWORKS: dict[type, Callable[[Any, _Layers], Any]] = {
    DMCNN: _pixel_branch,
    ChromaNet: _chroma_net,
    PhotoNet: _photo_net,
}
