"""Weights as a PyTorch state dict, for torch_dmcnn.py, torch_baselines.py and torch_photo.py.

Names are those of the Flax tree with dots, leaves have PyTorch's names, and axes its order. PyTorch
is imported by the functions that need it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dmcnn_jax.export.formats import (
    Coefficients,
    Format,
    Runner,
    choose_about,
    make_model,
    named_inputs,
)
from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.variables import variable_shapes
from dmcnn_jax.models import create_model
from dmcnn_jax.models.layers import Deconv
from dmcnn_jax.system.messages import shorten_name

if TYPE_CHECKING:
    from dmcnn_jax.export.torch_dmcnn import Restorer

# The key under which PyTorch keeps a module's state that is not a tensor.
EXTRA_STATE = "_extra_state"

# BatchNorm counts batches in an integer, which inference doesn't need.
_COUNTER = "num_batches_tracked"

# Names of leaves that differ between Flax and PyTorch.
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "slope": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


def to_torch(model: Model) -> dict[str, np.ndarray]:
    """Returns the tensors of a PyTorch state dict by name, float32."""
    flat = flatten_dict(dict(model.variables))
    state = {}
    for path, name, axes in _name_variables(model.module):
        array = np.asarray(flat[path], np.float32)
        state[name] = np.array(array if axes is None else array.transpose(axes), order="C")
    return state


def from_torch(
    module: nn.Module, state: Mapping[str, np.ndarray], source: str = "the state dict"
) -> dict[str, Any]:
    """Returns the Flax variables that the tensors of a PyTorch state dict correspond to.

    Args:
        module: the same network in Flax.
        state: tensors by name; BatchNorm's counters of batches are ignored.
        source: where they come from, for errors.

    Returns:
        The variables, float32.

    Raises:
        ValueError: if tensors are missing or superfluous.
    """
    variables = _name_variables(module)
    found = {name for name in state if not name.endswith(_COUNTER)}
    expected = {name for _, name, _ in variables}
    if found != expected:
        wrong = [f"{name} missing" for name in sorted(expected - found)]
        wrong += [f"{shorten_name(name)} unknown" for name in sorted(found - expected)]
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ValueError(
            f"the tensors of {source!r} are not those of {type(module).__name__}: "
            f"{'; '.join(wrong[:4])}{more}"
        )
    flat = {}
    for path, name, axes in variables:
        array = np.asarray(state[name], np.float32)
        if axes is not None and array.ndim == len(axes):
            array = array.transpose(np.argsort(axes))
        flat[path] = np.array(array, order="C")
    return unflatten_dict(flat)


def state_dict(model: Model) -> dict[str, Any]:
    """Returns the PyTorch state dict of a model, with its description.

    Raises:
        ValueError: if the model has no PyTorch module.
    """
    import torch

    about = json.loads(json.dumps(dict(model.about)))
    fields = about["model"]
    module_class(fields["name"])
    # Fields that PyTorch classes lack (of the loss, of JAX's precision) are stored separately, so
    # that they are restored when the weights are read back.
    jax_only = getattr(type(model.module), "JAX_ONLY_FIELDS", ())
    about["model"] = {k: v for k, v in fields.items() if k not in jax_only}
    about["jax_only"] = {k: v for k, v in fields.items() if k in jax_only}
    tensors = {name: torch.from_numpy(array) for name, array in to_torch(model).items()}
    return tensors | {EXTRA_STATE: about}


def make_module(state: Mapping[str, Any]) -> "Restorer":
    """Returns the PyTorch module of a state dict of `state_dict`, in evaluation mode."""
    from dmcnn_jax.export.torch_dmcnn import constructor_arguments

    module = module_class(state[EXTRA_STATE]["model"]["name"])(**constructor_arguments(state))
    module.load_state_dict(state)
    return module.eval()


def module_class(name: str) -> "type[Restorer]":
    """Returns the PyTorch class of a network.

    Args:
        name: as in `config.model.name`.

    Raises:
        ValueError: if it has none.
    """
    from dmcnn_jax.export.torch_baselines import MODELS
    from dmcnn_jax.export.torch_dmcnn import DMCNN
    from dmcnn_jax.export.torch_photo import PhotoNet

    classes: dict[str, type[Restorer]] = {"dmcnn": DMCNN, "photo": PhotoNet, **MODELS}
    if name not in classes:
        raise ValueError(
            f"the model {name!r} has no PyTorch module; expected one of: {', '.join(classes)}; "
            "npz, safetensors, orbax and stablehlo need none"
        )
    return classes[name]


def write(model: Model, path: Path) -> None:
    """Writes the state dict of a model.

    Raises:
        ValueError: if the model has no PyTorch module.
    """
    import torch

    torch.save(state_dict(model), path)


def read(path: Path, like: Mapping[str, Any] | None = None) -> Model:
    """Reads a state dict as a model; if it names no network, it has that of `like`.

    Raises:
        ValueError: if it can't be read, names no network, or doesn't fit it.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's errors have no common class
        raise ValueError(f"{str(path)!r} is not a PyTorch state dict ({error})") from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{str(path)!r} holds a {type(state).__name__}; expected a state dict")
    tensors = {
        str(k): v
        for k, v in state.items()
        if isinstance(v, torch.Tensor) and not str(k).endswith(_COUNTER)
    }
    about = choose_about(path, state.get(EXTRA_STATE), like)
    jax_only = about.pop("jax_only", {})
    if isinstance(jax_only, Mapping):
        about["model"] = {**about["model"], **jax_only}
    if whole := [name for name, tensor in tensors.items() if not tensor.is_floating_point()]:
        raise ValueError(
            f"{str(path)!r} holds {shorten_name(whole[0])} of the type {tensors[whole[0]].dtype}; "
            "expected floating-point numbers"
        )
    arrays = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    variables = from_torch(create_model(about["model"]), arrays, str(path))
    return make_model(path, variables, about)


def run(path: Path) -> Runner:
    """Returns a function that restores a batch by the PyTorch module of a state dict."""
    import torch

    network = make_module(torch.load(path, map_location="cpu", weights_only=True))

    def restore(coefficients: Coefficients, table: np.ndarray) -> np.ndarray:
        inputs = map(torch.from_numpy, named_inputs(coefficients, table).values())
        with torch.inference_mode():
            image = network(*inputs)["image"].permute(0, 2, 3, 1).numpy()
        return image[..., 0] if image.shape[-1] == 1 else image

    return restore


def _name_variables(
    module: nn.Module,
) -> list[tuple[tuple[str, ...], str, tuple[int, ...] | None]]:
    """Returns each variable's path in Flax, name in PyTorch, and Flax's axes in PyTorch's order."""
    kinds: dict[tuple[str, ...], type[nn.Module]] = {}

    def note_kind(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        kinds[context.module.path] = type(context.module)
        return call(*args, **kwargs)

    with nn.intercept_methods(note_kind):
        shapes = variable_shapes(module)
    names: list[tuple[tuple[str, ...], str, tuple[int, ...] | None]] = []
    for path, leaf in flatten_dict(shapes).items():
        _, *layer, name = path
        axes: tuple[int, ...] | None = None
        if name == "kernel" and leaf.ndim == 4:
            # Paths of a nested network are relative to it, without its name.
            kind = kinds.get(tuple(layer)) or kinds[tuple(layer[1:])]
            axes = (2, 3, 0, 1) if kind is Deconv else (3, 2, 0, 1)
        elif name == "kernel" and leaf.ndim == 2:
            axes = (1, 0)
        names.append((path, ".".join((*layer, _LEAVES.get(name, name))), axes))
    return names


PYTORCH = Format(
    name="torch",
    suffixes=(".pt", ".pth"),
    tolerance=1e-5,
    write=write,
    run=run,
    read=read,
    packages=("torch",),
    float32=True,
)
