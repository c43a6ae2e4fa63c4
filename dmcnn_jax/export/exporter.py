"""Models in the formats of others, and back: `tools/export_params.py` on the command line.

    npz, safetensors, orbax   weights alone, under the names of the Flax tree
    torch                     a PyTorch state dict, for the modules in torch_dmcnn.py and
                              torch_baselines.py
    onnx                      the network as a program: coefficients, table → luma, of any size
    stablehlo                 likewise, by jax.export: one file for CPU, CUDA and TPU

Whatever is written is read again, run beside the model it came from, and given its name only if
both answer alike.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dmcnn_jax import jpeg
from dmcnn_jax.inference.model import Model, estimate
from dmcnn_jax.inference.variables import check_variables, variable_shapes
from dmcnn_jax.inference.weights import find_weights, load_weights, save_weights
from dmcnn_jax.models import create_model
from dmcnn_jax.models.chroma import ChromaInput, ChromaNet
from dmcnn_jax.models.layers import Deconv

ONNX_OPSET = 18
STABLEHLO_PLATFORMS = ("cpu", "cuda", "tpu")

# By suffix where no format is named. Orbax writes a directory, which has none.
SUFFIXES = {
    ".npz": "npz",
    ".safetensors": "safetensors",
    "": "orbax",
    ".pt": "torch",
    ".pth": "torch",
    ".onnx": "onnx",
    ".stablehlo": "stablehlo",
}

# What an answer may differ by from the model's, in pixels scaled to [0, 1]: other programs add up
# in another order.
TOLERANCES = {
    "npz": 0.0,
    "safetensors": 0.0,
    "orbax": 0.0,
    "torch": 1e-5,
    "onnx": 1e-5,
    "stablehlo": 1e-6,
}


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: file or directory.
        format: one of `TOLERANCES`.
        bytes: its size.
        images: on how many images it was compared.
        difference: the largest difference from the model found there, in pixels scaled to [0, 1].
    """

    path: Path
    format: str
    bytes: int
    images: int
    difference: float


def export_model(model: Model, path: str | os.PathLike, format: str = "") -> Exported:
    """Writes a model, reads it again, and compares.

    Written to a temporary name and renamed when it has passed. A file of that name is replaced.

    Args:
        model: what to write.
        path: of the file, or of the new directory for "orbax".
        format: one of `TOLERANCES`; empty: what the suffix of `path` says.

    Returns:
        What was written, and how exactly it answers as the model does.

    Raises:
        ValueError: for an unknown format, a model that has no PyTorch module, or other answers.
        FileExistsError: if there is a directory of that name.
        ImportError: if what the format needs is not installed.
    """
    path = Path(path)
    format = format or SUFFIXES.get(path.suffix, "")
    if format not in TOLERANCES:
        raise ValueError(
            f"no format {format or path.suffix!r}; expected one of: {', '.join(TOLERANCES)}"
        )
    if path.is_dir():
        raise FileExistsError(f"{str(path)!r} is a directory; expected a new name")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    _remove(temporary)
    try:
        _WRITERS[format](model, temporary)
        differences = list(_differences(model, _RUNNERS[format](temporary), format))
        worst = max(differences)
        if not worst <= TOLERANCES[format]:
            raise ValueError(
                f"what was written as {format} answers otherwise than the model: by {worst:.1e} in "
                f"pixels scaled to [0, 1]; expected {TOLERANCES[format]:.0e} at most"
            )
        os.replace(temporary, path)
    finally:
        _remove(temporary)
    return Exported(path, format, _size(path), len(differences), worst)


def import_model(source: str | os.PathLike, like: str | os.PathLike = "") -> Model:
    """Reads a model from whatever `load` takes, or from what was exported as weights.

    Args:
        source: a bundled name, a .safetensors file, a workdir; an .npz file, a PyTorch state dict
            (.pt, .pth), an Orbax directory that `export_model` wrote.
        like: another such source, whose network is assumed where `source` does not say which it is,
            as weights that have been through other programs may not.

    Returns:
        The model.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        ValueError: if it can't be read, doesn't say which network it is of, or doesn't fit it.
        ImportError: if what the format needs is not installed.
    """
    path = Path(source)
    format = _find_format(path)
    if format in ("onnx", "stablehlo"):
        raise ValueError(
            f"{str(source)!r} is a program, not weights; expected one of: npz, safetensors, torch, "
            "orbax, a workdir or a bundled name"
        )
    if format == "safetensors":
        path = find_weights(source)
    elif not path.exists():
        raise FileNotFoundError(f"no file {str(source)!r}")
    return _READERS[format](path, like)


# Formats: how each is written, read as a model, and run.


def _write_npz(model: Model, path: Path) -> None:
    arrays = {"/".join(k): np.asarray(v) for k, v in flatten_dict(dict(model.variables)).items()}
    with path.open("wb") as file:
        np.savez(file, about=json.dumps(dict(model.about)), **arrays)


def _read_npz(path: Path, like: str | os.PathLike = "") -> Model:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, OSError) as error:
        raise ValueError(f"{str(path)!r} is no npz file of arrays ({error})") from error
    about = arrays.pop("about", None)
    about = _about(path, json.loads(str(about)) if about is not None else None, like)
    variables = unflatten_dict({tuple(key.split("/")): v for key, v in arrays.items()})
    return _model(path, variables, about)


def _write_safetensors(model: Model, path: Path) -> None:
    save_weights(path, model.variables, model.about)


def _read_safetensors(path: Path, like: str | os.PathLike = "") -> Model:
    variables, about = load_weights(path)
    return _model(path, variables, about)


def _write_orbax(model: Model, path: Path) -> None:
    import orbax.checkpoint as ocp

    items = ocp.args.Composite(
        variables=ocp.args.StandardSave(dict(model.variables)),
        about=ocp.args.JsonSave(dict(model.about)),
    )
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(path.absolute(), args=items)


def _read_orbax(path: Path, like: str | os.PathLike = "") -> Model:
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        about = checkpointer.restore(
            path.absolute(), args=ocp.args.Composite(about=ocp.args.JsonRestore())
        ).about
        # With a target, arrays go to this machine's devices, wherever they were saved.
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            variable_shapes(create_model(about["model"])),
        )
        variables = checkpointer.restore(
            path.absolute(), args=ocp.args.Composite(variables=ocp.args.StandardRestore(target))
        ).variables
    return _model(path, variables, about)


def _write_torch(model: Model, path: Path) -> None:
    torch = _import("torch")
    torch.save(_torch_state(torch, model), path)


def _torch_state(torch: Any, model: Model) -> dict[str, Any]:
    state = {name: torch.from_numpy(array) for name, array in to_torch(model).items()}
    about = json.loads(json.dumps(dict(model.about)))
    # The PyTorch classes know no fields of the loss or of JAX's precision; these are kept beside
    # the others, so that the weights can come back as what they were.
    jax_only = getattr(type(model.module), "JAX_ONLY_FIELDS", ())
    fields = about["model"]
    about["model"] = {k: v for k, v in fields.items() if k not in jax_only}
    about["jax_only"] = {k: v for k, v in fields.items() if k in jax_only}
    # Under this name PyTorch keeps what of a module is no tensor.
    return state | {"_extra_state": about}


def _read_torch(path: Path, like: str | os.PathLike = "") -> Model:
    torch = _import("torch")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's errors have no common class
        raise ValueError(f"{str(path)!r} is no PyTorch state dict ({error})") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{str(path)!r} holds a {type(state).__name__}; expected a state dict")
    about = _about(path, state.get("_extra_state"), like)
    about["model"] = {**about["model"], **about.pop("jax_only", {})}
    arrays = {k: v.float().numpy() for k, v in state.items() if isinstance(v, torch.Tensor)}
    variables = from_torch(create_model(about["model"]), arrays, str(path))
    return _model(path, variables, about)


def _write_onnx(model: Model, path: Path) -> None:
    torch, onnx = _import("torch"), _import("onnx")
    _import("onnxscript")
    state = _torch_state(torch, model)
    module = _torch_module(state["_extra_state"], state)

    class Luma(torch.nn.Module):
        """The one estimate that is asked for, [B, H, W]."""

        def __init__(self):
            super().__init__()
            self.network = module

        def forward(self, coefficients, table):
            return self.network(coefficients, table)["image"][:, 0]

    coefficients = torch.zeros((2, 3, 5, 64), dtype=torch.int32)
    table = torch.ones((2, 8, 8), dtype=torch.int32)
    batch, rows, columns = (torch.export.Dim(n, max=65535) for n in ("batch", "rows", "columns"))
    with _quiet():
        program = torch.onnx.export(
            Luma().eval(),
            (coefficients, table),
            dynamo=True,
            opset_version=ONNX_OPSET,
            input_names=["coefficients", "table"],
            output_names=["image"],
            dynamic_shapes={
                "coefficients": {0: batch, 1: rows, 2: columns},
                "table": {0: batch},
            },
            verbose=False,
        )
    proto = program.model_proto
    proto.doc_string = (
        "coefficients: k, int32 [batch, H/8, W/8, 64], channel 8*v + u, v the vertical frequency; "
        "table: Q, int32 [batch, 8, 8], likewise in natural order; "
        "image: luma, float32 [batch, H, W], scaled to [0, 1], not clipped."
    )
    onnx.helper.set_model_props(proto, {"dmcnn_jax": json.dumps(dict(model.about))})
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch's exporter says of itself and of packages that it could use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _write_stablehlo(model: Model, path: Path) -> None:
    _import("flatbuffers")  # jax.export serialises with it, and does not install it
    from jax import export

    if isinstance(model.module, ChromaNet):
        raise ValueError(
            "a network of chroma can't be written as stablehlo; expected npz, safetensors or orbax"
        )
    batch, rows, columns = export.symbolic_shape("batch, rows, columns")
    params = jax.tree.map(np.asarray, dict(model.variables))
    program = export.export(
        jax.jit(lambda coefficients, table: model.apply(params, coefficients, table)),
        platforms=STABLEHLO_PLATFORMS,
    )(
        jax.ShapeDtypeStruct((batch, rows, columns, 64), jnp.int32),
        jax.ShapeDtypeStruct((batch, 8, 8), jnp.int32),
    )
    path.write_bytes(program.serialize())


# Coefficients and table of a batch → its images, float32 [B, H, W], or [B, H, W, 2] of chroma.
Runner = Callable[[Any, np.ndarray], np.ndarray]


def _run_model(read: Callable[[Path], Model], path: Path) -> Runner:
    return _runner(read(path))


def _run_torch(path: Path) -> Runner:
    torch = _import("torch")
    state = torch.load(path, map_location="cpu", weights_only=True)
    network = _torch_module(state["_extra_state"], state)

    def run(coefficients: np.ndarray, table: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            image = network(torch.from_numpy(coefficients), torch.from_numpy(table))["image"]
        return image[:, 0].numpy()

    return run


def _run_onnx(path: Path) -> Runner:
    runtime = _import("onnxruntime")
    session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda coefficients, table: session.run(
        ["image"], {"coefficients": coefficients, "table": table}
    )[0]


def _run_stablehlo(path: Path) -> Runner:
    _import("flatbuffers")
    from jax import export

    program = export.deserialize(path.read_bytes())
    return lambda coefficients, table: np.asarray(program.call(coefficients, table))


_WRITERS: dict[str, Callable[[Model, Path], None]] = {
    "npz": _write_npz,
    "safetensors": _write_safetensors,
    "orbax": _write_orbax,
    "torch": _write_torch,
    "onnx": _write_onnx,
    "stablehlo": _write_stablehlo,
}
_READERS: dict[str, Callable[[Path, str | os.PathLike], Model]] = {
    "npz": _read_npz,
    "safetensors": _read_safetensors,
    "orbax": _read_orbax,
    "torch": _read_torch,
}
_RUNNERS: dict[str, Callable[[Path], Runner]] = {
    "npz": partial(_run_model, _read_npz),
    "safetensors": partial(_run_model, _read_safetensors),
    "orbax": partial(_run_model, _read_orbax),
    "torch": _run_torch,
    "onnx": _run_onnx,
    "stablehlo": _run_stablehlo,
}


# PyTorch: the same names with dots, other names for the leaves, other orders of axes.

# Names of leaves that differ. Those not here are the same.
_TORCH_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "slope": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


def to_torch(model: Model) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch state dict, float32, by name."""
    flat = flatten_dict(dict(model.variables))
    state = {}
    for path, name, axes in _torch_names(model.module):
        array = np.asarray(flat[path], np.float32)
        state[name] = np.array(array if axes is None else array.transpose(axes), order="C")
    return state


def from_torch(
    module: nn.Module, state: Mapping[str, np.ndarray], source: str = "the state dict"
) -> dict[str, Any]:
    """The Flax variables that the tensors of a PyTorch state dict make.

    Args:
        module: of the same network.
        state: tensors by name; BatchNorm's counters of batches are not needed and left aside.
        source: where they come from, for errors.

    Returns:
        The variables, float32.

    Raises:
        ValueError: if tensors are missing or superfluous.
    """
    names = _torch_names(module)
    found = {name for name in state if not name.endswith("num_batches_tracked")}
    expected = {name for _, name, _ in names}
    if found != expected:
        wrong = [f"{name} missing" for name in sorted(expected - found)]
        wrong += [f"{name} unknown" for name in sorted(found - expected)]
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ValueError(
            f"the tensors of {source!r} are not those of {type(module).__name__}: "
            f"{'; '.join(wrong[:4])}{more}"
        )
    flat = {}
    for path, name, axes in names:
        array = np.asarray(state[name], np.float32)
        if axes is not None and array.ndim == len(axes):
            array = array.transpose(np.argsort(axes))
        flat[path] = np.array(array, order="C")
    return unflatten_dict(flat)


def _torch_names(
    module: nn.Module,
) -> list[tuple[tuple[str, ...], str, tuple[int, ...] | None]]:
    """Of each variable: path in Flax, name in PyTorch, and Flax's axes in PyTorch's order."""
    kinds: dict[tuple[str, ...], type[nn.Module]] = {}

    def note(call, args, kwargs, context):
        kinds[context.module.path] = type(context.module)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        expected = variable_shapes(module)
    names = []
    for path, leaf in flatten_dict(expected).items():
        _, *layer, name = path
        axes = None
        if name == "kernel" and leaf.ndim == 4:
            axes = (2, 3, 0, 1) if kinds[tuple(layer)] is Deconv else (3, 2, 0, 1)
        elif name == "kernel" and leaf.ndim == 2:
            axes = (1, 0)
        names.append((path, ".".join((*layer, _TORCH_LEAVES.get(name, name))), axes))
    return names


def _torch_module(about: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
    """The PyTorch module of a state dict."""
    name = about["model"]["name"]
    if name == "dmcnn":
        from dmcnn_jax.export.torch_dmcnn import DMCNN as kind  # noqa: N811
    else:
        from dmcnn_jax.export.torch_baselines import MODELS as models  # noqa: N811

        if name not in models:
            raise ValueError(
                f"the model {name!r} has no PyTorch module; expected one of: dmcnn, "
                f"{', '.join(models)}; npz, safetensors, orbax and stablehlo need none"
            )
        kind = models[name]
    module = kind(**{k: v for k, v in about["model"].items() if k != "name"})
    module.load_state_dict(state)
    return module.eval()


# What all formats share.


def _find_format(path: Path) -> str:
    """What to read a source as; "safetensors" stands for all that `find_weights` knows."""
    if path.is_dir():
        return "orbax" if (path / "variables").is_dir() else "safetensors"
    return SUFFIXES.get(path.suffix, "safetensors") if path.suffix else "safetensors"


def _about(path: Path, about: Any, like: str | os.PathLike) -> dict[str, Any]:
    if isinstance(about, Mapping) and "model" in about:
        return dict(about)
    if not like:
        raise ValueError(
            f"{str(path)!r} does not say which network its weights are of; expected `like`: a "
            "model of the same network"
        )
    return dict(import_model(like).about)


def _model(path: Path, variables: Mapping[str, Any], about: Mapping[str, Any]) -> Model:
    module = create_model(about["model"])
    check_variables(module, variables, str(path))
    return Model(module, jax.tree.map(jnp.asarray, dict(variables)), about, str(path))


def _runner(model: Model) -> Runner:
    def run(coefficients: Any, table: np.ndarray) -> np.ndarray:
        image = np.asarray(estimate(model.module, model.variables, coefficients, table)["image"])
        return image[..., 0] if image.shape[-1] == 1 else image

    return run


def _differences(model: Model, run: Runner, format: str) -> Iterator[float]:
    """Of each test image, the largest difference between a model and what was made of it."""
    if format in ("torch", "onnx") and hasattr(model.module, "dtype"):
        # They compute in float32, whatever the model was trained in.
        model = dataclasses.replace(model, module=model.module.clone(dtype=jnp.dtype("float32")))
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise ValueError(
            f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS', '')!r}; expected the CPU among "
            "them: there outputs are compared, since accelerators round to fewer bits"
        ) from error
    with jax.default_device(cpu):
        expected = _runner(
            dataclasses.replace(model, variables=jax.device_put(model.variables, cpu))
        )
        for coefficients, table in _samples(model.module):
            answer = run(coefficients, table)
            difference = np.abs(answer - expected(coefficients, table))
            # NaN, in either, must not pass for a small number.
            difference = np.where(np.isfinite(difference), difference, np.inf)
            yield from difference.reshape(len(difference), -1).max(axis=1).tolist()


def _samples(module: nn.Module) -> Iterator[tuple[Any, np.ndarray]]:
    """Yields test batches, of one image and of several: what the file holds, and its tables.

    Coefficients are spread as in photographs.
    """
    rng = np.random.default_rng(0)
    vertical, horizontal = np.mgrid[:8, :8]
    spread = 300 / (1 + vertical + horizontal) ** 1.5  # grey levels
    for rows, columns, qualities in (1, 2, [10]), (9, 7, [5, 50, 95]):
        tables = np.stack([jpeg.quality_table(quality) for quality in qualities])
        levels = rng.laplace(size=(len(qualities), rows, columns, 8, 8)) * spread
        k = np.round(levels / tables[:, None, None])
        k = np.clip(k, -1023, 1023).astype(np.int32).reshape(*k.shape[:3], 64)
        if isinstance(module, ChromaNet):
            guide = rng.random((len(k), 16 * rows, 16 * columns, 1), np.float32)
            both = np.stack([k, k[:, ::-1]], axis=1)
            yield ChromaInput(both, guide), np.stack([tables] * 2, axis=1).astype(np.int32)
        else:
            yield k, tables.astype(np.int32)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"this format needs {name}, which can't be imported ({error}); "
            'install it with: pip install "dmcnn-jax[export]"'
        ) from error


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
