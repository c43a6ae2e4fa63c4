"""The gray protocol of the published tables.

    dmcnn-evaluate --weights dmcnn-small-qf10 --images FOLDER --quality 10

The original is the Y of a colour image (BT.601, 16 to 235, MATLAB's rgb2ycbcr), or an unchanged
gray image, 0 to 255. It is compressed as a grayscale JPEG at one quality. The decoded JPEG and the
model's output, both rounded to 8 bits, are compared with it by PSNR, SSIM with both windows, and
PSNR-B. See `dmcnn_jax.evaluation.color_protocol` for the measures of colour files.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.config.types import Config, EvaluateConfig
from dmcnn_jax.config.validation import LUMA_OPTIONS
from dmcnn_jax.data import feeds
from dmcnn_jax.data import images as images_module
from dmcnn_jax.data.originals import read_original_luma
from dmcnn_jax.evaluation import color_protocol, photo_protocol
from dmcnn_jax.evaluation.results import gains, mean_gain, write_results
from dmcnn_jax.evaluation.samples import Samples
from dmcnn_jax.images import metrics
from dmcnn_jax.images.color import to_uint8
from dmcnn_jax.inference.model import Model, load
from dmcnn_jax.inference.plane import restore_plane
from dmcnn_jax.jpeg.projection import project_in_bands
from dmcnn_jax.models.chroma import ChromaNet
from dmcnn_jax.models.photo import PhotoNet
from dmcnn_jax.system.item_progress import show_progress
from dmcnn_jax.web.gallery import Gallery, Item, describe


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
        model: the model.
        original: luma, uint8 [H, W], at least 11 × 11.
        quality: JPEG quality, 1 to 100.
        project: whether to project the output into the file's quantisation intervals.
        ensemble: whether to average over the eight rotations and reflections of the image.

    Returns:
        {"jpeg": M, "model": M}, where M is the result of `metrics.measure`, and the measured
        planes, uint8 [H, W], under the same keys. With `project`, both also have "unprojected", the
        output before projection.
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
    samples: Samples | None = None,
) -> dict[str, Any]:
    """Measures a model on images; each image counts once.

    Args:
        model: the model.
        images: names and lumas, uint8 [H, W].
        quality: JPEG quality, 1 to 100.
        source: where the images come from; recorded in the results.
        project: see `measure_image`.
        ensemble: see `measure_image`.
        total: number of images, for the progress bar.
        gallery: receives each image, its JPEG, the restored image and the measures.
        samples: the same.

    Returns:
        {"images": source, "quality": quality, "model": name, "mean": {"jpeg": M, "model": M},
        "per_image": [{"name": …, "jpeg": M, "model": M}, …]}, where M is {"psnr", "ssim",
        "ssim_gauss", "psnr_b"}. With `project`, "unprojected" stands beside "model".

    Raises:
        ValueError: if there is no image, or one is too small to measure.
    """
    per_image: list[dict[str, Any]] = []
    for name, original in show_progress(images, total):
        measured, planes = measure_image(
            model, original, quality, project=project, ensemble=ensemble
        )
        per_image.append({"name": name, **measured})
        if gallery is not None:
            gallery.add(Item(name, planes["jpeg"], planes["model"], original, measured))
        if samples is not None:
            samples.add(name, original, planes, measured)
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
    """Returns a table of `evaluate`'s means, and of the gains over the JPEG.

    Gains are finite even if an image is reproduced exactly, see `results.gains`.
    """
    mean, rows, model = results["mean"], results["per_image"], results["model"]
    width = max(11, len(model))

    def line(name: str, values: Mapping[str, float], sign: str = "") -> str:
        cells = (f"{values[m]:{sign}12.{_digits(m)}f}" for m in metrics.HEADINGS)
        return f"{name:{width}}{''.join(cells)}"

    names = {"jpeg": "JPEG", "unprojected": "unprojected", "model": model}
    gained = {m: mean_gain(rows, m, "jpeg", "model") for m in metrics.HEADINGS}
    interval = metrics.format_gain(metrics.bootstrap(gains(rows, "psnr", "jpeg", "model")))
    return "\n".join(
        [
            _describe(results),
            f"{'':{width}}" + "".join(f"{heading:>12}" for heading in metrics.HEADINGS.values()),
            *(line(name, mean[key]) for key, name in names.items() if key in mean),
            line("gain", gained, "+"),
            f"gain in PSNR: {interval} dB, 95 % over images",
        ]
    )


def write_gallery(
    path: str | os.PathLike, gallery: Gallery, results: Mapping[str, Any]
) -> tuple[str, ...]:
    """Writes a gallery filled by `evaluate`; returns and raises as `Gallery.write`."""
    # A gallery may be published, so it has the names of model and images without their folders.
    shown = {**results, "images": Path(results["images"]).name}
    gallery.title, gallery.about = Path(results["model"]).name, _describe(shown)
    return gallery.write(path)


def read_original(path: str | os.PathLike, luma: str) -> np.ndarray:
    """Reads the luma of an image for measuring.

    A gray image is taken unchanged, 0 to 255; see `data.originals`.

    Args:
        path: of the image.
        luma: range of a colour image's Y: "studio" (16 to 235) or "full" (0 to 255).

    Returns:
        uint8 [H, W].

    Raises:
        ValueError: if it can't be read, or is smaller than SSIM's windows; with its name.
    """
    try:
        plane = read_original_luma(path, luma)
    # A decoder may raise any error on a damaged file.
    except Exception as error:
        raise ValueError(f"{os.fspath(path)!r} can't be read ({error}); remove it") from error
    if min(plane.shape) < metrics.SMALLEST_SIDE:
        height, width = plane.shape
        raise ValueError(
            f"{os.fspath(path)!r} has {width} x {height} pixels; expected at least "
            f"{metrics.SMALLEST_SIDE} each way, the size of SSIM's windows; remove it"
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
    samples: Samples | None = None,
) -> dict[str, Any]:
    """Measures a model on all images of a folder and below it, or on the packaged ones.

    Args:
        model: the model.
        folder: the folder, or "packaged".
        quality: JPEG quality, 1 to 100.
        luma: see `read_original`.
        project: see `measure_image`.
        ensemble: see `measure_image`.
        gallery: see `evaluate`.
        samples: see `evaluate`.

    Returns:
        The same as `evaluate`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ModuleNotFoundError: if scikit-image, whose photographs are the packaged ones, is missing.
        ValueError: if there is no image, or one can't be read or is too small.
    """
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
        samples=samples,
    )


def evaluate_config(config: Config, weights: str | os.PathLike, workdir: Path) -> None:
    """Evaluates a run: prints a table, writes results.json, sample.png and perhaps a gallery.

    `--mode=evaluate` runs this, and training at its end. Results of another model are kept; the new
    files beside them are results-NAME.json and sample-NAME.png.

    Args:
        config: of the run. Without `config.evaluate.images`, the tiles set aside for validation are
            measured.
        weights: a bundled name, a weights file or a workdir.
        workdir: folder of the results, unless `config.evaluate.output` names another.
    """
    model = load(weights)
    options = config.evaluate
    output = Path(options.output or workdir)
    path, kept = _choose_results(output, model.name)
    protocol = _COLOR_PROTOCOLS.get(type(model.module))
    if protocol:
        _refuse_luma_options(options, model.name)
        results = protocol.evaluate_model(model, config, options.images)
        print(protocol.format_table(results))
        write_results(path, results)
        print(f"each image's figures: {path}{kept}")
        return
    gallery = Gallery() if options.gallery else None
    samples = Samples()
    results = _evaluate_luma(model, config, gallery, samples)
    print(format_table(results))
    write_results(path, results)
    picture = path.with_name(f"{path.stem.replace('results', 'sample', 1)}.png")
    samples.write(picture)
    print(f"each image's figures: {path}; original, JPEG, restored: {picture}{kept}")
    if gallery:
        print(describe(options.gallery, write_gallery(options.gallery, gallery, results)))
    print(
        f"next, clean a photograph with them: dmcnn-restore photo.jpg --weights {weights}\n"
        f"or measure them on images of yours: dmcnn-evaluate --weights {weights} "
        f"--images FOLDER --quality {config.quality}"
    )


# What measures networks of colour.
_COLOR_PROTOCOLS: dict[type, Any] = {ChromaNet: color_protocol, PhotoNet: photo_protocol}


def _refuse_luma_options(options: EvaluateConfig, name: str | None) -> None:
    for field, default in LUMA_OPTIONS.items():
        value = getattr(options, field)
        if value != default:
            raise ValueError(
                f"config.evaluate.{field} is {value!r}, but {name} restores colour; expected "
                f"{default!r}: only networks of luma have this option"
            )


def _evaluate_luma(
    model: Model, config: Config, gallery: Gallery | None, samples: Samples
) -> dict[str, Any]:
    """Measures a model on the images of `config`; returns the results."""
    options = config.evaluate
    if options.images:
        return evaluate_folder(
            model,
            options.images,
            config.quality,
            luma=options.luma,
            project=options.project,
            ensemble=options.ensemble,
            gallery=gallery,
            samples=samples,
        )
    tiles = feeds.open_validation(config)
    images = (
        (f"{tiles.names[image]} [{i}]", pixels)
        for i, (image, pixels) in enumerate(zip(tiles.images, tiles.take(), strict=True))
    )
    return evaluate(
        model,
        images,
        config.quality,
        source=f"{config.data.validation or config.data.source}, set aside for validation",
        project=options.project,
        ensemble=options.ensemble,
        total=len(tiles),
        gallery=gallery,
        samples=samples,
    )


def _choose_results(output: Path, model: str) -> tuple[Path, str]:
    """Returns the file for a model's results, and a note if another model's results exist.

    Args:
        output: folder of the results.
        model: name of the model, perhaps a path.
    """
    path = output / "results.json"
    try:
        earlier = json.loads(path.read_text()).get("model")
    except (OSError, ValueError, AttributeError):
        earlier = None
    if earlier is None or os.path.realpath(earlier) == os.path.realpath(model):
        return path, ""
    named = Path(model).resolve()
    name = named.name.removesuffix(".safetensors")
    if named.name != name and name in ("best", "last"):  # of a workdir
        name = f"{named.parent.name}-{name}"
    return output / f"results-{name}.json", f" ({path} has those of {earlier!r})"


def _describe(results: Mapping[str, Any]) -> str:
    return (
        f"{len(results['per_image'])} images of {results['images']}, quality {results['quality']}"
    )


def _digits(measure: str) -> int:
    return 4 if measure.startswith("ssim") else 3
