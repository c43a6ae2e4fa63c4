"""Packs: folders of tiles that open at once.

A pack holds `pack.json`, and its tiles either as one array, `tiles.npy`, which is memory-mapped, or
as lossless WebP images, `tiles-*.webp`, with the tiles of an image one below the other. WebP takes
0.27 to 0.46 of the array's bytes (PNG about 0.6), and is decoded when the pack is opened.
"""

import contextlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dmcnn_jax.data.images import Images, read_rgb
from dmcnn_jax.data.tiles import ProgressBar, Tiles, cut_each, no_progress, parallel_map
from dmcnn_jax.system.partial_files import new_folder

_PACK_VERSION = 1

TRAIN_ONLY = -1
"""The number in `copies_of` of `write_pack` for images that are never used for validation."""

# Maximum height of a WebP image, pixels.
_WEBP_ROWS = 16383


def write_pack(
    path: str | os.PathLike,
    images: Images,
    *,
    tile: int,
    luma: str,
    max_short_side: int,
    compact: bool = False,
    copies_of: Sequence[int] | None = None,
    progress: ProgressBar = no_progress,
) -> dict[str, Any]:
    """Cuts images into tiles and writes a pack, under a temporary name first.

    Tiles are written as they are cut, so a pack may be larger than memory.

    Args:
        path: folder to make.
        images: images to read.
        tile: side of a tile, pixels.
        luma: "studio", "full", or "rgb" for tiles of RGB.
        max_short_side: as in `read_rgb`.
        compact: whether tiles are stored as lossless WebP instead of an array.
        copies_of: a number for each image. Images with the same content are adjacent and share a
            number: they count as one, so that none is used for training if another is set aside for
            validation. Those with the number `TRAIN_ONLY` are never set aside. None: all images
            differ.
        progress: wraps the loop over images.

    Returns:
        The contents of `pack.json`: among others "names" of the images, "images", the index of the
        image that each tile is from, "train_only", indices of images for training only, and
        "skipped", counts by reason.

    Raises:
        FileExistsError: if there is something at `path`.
        ValueError: if no image gives a tile.
        OSError: if it can't be written; no part of it is left behind.
    """
    names: list[str] = []
    owners: list[int] = []
    train_only: list[int] = []
    skipped: Counter[str] = Counter()
    shape = (tile, tile, 3) if luma == "rgb" else (tile, tile)
    with new_folder(Path(path)) as folder:
        with (_webp_writer if compact else _array_writer)(folder, shape) as write:
            order = range(len(images))
            previous = None
            for index, cut in cut_each(
                images, order, tile, luma, max_short_side, skipped, progress
            ):
                write(cut)
                content = index if copies_of is None else copies_of[index]
                if content != previous:
                    names.append(images.name(index))
                    if content == TRAIN_ONLY:
                        train_only.append(len(names) - 1)
                previous = content
                owners += [len(names) - 1] * len(cut)
        about = {
            "version": _PACK_VERSION,
            "tile": tile,
            "luma": luma,
            "max_short_side": max_short_side,
            "names": names,
            "images": owners,
            "train_only": train_only,
            "skipped": skipped,
        }
        (folder / "pack.json").write_text(json.dumps(about))
    return about


def open_pack(path: str | os.PathLike, *, tile: int, luma: str) -> Tiles:
    """Opens a pack.

    Args:
        path: its folder.
        tile: required side of its tiles, pixels.
        luma: required content of its tiles: "studio", "full" or "rgb".

    Returns:
        The tiles; an array is memory-mapped, WebP images are decoded.

    Raises:
        ValueError: if it is no pack or one of another version, or the kind or number of its tiles
            is wrong.
    """
    path = Path(path)
    about = _read_contents(path / "pack.json")
    for field, expected in (("tile", tile), ("luma", luma)):
        found = about[field]
        if found != expected:
            # A network takes either RGB or luma, so setting the field would not help.
            other = "" if "rgb" in (found, expected) else f"set --config.data.{field}={found}, or "
            raise ValueError(
                f"{str(path)!r} holds tiles of {field} {found!r}, but config.data.{field} is "
                f"{expected!r}; {other}pack the images again with --{field} {expected}"
            )
    images = np.asarray(about["images"], np.int32)
    if (path / "tiles.npy").exists():
        pixels = np.load(path / "tiles.npy", mmap_mode="r")
    else:
        pixels = _read_webp(path, tile, luma == "rgb")
    if len(pixels) != len(images):
        raise ValueError(
            f"{str(path)!r} holds {len(pixels)} tiles, but its pack.json lists {len(images)}; "
            "pack the images again"
        )
    return Tiles(
        pixels,
        np.arange(len(pixels)),
        images,
        tuple(about["names"]),
        about["skipped"],
        frozenset(about.get("train_only", ())),  # packs of earlier versions lack it
    )


def _read_contents(file: Path) -> dict[str, Any]:
    try:
        about = json.loads(file.read_text())
    except ValueError:  # not JSON, or not UTF-8
        about = None
    if not isinstance(about, dict) or "version" not in about:
        raise ValueError(f"{str(file)!r} doesn't describe a pack; pack the images again")
    if about["version"] != _PACK_VERSION:
        raise ValueError(
            f"{str(file.parent)!r} is a pack of version {about['version']}; expected "
            f"{_PACK_VERSION}; pack the images again"
        )
    missing = {"tile", "luma", "names", "images", "skipped"} - about.keys()
    if missing:
        raise ValueError(f"{str(file)!r} lacks {', '.join(sorted(missing))}; pack the images again")
    return about


@contextlib.contextmanager
def _array_writer(folder: Path, shape: tuple[int, ...]) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that appends tiles, uint8 [count, *shape], to `tiles.npy`."""
    count = 0
    dtype = np.lib.format.dtype_to_descr(np.dtype(np.uint8))

    def write_header() -> None:
        about = {"descr": dtype, "shape": (count, *shape), "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, about)

    def write(tiles: np.ndarray) -> None:
        nonlocal count
        count += len(tiles)
        file.write(tiles.tobytes())

    with (folder / "tiles.npy").open("wb") as file:
        write_header()
        yield write
        # NumPy leaves room for the first axis to grow, so the header keeps its length.
        file.seek(0)
        write_header()


@contextlib.contextmanager
def _webp_writer(folder: Path, shape: tuple[int, ...]) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that writes tiles, uint8 [count, *shape], to a new WebP image."""
    tiles_per_file = max(1, _WEBP_ROWS // shape[0])
    numbers = itertools.count()

    def write(tiles: np.ndarray) -> None:
        for start in range(0, len(tiles), tiles_per_file):
            strip = tiles[start : start + tiles_per_file].reshape(-1, *shape[1:])
            path = folder / f"tiles-{next(numbers):08}.webp"
            Image.fromarray(strip).save(path, lossless=True)

    yield write


def _read_webp(folder: Path, tile: int, colors: bool) -> np.ndarray:
    """Reads all tiles of a pack's WebP images into one array, without a second copy in memory."""
    paths = sorted(folder.glob("tiles-*.webp"))
    ends = np.cumsum([0, *(_height(path) // tile for path in paths)])
    shape = (tile, tile, 3) if colors else (tile, tile)
    pixels = np.empty((ends[-1], *shape), np.uint8)
    for start, end, rgb in zip(ends, ends[1:], parallel_map(read_rgb, paths), strict=False):
        # WebP stores gray as three equal channels.
        pixels[start:end] = (rgb if colors else rgb[..., 0]).reshape(-1, *shape)
    return pixels


def _height(path: Path) -> int:
    with Image.open(path) as image:
        return image.height
