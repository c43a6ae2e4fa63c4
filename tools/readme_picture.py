"""Makes the README's picture: a photograph, its JPEG at quality 10, and the restored JPEG.

    python tools/readme_picture.py

The photograph is scikit-image's `chelsea` (Stéfan van der Walt, CC0), twice enlarged in a detail.
"""

import argparse
import io

import numpy as np
from PIL import Image

import dmcnn_jax


def main() -> None:
    """Restores the photograph and writes the picture."""
    import skimage.data

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="of luma; default: what the file's table calls for")
    parser.add_argument(
        "-o", "--output", default="docs/before_after.png", help="default: %(default)s"
    )
    options = parser.parse_args()
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
    main()
