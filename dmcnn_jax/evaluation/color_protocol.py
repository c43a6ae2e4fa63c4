"""The colour protocol: measures `dmcnn-restore` on colour photographs.

    dmcnn-evaluate --color --images FOLDER --quality 10

Each image is saved as JPEG by Pillow and restored like any other file. The restored pixels, and
those that libjpeg decodes, are compared with the original, all in 8 bits:

- PSNR of RGB, of luma, and of chroma (Cb and Cr together, full range, at full size);
- the error of the mean colour (the largest of three channels, levels), against the original and
  against the decoded JPEG;
- the shares of the file's luma and chroma coefficients that the restored pixels reproduce.
"""

import io
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.config.types import Config
from dmcnn_jax.data import feeds
from dmcnn_jax.data import images as images_module
from dmcnn_jax.evaluation.results import mean_gain
from dmcnn_jax.images import color, metrics
from dmcnn_jax.inference.model import Model
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer
from dmcnn_jax.system.item_progress import show_progress

COLOR_HEADINGS = {
    "rgb_psnr": "RGB PSNR",
    "luma_psnr": "Y PSNR",
    "chroma_psnr": "CbCr PSNR",
    "color_shift": "mean colour",
    "color_drift": "from JPEG's",
}
SUBSAMPLING = tuple(jpeg.SUBSAMPLING_FACTORS)
"""Kinds of chroma subsampling, in the order of Pillow's numbers for them."""
_PLANES = ("luma", "chroma")


def save_jpeg(rgb: np.ndarray, quality: int, subsampling: str = "4:2:0") -> bytes:
    """Returns the bytes of the JPEG file that Pillow writes.

    Args:
        rgb: uint8 [H, W, 3].
        quality: 1 to 100.
        subsampling: of chroma, one of `SUBSAMPLING`.
    """
    file = io.BytesIO()
    Image.fromarray(rgb).save(
        file, "JPEG", quality=quality, subsampling=SUBSAMPLING.index(subsampling)
    )
    return file.getvalue()


def measure_picture(
    original: np.ndarray, output: np.ndarray, decoded: np.ndarray
) -> dict[str, float]:
    """Measures a picture.

    Args:
        original: RGB, uint8 [H, W, 3].
        output: the picture to measure, RGB, uint8 [H, W, 3].
        decoded: the JPEG as libjpeg decodes it, RGB, uint8 [H, W, 3].

    Returns:
        "rgb_psnr", "luma_psnr" and "chroma_psnr", dB, infinite without any error; "color_shift" and
        "color_drift", the distance in levels from the mean colour of the original and of the
        decoded JPEG.
    """
    planes = color.rgb_to_ycbcr(original, "full"), color.rgb_to_ycbcr(output, "full")

    def psnr(parts: Iterable[np.ndarray]) -> float:
        return metrics.psnr(*(np.ascontiguousarray(p).reshape(len(p), -1) for p in parts))

    def shift(picture: np.ndarray) -> float:
        difference = output.astype(np.int64) - picture.astype(np.int64)
        return float(np.abs(difference.mean(axis=(0, 1))).max())

    return {
        "rgb_psnr": psnr((original, output)),
        "luma_psnr": psnr(p[..., 0] for p in planes),
        "chroma_psnr": psnr(p[..., 1:] for p in planes),
        "color_shift": shift(original),
        "color_drift": shift(decoded),
    }


def evaluate(
    restorer: Restorer,
    images: Iterable[tuple[str, np.ndarray]],
    quality: int,
    *,
    subsampling: str = "4:2:0",
    source: str = "",
    total: int | None = None,
) -> dict[str, Any]:
    """Measures a restorer on images; each image counts once.

    Args:
        restorer: the restorer.
        images: names and pictures, uint8 [H, W, 3].
        quality: JPEG quality, 1 to 100.
        subsampling: of chroma, one of `SUBSAMPLING`.
        source: where the images come from; recorded in the results.
        total: number of images, for the progress bar.

    Returns:
        {"images": source, "quality": quality, "subsampling": …, "mean": {"jpeg": M, "restored": M,
        "kept": K}, "per_image": [{"name": …, "model": name or None, "jpeg": M, "restored": M,
        "kept": K}, …]}. M is what `measure_picture` returns; K is {"luma": share, "chroma": share}
        of the file's coefficients that the pixels reproduce, None if they are not counted.

    Raises:
        ValueError: if there is no image.
    """
    per_image = [
        {"name": name, **_measure_image(restorer, original, quality, subsampling)}
        for name, original in show_progress(images, total)
    ]
    if not per_image:
        raise ValueError(f"no image to evaluate on in {source!r}")
    return {
        "images": source,
        "quality": quality,
        "subsampling": subsampling,
        "mean": {
            "jpeg": metrics.mean([row["jpeg"] for row in per_image]),
            "restored": metrics.mean([row["restored"] for row in per_image]),
            "kept": {plane: _mean(row["kept"][plane] for row in per_image) for plane in _PLANES},
        },
        "per_image": per_image,
    }


def _measure_image(
    restorer: Restorer, original: np.ndarray, quality: int, subsampling: str
) -> dict[str, Any]:
    """Compresses, restores and measures one image; the result is as in "per_image"."""
    data = save_jpeg(original, quality, subsampling)
    restored = restorer(jpeg.read(data))
    with Image.open(io.BytesIO(data)) as image:
        decoded = np.asarray(image)
    return {
        "model": restored.model,
        "jpeg": measure_picture(original, decoded, decoded),
        "restored": measure_picture(original, restored.pixels, decoded),
        "kept": {
            "luma": restored.luma_tally and restored.luma_tally.share,
            "chroma": restored.chroma_tally and restored.chroma_tally.share,
        },
    }


def _mean(shares: Iterable[float | None]) -> float | None:
    """Returns the mean of the counted shares; None if there are none."""
    counted = [share for share in shares if share is not None]
    return float(np.mean(counted)) if counted else None


def evaluate_folder(
    restorer: Restorer, folder: str | os.PathLike, quality: int, *, subsampling: str = "4:2:0"
) -> dict[str, Any]:
    """Measures a restorer on all images of a folder and below it, or on the packaged ones.

    Args:
        restorer: the restorer.
        folder: the folder, or "packaged".
        quality: JPEG quality, 1 to 100.
        subsampling: of chroma, one of `SUBSAMPLING`.

    Returns:
        The same as `evaluate`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ModuleNotFoundError: if scikit-image, whose photographs are the packaged ones, is missing.
        ValueError: if there is no image.
        OSError: if one can't be read.
    """
    paths = images_module.find_images(folder)
    images = ((name, images_module.read_rgb(path)) for name, path in paths.items())
    return evaluate(
        restorer, images, quality, subsampling=subsampling, source=str(folder), total=len(paths)
    )


def evaluate_model(model: Model, config: Config, images: str | os.PathLike = "") -> dict[str, Any]:
    """Measures a chroma network together with the luma model that it was trained with.

    Args:
        model: the chroma network.
        config: of its run.
        images: folder of images; if empty, the tiles set aside for validation are measured.

    Returns:
        The same as `evaluate`.
    """
    restorer = Restorer(config.data.guide, RestoreOptions(engine="jax"), chroma=model)
    subsampling = config.data.subsampling[0]
    if images:
        return evaluate_folder(restorer, images, config.quality, subsampling=subsampling)
    tiles = feeds.open_validation(config)
    named = (
        (f"{tiles.names[image]} [{i}]", pixels)
        for i, (image, pixels) in enumerate(zip(tiles.images, tiles.take(), strict=True))
    )
    return evaluate(
        restorer,
        named,
        config.quality,
        subsampling=subsampling,
        source=f"{config.data.validation or config.data.source}, set aside for validation",
        total=len(tiles),
    )


def format_table(results: Mapping[str, Any]) -> str:
    """Returns a table of `evaluate`'s means, of gains, and of the largest colour shifts.

    Gains are finite even if an image is reproduced exactly, see `results.gains`.
    """
    mean, rows = results["mean"], results["per_image"]

    def line(name: str, values: Mapping[str, float], sign: str = "") -> str:
        return f"{name:10}" + "".join(f"{values[m]:{sign}12.3f}" for m in COLOR_HEADINGS)

    def worst(key: str, measure: str) -> str:
        row = max(rows, key=lambda row: row[key][measure])
        return f"{row[key][measure]:.3f} ({row['name']})"

    gained = {m: mean_gain(rows, m, "jpeg", "restored") for m in COLOR_HEADINGS}
    kept = [f"{plane} {mean['kept'][plane]:.3%}" for plane in _PLANES if mean["kept"][plane]]
    return "\n".join(
        [
            f"{len(rows)} images of {results['images']}, quality {results['quality']}, "
            f"{results['subsampling']}",
            f"{'':10}" + "".join(f"{heading:>12}" for heading in COLOR_HEADINGS.values()),
            line("JPEG", mean["jpeg"]),
            line("restored", mean["restored"]),
            line("gain", gained, "+"),
            f"largest shift of an image's mean colour: JPEG {worst('jpeg', 'color_shift')}, "
            f"restored {worst('restored', 'color_shift')}; "
            f"from the JPEG's: {worst('restored', 'color_drift')}",
            *([f"coefficients kept, mean over images: {', '.join(kept)}"] if kept else []),
        ]
    )
