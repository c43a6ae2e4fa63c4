#!/usr/bin/env python
"""Averages the weights of runs of one network: often better than each of them.

    python tools/average_weights.py runs/medium-qf20-long runs/medium-qf20-last -o mean.safetensors

The runs should continue each other; weights that were trained apart don't average well. After
Izmailov et al., "Averaging weights leads to wider optima and better generalization" (UAI 2018).
Validation images tell whether the mean is better:

    python -m dmcnn_jax.main --config CONFIG --mode=evaluate --weights=mean.safetensors
"""

import argparse
import sys
from collections.abc import Sequence

from dmcnn_jax.cli.process import command_parser, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    parser.add_argument("sources", nargs="+", help="workdirs, weights files or bundled names")
    parser.add_argument("-o", "--output", required=True, help="weights file to write")
    options = parser.parse_args(argv)
    return run_command("average_weights", lambda: _average(options))


def _average(options: argparse.Namespace) -> None:
    import jax
    import numpy as np

    from dmcnn_jax.inference.weights import find_weights, load_weights, save_weights
    from dmcnn_jax.models import create_model

    loaded = [load_weights(find_weights(source)) for source in options.sources]
    # Networks are compared as modules, since older files don't name options added later.
    networks = [create_model(about["model"]) for _, about in loaded]
    for source, network in zip(options.sources, networks, strict=True):
        if network != networks[0]:
            raise ValueError(f"{source!r} is of another network than {options.sources[0]!r}")
    trees = [jax.tree.map(np.asarray, variables) for variables, _ in loaded]
    mean = jax.tree.map(lambda *xs: np.mean(xs, axis=0, dtype=np.float64).astype("f4"), *trees)
    # The validation result of the first is not that of the mean.
    about = {key: value for key, value in loaded[0][1].items() if key != "validation"}
    save_weights(options.output, mean, about)
    print(f"the mean of {len(trees)}: {options.output}")


if __name__ == "__main__":
    sys.exit(main())
