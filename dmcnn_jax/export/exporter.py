"""Writes models in other formats, and reads weights back.

    npz, safetensors, orbax   weights alone, under the names of the Flax tree
    torch                     a PyTorch state dict, for the modules in torch_dmcnn.py,
                              torch_baselines.py and torch_photo.py
    onnx                      the network as a program: coefficients, table → luma, of any size;
                              of a network for photographs, of all planes → RGB
    stablehlo                 the same, by jax.export: one file for CPU, CUDA and TPU

Every file is read back, run on test images and compared with the model before it gets its name.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.export.formats import Coefficients, Format, model_runner
from dmcnn_jax.export.onnx import ONNX
from dmcnn_jax.export.orbax_checkpoint import ORBAX, is_checkpoint
from dmcnn_jax.export.pytorch import PYTORCH
from dmcnn_jax.export.stablehlo import STABLEHLO
from dmcnn_jax.export.weights import NPZ, SAFETENSORS
from dmcnn_jax.inference.model import Model
from dmcnn_jax.inference.weights import find_weights
from dmcnn_jax.models.chroma import ChromaInput, ChromaNet
from dmcnn_jax.models.photo import PhotoNet
from dmcnn_jax.models.photo_input import PhotoInput
from dmcnn_jax.system.partial_files import partial_folder

FORMATS: dict[str, Format] = {
    format.name: format for format in (NPZ, SAFETENSORS, ORBAX, PYTORCH, ONNX, STABLEHLO)
}
"""The formats by name."""


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """The result of an export: the file, and its largest difference from the model.

    Attributes:
        path: file or directory.
        format: its name in `FORMATS`.
        bytes: size of the file, or of all files in the directory.
        images: number of test images that outputs were compared on.
        max_difference: the largest difference from the model's output on them, in pixels scaled to
            [0, 1].
    """

    path: Path
    format: str
    bytes: int
    images: int
    max_difference: float


def export_model(model: Model, path: str | os.PathLike, format: str = "") -> ExportResult:
    """Writes a model, reads it back, and compares outputs.

    It is written under a temporary name and renamed when the outputs agree; only then is an
    existing file replaced.

    Args:
        model: the model to write.
        path: of the file, or of the new directory for "orbax".
        format: a name of `FORMATS`; empty: chosen by the suffix of `path`.

    Returns:
        The file written, and the largest difference from the model.

    Raises:
        ValueError: if the format is unknown, has no program for the model, or its outputs differ by
            more than its tolerance.
        FileExistsError: if there is a directory of that name.
        ImportError: if a package that the format needs is not installed.
    """
    path = Path(path)
    chosen = _choose_format(path, format)
    if path.is_dir():
        raise FileExistsError(f"{str(path)!r} is a directory; expected a new name")
    chosen.check_installed()
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(path.parent) as folder:
        temporary = folder / path.name
        chosen.write(model, temporary)
        differences = list(_largest_differences(model, chosen, temporary))
        worst = max(differences)
        if not worst <= chosen.tolerance:
            raise ValueError(
                f"the outputs of what was written as {chosen.name} differ from the model's by "
                f"{worst:.1e}, in pixels scaled to [0, 1]; expected {chosen.tolerance:.0e} at most"
            )
        os.replace(temporary, path)
    return ExportResult(path, chosen.name, _size(path), len(differences), worst)


def import_model(source: str | os.PathLike, like: str | os.PathLike = "") -> Model:
    """Reads a model from anything that `load` takes, or from exported weights.

    Args:
        source: a bundled name, a .safetensors file, or a workdir; or an .npz file, a PyTorch state
            dict (.pt, .pth), or an Orbax directory that `export_model` wrote.
        like: another such source of the same network, for weights that don't name their network,
            such as those of other programs; empty for none.

    Returns:
        The model.

    Raises:
        FileNotFoundError: if there is no such source.
        ValueError: if it can't be read, names no network, or doesn't fit it.
        ImportError: if a package that the format needs is not installed.
    """
    path = Path(source)
    format = _find_format(path)
    if format.read is None:
        raise ValueError(
            f"{str(source)!r} is a program, not weights; expected one of: npz, safetensors, torch, "
            "orbax, a workdir or a bundled name"
        )
    if format is SAFETENSORS:
        path = find_weights(source)
    elif not path.exists():
        raise FileNotFoundError(f"no file {str(source)!r}")
    format.check_installed()
    return format.read(path, import_model(like).about if like else None)


def _choose_format(path: Path, name: str) -> Format:
    """Returns the format of a name, or of a path's suffix if that is empty."""
    if name in FORMATS:
        return FORMATS[name]
    by_suffix = {suffix: format for format in FORMATS.values() for suffix in format.suffixes}
    if not name and path.suffix in by_suffix:
        return by_suffix[path.suffix]
    raise ValueError(f"no format {name or path.suffix!r}; expected one of: {', '.join(FORMATS)}")


def _find_format(path: Path) -> Format:
    """Returns the format of a source; safetensors for everything that `find_weights` accepts."""
    if path.is_dir():
        return ORBAX if is_checkpoint(path) else SAFETENSORS
    suffixed = (format for format in FORMATS.values() if path.suffix in format.suffixes)
    return next(suffixed, SAFETENSORS) if path.suffix else SAFETENSORS


def _largest_differences(model: Model, format: Format, path: Path) -> Iterator[float]:
    """Yields the largest difference between the outputs of a model and its export, image by image.

    If the export computes in float32, so does the model here.
    """
    run = format.run(path)
    if format.float32 and hasattr(model.module, "dtype"):
        model = dataclasses.replace(model, module=model.module.clone(dtype=jnp.dtype("float32")))
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise ValueError(
            f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS', '')!r}; expected the CPU among "
            "them: outputs are compared there, since accelerators round to fewer bits"
        ) from error
    with jax.default_device(cpu):
        expected = model_runner(
            dataclasses.replace(model, variables=jax.device_put(model.variables, cpu))
        )
        for coefficients, table in _test_batches(model.module, format.subsamplings):
            output = run(coefficients, table)
            difference = np.abs(output - expected(coefficients, table))
            # A NaN in either must not count as a small number.
            difference = np.where(np.isfinite(difference), difference, np.inf)
            yield from difference.reshape(len(difference), -1).max(axis=1).tolist()


def _test_batches(
    module: nn.Module, subsamplings: Sequence[str]
) -> Iterator[tuple[Coefficients, np.ndarray]]:
    """Yields coefficients and tables of one image, and of several.

    Args:
        module: the network.
        subsamplings: names of the subsamplings of photographs.
    """
    rng = np.random.default_rng(0)
    if isinstance(module, PhotoNet):
        for name in subsamplings:
            yield _random_photos(rng, *jpeg.SUBSAMPLING_FACTORS[name])
        return
    for rows, columns, qualities in (1, 2, [10]), (9, 7, [5, 50, 95]):
        k, tables = _random_coefficients(rng, rows, columns, qualities)
        if isinstance(module, ChromaNet):
            guide = rng.random((len(k), 16 * rows, 16 * columns, 1), np.float32)
            both = jnp.asarray(np.stack([k, k[:, ::-1]], axis=1))
            yield ChromaInput(both, jnp.asarray(guide)), np.stack([tables] * 2, axis=1)
        else:
            yield k, tables


def _random_photos(
    rng: np.random.Generator, down: int, across: int
) -> tuple[PhotoInput, np.ndarray]:
    """Returns coefficients and tables of two colour pictures of a subsampling."""
    qualities = [10, 70]
    luma, tables = _random_coefficients(rng, 6, 4, qualities)
    chroma = [_random_coefficients(rng, 6 // down, 4 // across, qualities)[0] for _ in range(2)]
    k = PhotoInput(jnp.asarray(luma), jnp.asarray(np.stack(chroma, axis=1)))
    return k, np.stack([tables] * 3, axis=1)


def _random_coefficients(
    rng: np.random.Generator, rows: int, columns: int, qualities: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns k [B, rows, columns, 64], as widely spread as in photographs, and Q [B, 8, 8]."""
    vertical, horizontal = np.mgrid[:8, :8]
    spread = 300 / (1 + vertical + horizontal) ** 1.5  # grey levels
    tables = jpeg.quality_table(np.array(qualities))
    levels = rng.laplace(size=(len(qualities), rows, columns, 8, 8)) * spread
    k = np.clip(np.round(levels / tables[:, None, None]), -1023, 1023).astype(np.int32)
    return k.reshape(*k.shape[:3], 64), tables


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
