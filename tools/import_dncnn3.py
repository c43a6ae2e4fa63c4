"""Turns the weights that DnCNN-3's authors published into a weights file of this package.

    python tools/import_dncnn3.py DnCNN3.mat -o dncnn3.safetensors
    dmcnn-evaluate --weights dncnn3.safetensors --images LIVE1 --quality 10

The file is that of https://github.com/cszn/DnCNN, model/DnCNN3.mat. Needs h5py:
`pip install dmcnn-jax[compare]`.
"""

import argparse
import sys

from dmcnn_jax.inference.weights import save_weights
from dmcnn_jax.models.baselines.matconvnet import read_dncnn


def main() -> None:
    """Reads, writes; an error that a user can mend is one line and exit status 1."""
    parser = argparse.ArgumentParser(description="Imports DnCNN-3's published weights.")
    parser.add_argument("mat", help="the authors' file, MATLAB v7.3")
    parser.add_argument("-o", "--output", default="dncnn3.safetensors", help="default: %(default)s")
    options = parser.parse_args()
    try:
        variables, model = read_dncnn(options.mat)
        about = {"model": model, "name": "dncnn3", "luma": "studio", "quality_range": [5, 99]}
        about["source"] = "weights published by K. Zhang et al., https://github.com/cszn/DnCNN"
        save_weights(options.output, variables, about)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"import_dncnn3: {error}")
    count = sum(w.size for layer in variables["params"].values() for w in layer.values())
    print(f"{options.output}: {count:,} weights")


if __name__ == "__main__":
    main()
