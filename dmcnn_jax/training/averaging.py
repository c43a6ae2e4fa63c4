"""Averages the weights of several runs of one network."""

import os
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from dmcnn_jax.inference.weights import find_weights, load_weights, save_weights
from dmcnn_jax.models import create_model


def average_weights(sources: Sequence[str | os.PathLike], output: str | os.PathLike) -> Path:
    """Writes the mean of the weights of several files, computed in float64 and stored as float32.

    After Izmailov et al., "Averaging weights leads to wider optima and better generalization"
    (UAI 2018).

    Args:
        sources: weights files, workdirs or bundled names, of one network.
        output: the weights file to write. Its metadata are the first source's, without the
            validation figures.

    Returns:
        `output`.

    Raises:
        FileNotFoundError: if a source is missing.
        ValueError: if a source's network differs from the first one's.
        OSError: if the file can't be written.
    """
    loaded = [load_weights(find_weights(source)) for source in sources]
    # Compared as networks: older files don't name fields that were added later.
    networks = [create_model(about["model"]) for _, about in loaded]
    for source, network in zip(sources, networks, strict=True):
        if network != networks[0]:
            raise ValueError(
                f"{str(source)!r} is of another network than {str(sources[0])!r}; expected weights "
                "of one network"
            )
    trees = [jax.tree.map(np.asarray, variables) for variables, _ in loaded]
    mean = jax.tree.map(lambda *xs: np.mean(xs, axis=0, dtype=np.float64).astype("f4"), *trees)
    about = {key: value for key, value in loaded[0][1].items() if key != "validation"}
    save_weights(output, mean, about)
    return Path(output)
