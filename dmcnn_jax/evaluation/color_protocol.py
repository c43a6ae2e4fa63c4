"""Measuring the restoration of colour photographs: what `dmcnn-restore` makes of Pillow's files.

    dmcnn-evaluate --color --images FOLDER --quality 10

Each image is saved by Pillow and restored as any file is. Of the pixels, and of what libjpeg
decodes, 8 bits, against the original: PSNR of RGB, of luma, and of chroma (Cb and Cr together, full
range, at full size), and how far the mean colour is off (the largest of three channels, levels):
from the original's, which the file has mostly lost, and from the decoded JPEG's, which is what the
file says. Besides, the shares of luma and chroma coefficients that the restored pixels keep.
"""

import io
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from dmcnn_jax import jpeg
from dmcnn_jax.data import feeds
from dmcnn_jax.data import images as images_module
from dmcnn_jax.images import color, metrics
from dmcnn_jax.inference.model import Model
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer

HEADINGS = {
    "rgb_psnr": "RGB PSNR",
    "luma_psnr": "Y PSNR",
    "chroma_psnr": "CbCr PSNR",
    "color_shift": "mean colour",
    "color_drift": "from JPEG's",
}
SUBSAMPLING = ("4:4:4", "4:2:2", "4:2:0")
"""What chroma may be subsampled by, in Pillow's order."""
_PLANES = ("luma", "chroma")


def save_jpeg(rgb: np.ndarray, quality: int, subsampling: str = "4:2:0") -> bytes:
    """Pillow's file of a picture, uint8 [H, W, 3]."""
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
        original: uint8 [H, W, 3], RGB.
        output: likewise.
        decoded: likewise, what libjpeg makes of the file.

    Returns:
        "rgb_psnr", "luma_psnr" and "chroma_psnr", dB; "color_shift", levels from the original's
        mean colour; "color_drift", from the decoded picture's.
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
    """Measures a restorer on images, each counted once.

    Args:
        restorer: what to measure.
        images: names and pictures, uint8 [H, W, 3].
        quality: JPEG quality, 1 to 100.
        subsampling: of chroma: one of `SUBSAMPLING`.
        source: where the images come from, for the record.
        total: how many there are, for the progress bar.

    Returns:
        {"images": source, "quality": quality, "subsampling": …, "mean": {"jpeg": M, "restored": M,
        "kept": K}, "per_image": [{"name": …, "model": name or None, "jpeg": M, "restored": M,
        "kept": K}, …]}, M as of `measure_picture`; K: {"luma": share, "chroma": share} of the
        file's coefficients that the pixels keep, None where that is not counted.

    Raises:
        ValueError: if there is no image.
    """
    per_image = []
    for name, original in tqdm(images, total=total, unit="image", leave=False):
        data = save_jpeg(original, quality, subsampling)
        restored = restorer(jpeg.read(data))
        with Image.open(io.BytesIO(data)) as image:
            decoded = np.asarray(image)
        per_image.append(
            {
                "name": name,
                "model": restored.model,
                "jpeg": measure_picture(original, decoded, decoded),
                "restored": measure_picture(original, restored.pixels, decoded),
                "kept": {
                    "luma": restored.luma_tally and restored.luma_tally.share,
                    "chroma": restored.chroma_tally and restored.chroma_tally.share,
                },
            }
        )
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


def _mean(shares: Iterable[float | None]) -> float | None:
    """Of those that there are."""
    counted = [share for share in shares if share is not None]
    return float(np.mean(counted)) if counted else None


def evaluate_folder(
    restorer: Restorer, folder: str | os.PathLike, quality: int, *, subsampling: str = "4:2:0"
) -> dict[str, Any]:
    """`evaluate` on all images of a folder and below it, or on "packaged" ones."""
    paths = images_module.find_images(folder)
    images = ((name, images_module.read_rgb(path)) for name, path in paths.items())
    return evaluate(
        restorer, images, quality, subsampling=subsampling, source=str(folder), total=len(paths)
    )


def evaluate_model(
    model: Model, config: Mapping[str, Any], images: str | os.PathLike = ""
) -> dict[str, Any]:
    """`evaluate` of a network of chroma, with the luma that it was trained with.

    Args:
        model: a network of chroma.
        config: of its run.
        images: folder of images; empty: the tiles set aside for validation.

    Returns:
        As of `evaluate`.
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
    """The means of `evaluate` as a table, gains, the worst image's mean colour, what is kept."""
    mean, rows = results["mean"], results["per_image"]

    def line(name: str, values: Mapping[str, float], sign: str = "") -> str:
        return f"{name:10}" + "".join(f"{values[m]:{sign}12.3f}" for m in HEADINGS)

    def worst(key: str, measure: str) -> str:
        row = max(rows, key=lambda row: row[key][measure])
        return f"{row[key][measure]:.3f} ({row['name']})"

    kept = [f"{plane} {mean['kept'][plane]:.3%}" for plane in _PLANES if mean["kept"][plane]]
    return "\n".join(
        [
            f"{len(rows)} images of {results['images']}, quality {results['quality']}, "
            f"{results['subsampling']}",
            f"{'':10}" + "".join(f"{heading:>12}" for heading in HEADINGS.values()),
            line("JPEG", mean["jpeg"]),
            line("restored", mean["restored"]),
            line("gain", {m: mean["restored"][m] - mean["jpeg"][m] for m in HEADINGS}, "+"),
            f"largest shift of an image's mean colour: JPEG {worst('jpeg', 'color_shift')}, "
            f"restored {worst('restored', 'color_shift')}; "
            f"from the JPEG's: {worst('restored', 'color_drift')}",
            *([f"coefficients kept, mean over images: {', '.join(kept)}"] if kept else []),
        ]
    )
