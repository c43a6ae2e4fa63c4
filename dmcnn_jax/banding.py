"""Banding, figure 1 of the DMCNN paper, as a measurement.

At low quality JPEG keeps little more of a sky than each block's mean, rounded to a step of ten gray
levels: a slow ramp becomes a flight of stairs, whose treads are wider than most networks see. Skies
are made here, so that what they should be is known:

    python -m dmcnn_jax.banding dmcnn-qf10 dncnn3.safetensors --quality 10

The figure is the share of the JPEG's stair that remains: 1 of the JPEG, nearly 0 of the sky itself.
What is compared is the slow part of an image, its mean over a Gaussian of deviation 4 pixels, but
for the image's mean: neither noise nor single pixels count, nor does a shift of all of it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.images.color import to_uint8
from dmcnn_jax.inference.luma import restore_plane
from dmcnn_jax.inference.model import Model, load
from dmcnn_jax.system.atomic_write import replacing
from dmcnn_jax.system.compile_cache import keep_compiled
from dmcnn_jax.system.malloc import keep_memory

_DEVIATION = 4


def skies(
    count: int = 8, side: int = 256, noise: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Synthetic skies: slow ramps in two dimensions, slightly curved.

    Args:
        count: how many.
        side: of each, pixels, at least 16.
        noise: deviation of the noise that is added to a ramp, gray levels.
        seed: decides all.

    Returns:
        The images, uint8 [count, side, side], noisy and rounded; and the ramps without noise,
        float64 [count, side, side], gray levels, within 70 and 210.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / (side - 1) - 0.5
    ramps = []
    for _ in range(count):
        angle = random.uniform(0, 2 * np.pi)
        curvature = random.uniform(-0.4, 0.4, 3)
        ramp = x * np.cos(angle) + y * np.sin(angle)
        ramp += curvature[0] * x * x + curvature[1] * x * y + curvature[2] * y * y
        # From one side to the other 30 to 60 levels: three to six steps of a block's mean.
        ramp = (ramp - ramp.mean()) / np.ptp(ramp) * random.uniform(30, 60)
        ramps.append(ramp + random.uniform(110, 170))
    ramps = np.stack(ramps)
    images = np.round(ramps + random.normal(0, noise, ramps.shape))
    return images.clip(0, 255).astype(np.uint8), ramps


def stair(image: np.ndarray, ramp: np.ndarray) -> float:
    """How far an image strays from a ramp in its slow part: root mean square, gray levels.

    Args:
        image: [H, W], gray levels.
        ramp: float [H, W], what it should be, gray levels.

    Returns:
        Gray levels; 0 for the ramp itself, shifted by whatever constant.
    """
    slow = _smooth(np.asarray(image, np.float64) - ramp)
    return float(slow.std())


def remaining(images: np.ndarray, jpegs: np.ndarray, ramps: np.ndarray) -> np.ndarray:
    """The share of the JPEGs' stairs that remains in images: float64 [N], 1 for the JPEGs.

    Args:
        images: [N, H, W], gray levels.
        jpegs: [N, H, W], the decoded JPEGs, gray levels.
        ramps: float [N, H, W], what they should be.
    """
    triples = zip(images, jpegs, ramps, strict=True)
    return np.array([stair(image, ramp) / stair(coded, ramp) for image, coded, ramp in triples])


def restore_skies(model: Model, images: np.ndarray, quality: int) -> np.ndarray:
    """What a model makes of the JPEGs of images: uint8 [N, H, W], sides multiples of 8."""
    table = np.asarray(jpeg.quality_table(quality))
    coefficients = np.asarray(jpeg.encode(images, table))
    return np.stack([to_uint8(restore_plane(model, k, table)) for k in coefficients])


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; an error that a user can mend is one line and exit status 1."""
    parser = argparse.ArgumentParser(
        prog="python -m dmcnn_jax.banding",
        description="Measures how much of a JPEG's stair models leave in smooth skies.",
        epilog="example:\n"
        "  python -m dmcnn_jax.banding dmcnn-small-qf10 runs/mine --quality 10 --picture sky.png\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", help="bundled names, weights files or workdirs")
    parser.add_argument("--quality", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--count", type=int, default=8, help="skies (default: %(default)s)")
    parser.add_argument(
        "--picture", help="PNG of the first sky: itself, JPEG, models; contrast × 4"
    )
    options = parser.parse_args(argv)
    keep_memory()
    keep_compiled()
    try:
        if not 1 <= options.quality <= 100:
            raise ValueError(f"--quality is {options.quality}; expected 1 to 100")
        if options.count < 1:
            raise ValueError(f"--count is {options.count}; expected at least 1")
        models = [load(name) for name in options.models]
        images, ramps = skies(options.count)
        jpegs = np.asarray(jpeg.roundtrip(images, jpeg.quality_table(options.quality)))
        results = {"the sky itself": images, "JPEG": jpegs}
        for model in models:
            results[model.name] = restore_skies(model, images, options.quality)
        if options.picture:
            _write_picture(Path(options.picture), [stack[0] for stack in results.values()])
    except (ValueError, OSError) as error:
        sys.exit(f"banding: {error}")
    width = max(map(len, results))
    print(f"{len(images)} skies, quality {options.quality}: share of the JPEG's stair that remains")
    for name, stack in results.items():
        share = remaining(stack, jpegs, ramps)
        print(f"{name:{width}}  {share.mean():6.1%}   ({share.min():.1%} to {share.max():.1%})")


def _write_picture(path: Path, planes: Sequence[np.ndarray]) -> None:
    middle = planes[0].mean()
    stretched = [np.clip(128 + 4 * (plane - middle), 0, 255) for plane in planes]
    with replacing(path) as file:
        Image.fromarray(np.hstack(stretched).astype(np.uint8)).save(file, format="png")


def _smooth(plane: np.ndarray) -> np.ndarray:
    """Means over a Gaussian; the plane is mirrored beyond its border."""
    radius = 3 * _DEVIATION
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * _DEVIATION**2))
    weights /= weights.sum()
    for _ in range(2):  # rows, then columns: each pass leaves the result transposed
        padded = np.pad(plane, ((radius, radius), (0, 0)), mode="symmetric")
        plane = sum(weight * padded[i : i + len(plane)] for i, weight in enumerate(weights)).T
    return plane


if __name__ == "__main__":
    main()
