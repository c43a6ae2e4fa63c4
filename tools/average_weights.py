#!/usr/bin/env python
"""Averages the weights of runs that continue each other: often better than each of them.

    python tools/average_weights.py runs/first runs/second -o mean.safetensors

After Izmailov et al., "Averaging weights leads to wider optima and better generalization"
(UAI 2018). Evaluate the mean on validation images to see whether it is better:

    python -m dmcnn_jax.main --config CONFIG --mode=evaluate --weights=mean.safetensors
"""

import argparse
import sys
from collections.abc import Sequence

from dmcnn_jax.training.averaging import average_weights


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; an error is one line and exit status 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", help="workdirs, weights files or bundled names")
    parser.add_argument("-o", "--output", required=True, help="the weights file to write")
    options = parser.parse_args(argv)
    try:
        average_weights(options.sources, options.output)
    except (OSError, ValueError) as error:
        sys.exit(f"average_weights: {error}")
    print(f"the mean of {len(options.sources)} weights files: {options.output}")


if __name__ == "__main__":
    main()
