"""Writes reduced copies of photographs, small enough for transfer to a machine without a network.

Photographs become AVIF files with full chroma, in a tenth of their pixels' bytes; drawings, which
AVIF would blur, become lossless WebP.
"""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from dmcnn_jax.config.types import DataConfig
from dmcnn_jax.data.graphics import Graphics
from dmcnn_jax.data.images import Images, read_rgb
from dmcnn_jax.data.rescaled import RescaledImages
from dmcnn_jax.data.tiles import ProgressBar, no_progress
from dmcnn_jax.images.color import rgb_to_y
from dmcnn_jax.system.atomic_write import write_file

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
) -> dict[str, float]:
    """Writes copies to three folders: training photographs, validation photographs and drawings.

    Args:
        folder: folder to make.
        images: photographs.
        quality: quality of AVIF, 0 to 100.
        scales: lowest and highest factor by which photographs are reduced.
        shortest: shorter side below which no photograph is reduced, pixels; smaller ones are left
            out.
        validation_images: number of photographs to set aside.
        graphics: number of drawings, `2 · shortest` pixels high and wide.
        seed: random seed.
        progress: wraps the loop over photographs.

    Returns:
        "photographs", "graphics", "skipped": numbers of files; "pixels" and "bytes" of all files;
        "psnr": mean PSNR of the luma of photographs, dB.

    Raises:
        FileExistsError: if there is something at `folder`.
        OSError: if a file can't be written.
    """
    root = Path(folder)
    if root.exists():
        raise FileExistsError(f"{str(folder)!r} exists; name another folder, or remove it first")
    for name in (_PHOTOGRAPHS, _GRAPHICS, _VALIDATION):
        (root / name).mkdir(parents=True)
    copies = RescaledImages(images, copies=1, scales=scales, shortest=shortest, seed=seed)
    aside = set(np.random.default_rng(seed).permutation(len(images))[:validation_images].tolist())

    def copy(index: int) -> tuple[int, int, float] | None:
        rgb = read_rgb(copies.open(index))
        if min(rgb.shape[:2]) < shortest:
            return None
        coded = io.BytesIO()
        Image.fromarray(rgb).save(coded, "AVIF", quality=quality, subsampling="4:4:4", speed=6)
        name = _VALIDATION if index in aside else _PHOTOGRAPHS
        write_file(root / name / f"{index:05}.avif", coded.getvalue())
        error = rgb_to_y(rgb, "full").astype(float) - rgb_to_y(read_rgb(coded), "full")
        return rgb.shape[0] * rgb.shape[1], coded.tell(), float(np.mean(np.square(error)))

    with ThreadPoolExecutor() as pool:
        done = list(progress(pool.map(copy, range(len(copies))), len(copies)))
    drawings = Graphics(graphics, 2 * shortest, seed)
    for index in range(graphics):
        coded = io.BytesIO()
        Image.open(drawings.open(index)).save(coded, "WEBP", lossless=True)
        write_file(root / _GRAPHICS / f"{index:05}.webp", coded.getvalue())
    kept = [found for found in done if found is not None]
    pixels = sum(found[0] for found in kept) + graphics * (2 * shortest) ** 2
    psnrs = [10 * np.log10(255**2 / max(found[2], 1e-3)) for found in kept]
    return {
        "photographs": len(kept),
        "graphics": graphics,
        "skipped": len(done) - len(kept),
        "pixels": pixels,
        "bytes": sum(path.stat().st_size for path in root.rglob("*") if path.is_file()),
        "psnr": float(np.mean(psnrs)),
    }


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
