#!/usr/bin/env python
"""Averages the weights of runs of which one went on from the other: often better than either.

    python tools/average_weights.py runs/medium-qf20-long runs/medium-qf20-last -o mean.safetensors

After Izmailov et al., "Averaging weights leads to wider optima and better generalization"
(UAI 2018). Whether it is better, validation images say:

    python -m dmcnn_jax.main --config CONFIG --mode=evaluate --weights=mean.safetensors
"""

import argparse
import sys
from collections.abc import Sequence

import jax
import numpy as np

from dmcnn_jax.inference.weights import find_weights, load_weights, save_weights
from dmcnn_jax.models import create_model


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; an error that a user can mend is one line and exit status 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", help="workdirs, weights files or bundled names")
    parser.add_argument("-o", "--output", required=True, help="the weights file to write")
    options = parser.parse_args(argv)
    try:
        loaded = [load_weights(find_weights(source)) for source in options.sources]
        # As modules: older files don't name options that came later.
        networks = [create_model(about["model"]) for _, about in loaded]
        for source, network in zip(options.sources, networks, strict=True):
            if network != networks[0]:
                raise ValueError(f"{source!r} is of another network than {options.sources[0]!r}")
        trees = [jax.tree.map(np.asarray, variables) for variables, _ in loaded]
        mean = jax.tree.map(lambda *xs: np.mean(xs, axis=0, dtype=np.float64).astype("f4"), *trees)
        # What it validates at, nobody has measured yet.
        about = {key: value for key, value in loaded[0][1].items() if key != "validation"}
        save_weights(options.output, mean, about)
    except (OSError, ValueError) as error:
        sys.exit(f"average_weights: {error}")
    print(f"the mean of {len(trees)}: {options.output}")


if __name__ == "__main__":
    main()
