"""Makes the README's picture: a photograph, its JPEG at quality 10, and the restored picture.

    python tools/readme_picture.py

The photograph is a detail of scikit-image's `chelsea` (Stéfan van der Walt, CC0), enlarged twice.
"""

import argparse
import io
import sys
from collections.abc import Sequence

import numpy as np
from PIL import Image

import dmcnn_jax
from dmcnn_jax.cli.process import command_parser, prepare_process, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit status."""
    parser = command_parser(None, __doc__)
    parser.add_argument("--weights", help="of the luma model (default: chosen for the file)")
    parser.add_argument(
        "-o", "--output", default="docs/before_after.png", help="default: %(default)s"
    )
    options = parser.parse_args(argv)
    return run_command("readme_picture", lambda: _write_picture(options))


def _write_picture(options: argparse.Namespace) -> None:
    prepare_process()
    import skimage.data

    original = skimage.data.chelsea()
    file = io.BytesIO()
    Image.fromarray(original).save(file, "JPEG", quality=10)
    restored = dmcnn_jax.restore(file.getvalue(), options.weights)
    with Image.open(file) as image:
        decoded = np.asarray(image)
    gap = np.full((192, 8, 3), 255, np.uint8)
    panels = [plane[40:232, 110:302] for plane in (original, decoded, restored)]
    picture = Image.fromarray(np.hstack([panels[0], gap, panels[1], gap, panels[2]]))
    size = (2 * picture.width, 2 * picture.height)
    picture.resize(size, Image.Resampling.NEAREST).save(options.output, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
