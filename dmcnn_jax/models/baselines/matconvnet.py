"""Reads networks that MatConvNet saved as MATLAB v7.3 files (HDF5): convolutions and ReLU in turn.

The weights published by the authors of DnCNN have this form, with batch normalisation merged into
the convolutions. Reading them needs h5py.
"""

import os
from typing import Any

import numpy as np


def read_dncnn(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the weights of a DnCNN.

    MATLAB's arrays are stored with their axes reversed: a kernel [height, width, in, out] as [out,
    in, width, height], without trailing axes of length 1. MatConvNet computes correlations as JAX
    does, so that kernels are not turned.

    Args:
        path: of the .mat file.

    Returns:
        Flax variables of `DnCNN(features, depth, batch_norm=False)`, and its configuration.

    Raises:
        FileNotFoundError: if the file doesn't exist.
        ImportError: if h5py is not installed.
        ValueError: if the file holds no such network.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"reading {str(path)!r} needs h5py ({error}); pip install 'dmcnn-jax[compare]'"
        ) from error
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"no file {str(path)!r}; expected weights saved by MatConvNet, a .mat"
        )
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{str(path)!r} is not a MATLAB v7.3 file ({error})") from error
    with file:
        if "net/layers" not in file:
            raise ValueError(f"{str(path)!r} holds no 'net.layers'; expected a MatConvNet network")
        try:
            layers = [file[reference] for reference in file["net/layers"][()].ravel()]
            kinds = [_text(layer["type"]) for layer in layers]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{str(path)!r}: its 'net.layers' are no layers of MatConvNet ({error})"
            ) from error
        expected = (["conv", "relu"] * len(layers))[: len(layers)]
        if kinds != expected or kinds[-1] != "conv":
            raise ValueError(
                f"{str(path)!r} has layers {', '.join(kinds[:6])} …; expected convolutions and "
                "ReLU in turn, batch normalisation merged"
            )
        convolutions = [
            [np.asarray(file[reference]) for reference in layer["weights"][()].ravel()]
            for layer in layers[::2]
        ]
    params = {}
    for i, (kernel, bias) in enumerate(convolutions, start=1):
        if kernel.ndim == 3:  # one output channel
            kernel = kernel[None]
        params[f"conv{i}"] = {
            "kernel": np.ascontiguousarray(kernel.transpose(3, 2, 1, 0), np.float32),
            "bias": bias.ravel().astype(np.float32),
        }
    features = params["conv1"]["kernel"].shape[-1]
    for name, layer in params.items():
        first, last = name == "conv1", name == f"conv{len(params)}"
        shape = (3, 3, 1 if first else features, 1 if last else features)
        if layer["kernel"].shape != shape or layer["bias"].shape != shape[-1:]:
            raise ValueError(
                f"{str(path)!r} has a {name} of {layer['kernel'].shape}; expected {shape}"
            )
    config = {"name": "dncnn", "features": features, "depth": len(params), "batch_norm": False}
    return {"params": params}, config


def _text(dataset: Any) -> str:
    """Reads a MATLAB char array, stored as UTF-16 code units."""
    return "".join(map(chr, np.asarray(dataset).ravel()))
