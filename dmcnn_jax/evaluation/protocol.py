"""Measuring a model by the protocol of the published tables.

Luma of BT.601 in 16..235, compressed as a grayscale JPEG at one quality; the decoded JPEG and the
model's output, both rounded to 8 bits, against the original: PSNR, SSIM with both windows, PSNR-B.

    dmcnn-evaluate --weights dmcnn-small-qf10 --images FOLDER --quality 10

With --color, restored colour files instead: see `dmcnn_jax.evaluation.color_protocol`.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from dmcnn_jax import jpeg
from dmcnn_jax.data import feeds
from dmcnn_jax.data import images as images_module
from dmcnn_jax.evaluation import color_protocol
from dmcnn_jax.images import metrics
from dmcnn_jax.images.color import to_uint8
from dmcnn_jax.inference.luma import restore_plane
from dmcnn_jax.inference.model import Model, load
from dmcnn_jax.jpeg.projection import project_in_bands
from dmcnn_jax.models.chroma import ChromaNet
from dmcnn_jax.system.atomic_write import replacing, write_file
from dmcnn_jax.web.gallery import Gallery, Item, describe

_HEADINGS = {"psnr": "PSNR", "ssim": "SSIM 8×8", "ssim_gauss": "SSIM Gauss", "psnr_b": "PSNR-B"}


def measure_image(
    model: Model,
    original: np.ndarray,
    quality: int,
    *,
    project: bool = False,
    ensemble: bool = False,
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Compresses, restores and measures one image.

    Args:
        model: what to measure.
        original: luma, uint8 [H, W], at least 11 × 11.
        quality: JPEG quality, 1 to 100.
        project: whether the output is projected into the file's quantisation intervals first.
        ensemble: whether the output is the mean over the image turned and mirrored in eight ways.

    Returns:
        {"jpeg": M, "model": M}, M as of `metrics.measure`, and the planes that were measured, uint8
        [H, W], under the same keys. With `project` also "unprojected", the output before it.
    """
    table = jpeg.quality_table(quality)
    coefficients = np.asarray(jpeg.encode(original, table))
    height, width = original.shape
    restored = restore_plane(model, coefficients, table, ensemble=ensemble, size=original.shape)
    planes = {"jpeg": np.asarray(jpeg.decode(coefficients, table))}
    if project:
        planes["unprojected"] = to_uint8(restored)
        project_in_bands(restored, coefficients, table)
    planes["model"] = to_uint8(restored)
    planes = {key: plane[:height, :width] for key, plane in planes.items()}
    return {key: metrics.measure(original, plane) for key, plane in planes.items()}, planes


def evaluate(
    model: Model,
    images: Iterable[tuple[str, np.ndarray]],
    quality: int,
    *,
    source: str = "",
    project: bool = False,
    ensemble: bool = False,
    total: int | None = None,
    gallery: Gallery | None = None,
) -> dict[str, Any]:
    """Measures a model on images, each counted once.

    Args:
        model: what to measure.
        images: names and lumas, uint8 [H, W].
        quality: JPEG quality, 1 to 100.
        source: where the images come from, for the record.
        project: as of `measure_image`.
        ensemble: likewise.
        total: how many images there are, for the progress bar.
        gallery: gets each image, its JPEG, what was restored, and the figures.

    Returns:
        {"images": source, "quality": quality, "model": name, "mean": {"jpeg": M, "model": M},
        "per_image": [{"name": …, "jpeg": M, "model": M}, …]}, M as of `measure_image`, which may
        have "unprojected" besides.

    Raises:
        ValueError: if there is no image, or one that is too small to measure.
    """
    per_image = []
    for name, original in tqdm(images, total=total, unit="image", leave=False):
        measured, planes = measure_image(
            model, original, quality, project=project, ensemble=ensemble
        )
        per_image.append({"name": name, **measured})
        if gallery is not None:
            gallery.add(Item(name, planes["jpeg"], planes["model"], original, measured))
    if not per_image:
        raise ValueError(f"no image to evaluate on in {source!r}")
    return {
        "images": source,
        "quality": quality,
        "model": model.name,
        "mean": {
            key: metrics.mean([row[key] for row in per_image])
            for key in per_image[0]
            if key != "name"
        },
        "per_image": per_image,
    }


def format_table(results: Mapping[str, Any]) -> str:
    """The means of `evaluate` as a table, and the gains."""
    mean = results["mean"]
    width = max(11, len(results["model"]))
    lines = [
        _describe(results),
        f"{'':{width}}" + "".join(f"{heading:>12}" for heading in _HEADINGS.values()),
    ]
    for key, name in (
        ("jpeg", "JPEG"),
        ("unprojected", "unprojected"),
        ("model", results["model"]),
    ):
        if key not in mean:
            continue
        cells = "".join(f"{mean[key][m]:12.{_digits(m)}f}" for m in _HEADINGS)
        lines.append(f"{name:{width}}{cells}")
    gains = "".join(f"{mean['model'][m] - mean['jpeg'][m]:+12.{_digits(m)}f}" for m in _HEADINGS)
    differences = [row["model"]["psnr"] - row["jpeg"]["psnr"] for row in results["per_image"]]
    interval = "gain in PSNR: " + metrics.format_gain(metrics.bootstrap(differences))
    return "\n".join([*lines, f"{'gain':{width}}{gains}", f"{interval} dB, 95 % over images"])


def write_results(path: str | os.PathLike, results: Mapping[str, Any]) -> None:
    """Writes what `evaluate` returned as JSON, to a temporary name first; infinite PSNR as null."""

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: finite(item) for key, item in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (json.dumps(finite(results), indent=1) + "\n").encode())


def write_gallery(
    path: str | os.PathLike, gallery: Gallery, results: Mapping[str, Any]
) -> tuple[str, ...]:
    """Writes a gallery that `evaluate` has filled; returns and raises as `Gallery.write`."""
    gallery.title, gallery.about = results["model"], _describe(results)
    return gallery.write(path)


def read_original(path: str | os.PathLike, luma: str) -> np.ndarray:
    """Luma of an image to measure on: uint8 [H, W], "studio" or "full".

    Raises:
        ValueError: if it can't be read, or is smaller than SSIM's windows; with its name.
    """
    try:
        plane = images_module.read_luma(path, luma)
    # A decoder may raise anything on a damaged file.
    except Exception as error:
        raise ValueError(f"{os.fspath(path)!r} can't be read ({error}); remove it") from error
    if min(plane.shape) < metrics.SMALLEST_SIDE:
        height, width = plane.shape
        raise ValueError(
            f"{os.fspath(path)!r} has {width} x {height} pixels; expected at least "
            f"{metrics.SMALLEST_SIDE} each way, as SSIM's windows have; remove it"
        )
    return plane


def evaluate_folder(
    model: Model,
    folder: str | os.PathLike,
    quality: int,
    *,
    luma: str = "studio",
    project: bool = False,
    ensemble: bool = False,
    gallery: Gallery | None = None,
) -> dict[str, Any]:
    """`evaluate` on all of a folder's images, or "packaged" ones, in luma "studio" or "full"."""
    paths = images_module.find_images(folder)
    images = ((name, read_original(path, luma)) for name, path in paths.items())
    return evaluate(
        model,
        images,
        quality,
        source=str(folder),
        project=project,
        ensemble=ensemble,
        total=len(paths),
        gallery=gallery,
    )


def evaluate_config(config: Mapping[str, Any], weights: str | os.PathLike, workdir: Path) -> None:
    """What `--mode=evaluate` does, and what follows training: a table, results.json, a picture.

    Args:
        config: of the run.
        weights: a bundled name, a weights file or a workdir.
        workdir: where the results go, unless `config.evaluate.output` says otherwise.
    """
    model = load(weights)
    options = config.evaluate
    output = Path(options.output or workdir)
    if isinstance(model.module, ChromaNet):
        results = color_protocol.evaluate_model(model, config, options.images)
        print(color_protocol.format_table(results))
        write_results(output / "results.json", results)
        print(f"each image's figures: {output / 'results.json'}")
        return
    gallery = Gallery() if options.gallery else None
    if options.images:
        results = evaluate_folder(
            model,
            options.images,
            config.quality,
            luma=options.luma,
            project=options.project,
            ensemble=options.ensemble,
            gallery=gallery,
        )
        first = images_module.read_luma(
            next(iter(images_module.find_images(options.images).values())), options.luma
        )
    else:
        tiles = feeds.open_validation(config)
        images = [
            (f"{tiles.names[image]} [{i}]", pixels)
            for i, (image, pixels) in enumerate(zip(tiles.images, tiles.take(), strict=True))
        ]
        results = evaluate(
            model,
            images,
            config.quality,
            source=f"{config.data.validation or config.data.source}, set aside for validation",
            project=options.project,
            ensemble=options.ensemble,
            total=len(images),
            gallery=gallery,
        )
        first = images[0][1]
    print(format_table(results))
    write_results(output / "results.json", results)
    picture = output / "sample.png"
    save_comparison(picture, model, first, config.quality)
    print(f"each image's figures: {output / 'results.json'}; original, JPEG, restored: {picture}")
    if gallery:
        print(describe(options.gallery, write_gallery(options.gallery, gallery, results)))
    print(
        f"next, clean a photograph with them: dmcnn-restore photo.jpg --weights {weights}\n"
        f"or measure them on images of yours: dmcnn-evaluate --weights {weights} "
        f"--images FOLDER --quality {config.quality}"
    )


def save_comparison(
    path: str | os.PathLike, model: Model, original: np.ndarray, quality: int
) -> None:
    """Writes original, JPEG and restored image side by side, 8 bits, to a temporary name first."""
    _, planes = measure_image(model, original, quality)
    gap = np.full((original.shape[0], 8), 255, np.uint8)
    side_by_side = np.hstack([original, gap, planes["jpeg"], gap, planes["model"]])
    with replacing(path) as file:
        Image.fromarray(side_by_side).save(file, format="png")


def _describe(results: Mapping[str, Any]) -> str:
    return (
        f"{len(results['per_image'])} images of {results['images']}, quality {results['quality']}"
    )


def _digits(measure: str) -> int:
    return 4 if measure.startswith("ssim") else 3
