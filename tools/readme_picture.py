"""Makes the README's picture: a photograph, its JPEG at quality 10, and the restored JPEG.

    python tools/readme_picture.py

The photograph is scikit-image's `chelsea` (Stéfan van der Walt, CC0), twice enlarged in a detail.
"""

import argparse

import numpy as np
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.color import rgb_to_y
from dmcnn_jax.inference import load, restore_plane, to_uint8


def main() -> None:
    """Restores the photograph and writes the picture."""
    import skimage.data

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="dmcnn-small-qf10", help="default: %(default)s")
    parser.add_argument(
        "-o", "--output", default="docs/before_after.png", help="default: %(default)s"
    )
    options = parser.parse_args()
    original = rgb_to_y(skimage.data.chelsea(), "full")
    table = jpeg.quality_table(10)
    coefficients = np.asarray(jpeg.encode(original, table))
    decoded = np.asarray(jpeg.decode(coefficients, table))
    restored = to_uint8(restore_plane(load(options.weights), coefficients, table))
    gap = np.full((192, 8), 255, np.uint8)
    panels = [plane[40:232, 110:302] for plane in (original, decoded, restored)]
    picture = Image.fromarray(np.hstack([panels[0], gap, panels[1], gap, panels[2]]))
    size = (2 * picture.width, 2 * picture.height)
    picture.resize(size, Image.Resampling.NEAREST).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
