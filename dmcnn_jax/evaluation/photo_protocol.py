"""Measures networks for photographs on RGB, luma and chroma, over qualities and subsamplings.

    python -m dmcnn_jax.main --config configs/photo.py --config.data.source=PACK --mode=evaluate

Each picture is compressed as by Pillow and restored as a whole. The results of the network and of
libjpeg are rounded to 8 bits, in YCbCr and in RGB, and compared with the original.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.config.types import Config
from dmcnn_jax.data import chroma_pairs, feeds
from dmcnn_jax.data import images as images_module
from dmcnn_jax.evaluation.results import gain
from dmcnn_jax.images import color, metrics
from dmcnn_jax.inference.model import Model, apply_module
from dmcnn_jax.jpeg.projection import project_plane
from dmcnn_jax.models.chroma import ChromaInput
from dmcnn_jax.models.photo import PhotoNet
from dmcnn_jax.models.photo_input import PhotoInput
from dmcnn_jax.system.item_progress import show_progress

QUALITIES = (10, 30, 70)
SUBSAMPLINGS = ("4:2:0", "4:4:4")
MEASURES = ("rgb", "luma", "chroma")

Restore = Callable[[PhotoInput, np.ndarray, np.ndarray], jax.Array]
"""Restores a picture: k, Q [1, 3, 8, 8] and mask [1, h, w, 1] → Y, Cb and Cr, float32
[1, H, W, 3], scaled to [0, 1]."""


def evaluate(
    restore: Restore,
    images: Iterable[tuple[str, np.ndarray]],
    *,
    qualities: Sequence[int] = QUALITIES,
    subsamplings: Sequence[str] = SUBSAMPLINGS,
    total: int | None = None,
) -> dict[str, Any]:
    """Measures a restorer on images.

    Args:
        restore: restores a picture.
        images: names and pictures, uint8 [H, W, 3].
        qualities: JPEG qualities, 1 to 100.
        subsamplings: of chroma, names as in `jpeg.SUBSAMPLING_FACTORS`.
        total: number of images, for the progress bar.

    Returns:
        {"mean": [row, …], "per_image": [row, …]}: a row is {"name", "quality", "subsampling",
        "jpeg": M, "model": M}, without a name if it is the mean of images, where M is {"rgb",
        "luma", "chroma"}, PSNR in dB; chroma is Cb and Cr together. Means limit PSNR to 100 dB.

    Raises:
        ValueError: if there is no image.
    """
    rows = [
        {"name": name, "quality": quality, "subsampling": subsampling}
        | _measure(restore, rgb, quality, subsampling)
        for name, rgb in show_progress(images, total)
        for quality, subsampling in itertools.product(qualities, subsamplings)
    ]
    if not rows:
        raise ValueError("no image to evaluate on")
    means = [
        _mean([row for row in rows if (row["quality"], row["subsampling"]) == setting])
        for setting in itertools.product(qualities, subsamplings)
    ]
    return {"mean": means, "per_image": rows}


def evaluate_model(model: Model, config: Config, images: str | os.PathLike = "") -> dict[str, Any]:
    """Measures a `PhotoNet` on a folder, or if none is given on the validation tiles."""
    named, total = open_pictures(config, images)
    return evaluate(restore_by_photo(model), named, total=total)


def open_pictures(
    config: Config, images: str | os.PathLike = ""
) -> tuple[Iterable[tuple[str, np.ndarray]], int]:
    """Opens the pictures for measuring.

    Args:
        config: of a run.
        images: a folder, or "packaged"; empty for the tiles that the run set aside.

    Returns:
        Names and pictures, uint8 [H, W, 3], and their number.
    """
    if images:
        paths = images_module.find_images(images)
        return ((name, images_module.read_rgb(path)) for name, path in paths.items()), len(paths)
    tiles = feeds.open_validation(config)
    return (
        (f"{tiles.names[image]} [{i}]", pixels)
        for i, (image, pixels) in enumerate(zip(tiles.images, tiles.take(), strict=True))
    ), len(tiles)


def restore_by_photo(model: Model) -> Restore:
    """Returns a function that restores pictures by a `PhotoNet`."""

    def restore(coefficients: PhotoInput, table: np.ndarray, mask: np.ndarray) -> jax.Array:
        return _image(model.module, model.variables, coefficients, table, mask)

    return restore


def restore_by_pair(luma: Model, chroma: Model) -> Restore:
    """Returns a function that restores luma, and then chroma guided by it, by two networks."""

    def restore(coefficients: PhotoInput, table: np.ndarray, mask: np.ndarray) -> jax.Array:
        y = _luma(luma.module, luma.variables, coefficients.luma, table[:, 0], mask)
        down, across = coefficients.subsampling
        # The guide's border is repeated for coded blocks of chroma that end beyond the picture.
        height, width = 8 * mask.any(axis=(0, 2)).sum(), 8 * mask.any(axis=(0, 1)).sum()
        rows, columns = y.shape[1:3]
        inside = y[:, :height, :width]
        guide = np.pad(
            inside, ((0, 0), (0, rows - height), (0, columns - width), (0, 0)), mode="edge"
        )
        given = ChromaInput(coefficients.chroma, jnp.asarray(guide))
        mask = mask[:, ::down, ::across]
        both = _image(chroma.module, chroma.variables, given, table[:, 1:], mask)
        return jnp.concatenate([y, both], axis=-1)

    return restore


_encode = jax.jit(chroma_pairs.encode, static_argnums=2)
_decode = jax.jit(PhotoNet.decode)


@partial(jax.jit, static_argnums=0)
def _image(
    module: nn.Module,
    variables: Mapping[str, Any],
    coefficients: PhotoInput | ChromaInput,
    table: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    """Runs a network that restores all planes, or Cb and Cr, over a whole picture."""
    image: jax.Array = apply_module(module, variables, coefficients, table, mask=mask)["image"]
    return image


@partial(jax.jit, static_argnums=0)
def _luma(
    module: nn.Module,
    variables: Mapping[str, Any],
    coefficients: jax.Array,
    table: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    image = apply_module(module, variables, coefficients, table, mask=mask)["image"]
    return project_plane(image[..., 0], coefficients, table)[..., None]


def _measure(
    restore: Restore, rgb: np.ndarray, quality: int, subsampling: str
) -> dict[str, dict[str, float]]:
    """Compresses, restores and measures a picture, uint8 [H, W, 3]."""
    height, width = rgb.shape[:2]
    coefficients, table, mask = compress_whole(rgb, quality, jpeg.SUBSAMPLING_FACTORS[subsampling])
    restored = np.asarray(restore(coefficients, table, mask))[0, :height, :width]
    output = np.clip(np.rint(restored * 255), 0, 255).astype(np.uint8)
    decoded = np.asarray(_decode(coefficients, table))[0, :height, :width]
    original = color.rgb_to_ycbcr(rgb, "full")
    return {"jpeg": _psnrs(original, decoded, rgb), "model": _psnrs(original, output, rgb)}


def compress_whole(
    rgb: np.ndarray, quality: int, subsampling: tuple[int, int]
) -> tuple[PhotoInput, np.ndarray, np.ndarray]:
    """Compresses a picture of any size as Pillow does.

    Args:
        rgb: uint8 [H, W, 3].
        quality: 1 to 100.
        subsampling: vertical and horizontal subsampling factors.

    Returns:
        k, of whole blocks of chroma; Q, int32 [1, 3, 8, 8]; and which blocks of luma are in the
        picture, bool [1, h, w, 1].
    """
    tables = chroma_pairs.standard_tables(np.array([quality]))
    luma, chroma = jax.device_get(_encode(jnp.asarray(rgb[None]), tables, subsampling))
    rows, columns = (s * n for s, n in zip(subsampling, chroma[0].shape[2:4], strict=True))
    inside = luma[0].shape[1:3]
    missing = (rows - inside[0], columns - inside[1])
    k = np.pad(luma[0], ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
    mask = np.zeros((1, rows, columns, 1), bool)
    mask[:, : inside[0], : inside[1]] = True
    table = np.concatenate([luma[1][:, None], chroma[1]], axis=1)
    return PhotoInput(jnp.asarray(k), jnp.asarray(chroma[0])), table, mask


def _psnrs(original: np.ndarray, output: np.ndarray, rgb: np.ndarray) -> dict[str, float]:
    """Returns the PSNR of RGB, luma and chroma; `original` and `output` are YCbCr."""
    pairs = {
        "rgb": (rgb, color.ycbcr_to_rgb(output, "full")),
        "luma": (original[..., 0], output[..., 0]),
        "chroma": (original[..., 1:], output[..., 1:]),
    }
    return {
        measure: metrics.psnr(*(np.ascontiguousarray(p).reshape(len(p), -1) for p in pair))
        for measure, pair in pairs.items()
    }


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the mean of the rows of one quality and subsampling."""
    mean = {key: rows[0][key] for key in ("quality", "subsampling")}
    for key in ("jpeg", "model"):
        mean[key] = {m: float(np.mean([min(100.0, row[key][m]) for row in rows])) for m in MEASURES}
    return mean


def format_table(results: Mapping[str, Any]) -> str:
    """Returns a table of the means that `evaluate` returned: PSNR of the result, and its gain."""
    images = len(results["per_image"]) // len(results["mean"])
    lines = [
        f"{images} images",
        f"{'quality':>7} {'chroma':>6}"
        + "".join(
            f"{measure.upper() if measure == 'rgb' else measure:>10} dB {'gain':>7}"
            for measure in MEASURES
        ),
    ]
    for row in results["mean"]:
        cells = (
            f"{row['model'][m]:13.3f} {gain('psnr', row['jpeg'][m], row['model'][m]):+7.3f}"
            for m in MEASURES
        )
        lines.append(f"{row['quality']:7} {row['subsampling']:>6}" + "".join(cells))
    return "\n".join(lines)
