"""Writes reduced copies of photographs, small enough for transfer to a machine without a network.

Photographs become AVIF files with full chroma, in a tenth of their pixels' bytes; drawings, which
AVIF would blur, become lossless WebP.
"""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dmcnn_jax.config.types import DataConfig
from dmcnn_jax.data.graphics import Graphics
from dmcnn_jax.data.images import Images, UnusableImageError, read_rgb, read_usable
from dmcnn_jax.data.rescaled import RescaledImages
from dmcnn_jax.data.tiles import ProgressBar, format_counts, no_progress
from dmcnn_jax.images.color import rgb_to_y
from dmcnn_jax.system.cpu import usable_cores
from dmcnn_jax.system.partial_files import new_folder

_PHOTOGRAPHS, _GRAPHICS, _VALIDATION = "training/photographs", "training/graphics", "validation"


def write_copies(
    folder: str | os.PathLike,
    images: Images,
    *,
    quality: int,
    scales: tuple[float, float],
    shortest: int,
    validation_images: int,
    graphics: int,
    seed: int = 0,
    progress: ProgressBar = no_progress,
) -> dict[str, Any]:
    """Writes copies to three folders: training photographs, validation photographs and drawings.

    Args:
        folder: folder to make.
        images: photographs; those that can't be read are left out.
        quality: quality of AVIF, 0 to 100.
        scales: lowest and highest factor by which photographs are reduced.
        shortest: shorter side below which no photograph is reduced, pixels; smaller ones are left
            out.
        validation_images: number of photographs to set aside, which is limited to a third of them.
        graphics: number of drawings, `2 · shortest` pixels high and wide.
        seed: random seed.
        progress: wraps the loop over photographs.

    Returns:
        "photographs", "graphics": numbers of files; "skipped": counts by reason; "pixels" and
        "bytes" of all files; "psnr": mean PSNR of the luma of photographs, dB.

    Raises:
        FileExistsError: if there is something at `folder`.
        ValueError: if no photograph is left for training, or for validation.
        OSError: if a file can't be written; no part of the folder is left behind.
    """
    copies = RescaledImages(images, copies=1, scales=scales, shortest=shortest, seed=seed)
    limit = max(1, min(validation_images, len(images) // 3))
    aside = set(np.random.default_rng(seed).permutation(len(images))[:limit].tolist())
    drawings = Graphics(graphics, 2 * shortest, seed)
    with new_folder(Path(folder)) as root:
        for name in (_PHOTOGRAPHS, _GRAPHICS, _VALIDATION):
            (root / name).mkdir(parents=True)

        def copy(index: int) -> _Copy | str:
            """Writes a copy; returns the reason if the photograph can't be used."""
            try:
                rgb = read_usable(copies, index, 0, shortest)
            except UnusableImageError as reason:
                return str(reason)
            name = _VALIDATION if index in aside else _PHOTOGRAPHS
            path = root / name / f"{index:05}.avif"
            Image.fromarray(rgb).save(path, "AVIF", quality=quality, subsampling="4:4:4", speed=6)
            error = rgb_to_y(rgb, "full").astype(float) - rgb_to_y(read_rgb(path), "full")
            return _Copy(name, rgb.shape[0] * rgb.shape[1], float(np.mean(np.square(error))))

        with ThreadPoolExecutor(usable_cores()) as pool:
            done = list(progress(pool.map(copy, range(len(copies))), len(copies)))
        skipped = Counter(each for each in done if isinstance(each, str))
        kept = [each for each in done if isinstance(each, _Copy)]
        for name in (_PHOTOGRAPHS, _VALIDATION):
            if not any(each.folder == name for each in kept):
                raise ValueError(
                    f"no photograph is left for {name}, of {len(done)} ({format_counts(skipped)} "
                    f"left out, {len(aside)} set aside for validation); expected more photographs "
                    f"of at least {shortest} pixels a side"
                )
        for index in range(graphics):
            path = root / _GRAPHICS / f"{index:05}.webp"
            Image.open(drawings.open(index)).save(path, lossless=True)
        size = total_size([root])
    return {
        "photographs": len(kept),
        "graphics": graphics,
        "skipped": skipped,
        "pixels": sum(each.pixels for each in kept) + graphics * (2 * shortest) ** 2,
        "bytes": size,
        "psnr": float(np.mean([10 * np.log10(255**2 / max(each.error, 1e-3)) for each in kept])),
    }


class _Copy(NamedTuple):
    """A copy that was written: its folder, its number of pixels, and the mean squared error."""

    folder: str
    pixels: int
    error: float


def use_copies(data: DataConfig, folder: str | os.PathLike, tile: int) -> None:
    """Sets the sources of a configuration to the folders that `write_copies` wrote.

    Args:
        data: `config.data`, changed in place. Networks for colour get the drawings as well; those
            for luma, which are compared on photographs, don't.
        folder: the folder.
        tile: side of the tiles to cut, pixels; at most `shortest`.

    Raises:
        FileNotFoundError: if the folder holds no such copies.
    """
    root = Path(folder)
    if not (root / _PHOTOGRAPHS).is_dir():
        raise FileNotFoundError(
            f"{str(folder)!r} has no folder {_PHOTOGRAPHS!r}; expected what "
            "`python tools/gpu_session.py pack` writes"
        )
    data.source = str(root / ("training" if data.luma == "rgb" else _PHOTOGRAPHS))
    data.validation = str(root / _VALIDATION)
    data.tile, data.max_short_side = tile, 0
    # Devices that train by the clock have enough memory.
    data.device_bytes = 8 * 2**30


def total_size(paths: Sequence[str | os.PathLike]) -> int:
    """Returns the size of files, and of the files in folders, bytes."""
    files = [file for path in map(Path, paths) for file in (path, *path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())
