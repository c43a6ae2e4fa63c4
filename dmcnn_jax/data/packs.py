"""Packs: tiles in files that open at once."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dmcnn_jax.data.images import Images, read_rgb
from dmcnn_jax.data.tiles import Tiles, cut_each, parallel_map

_PACK_VERSION = 1


# A WebP image is at most 16383 pixels high.
_WEBP_ROWS = 16383


def write_pack(
    path: str | os.PathLike,
    images: Images,
    *,
    tile: int,
    luma: str,
    max_short_side: int,
    compact: bool = False,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> dict[str, Any]:
    """Cuts images into tiles and writes a pack, to a temporary name first.

    Tiles go to disk as they are cut: a pack may be larger than memory.

    Args:
        path: folder to make.
        images: what to read.
        tile: as of `cut_images`, and `luma`, `max_short_side`, `progress`.
        luma: likewise.
        max_short_side: likewise.
        compact: as lossless WebP, to be decoded whole, instead of an array to be memory-mapped.
        progress: likewise.

    Returns:
        What its `pack.json` says: "names" of the images, "images", of which of them each tile is,
        and what was "skipped", among others.

    Raises:
        FileExistsError: if there is something at `path`.
        ValueError: if no image gives a tile.
        OSError: if it can't be written; nothing of it is left.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{str(path)!r} exists; name another folder, or remove it first")
    temporary = path.with_name(path.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    names, owners, skipped = [], [], Counter()
    try:
        shape = (tile, tile, 3) if luma == "rgb" else (tile, tile)
        with (_StripWriter if compact else _ArrayWriter)(temporary, shape) as writer:
            order = range(len(images))
            for name, cut in cut_each(images, order, tile, luma, max_short_side, skipped, progress):
                writer.write(cut)
                owners += [len(names)] * len(cut)
                names.append(name)
        about = {
            "version": _PACK_VERSION,
            "tile": tile,
            "luma": luma,
            "max_short_side": max_short_side,
            "names": names,
            "images": owners,
            "skipped": skipped,
        }
        (temporary / "pack.json").write_text(json.dumps(about))
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return about


class _ArrayWriter:
    """Appends tiles to `tiles.npy`."""

    def __init__(self, folder: Path, shape: tuple[int, ...]):
        self._tile, self._count = shape, 0
        self._file = (folder / "tiles.npy").open("wb")

    def __enter__(self) -> "_ArrayWriter":
        self._write_header()
        return self

    def __exit__(self, *error) -> None:
        with self._file:
            # NumPy leaves room for the first axis to grow: this header is as long as the first.
            self._file.seek(0)
            self._write_header()

    def write(self, tiles: np.ndarray) -> None:
        """Appends uint8 [some, *shape]."""
        self._count += len(tiles)
        self._file.write(np.ascontiguousarray(tiles))

    def _write_header(self) -> None:
        shape = (self._count, *self._tile)
        about = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, about | {"fortran_order": False})


class _StripWriter:
    """Appends tiles to WebP images, one below the other, as many as an image may hold."""

    def __init__(self, folder: Path, shape: tuple[int, ...]):
        self._folder, self._files, self._filled = folder, 0, 0
        self._strip = np.empty((_WEBP_ROWS // shape[0], *shape), np.uint8)

    def __enter__(self) -> "_StripWriter":
        return self

    def __exit__(self, kind, *error) -> None:
        if kind is None and self._filled:
            self._save()

    def write(self, tiles: np.ndarray) -> None:
        """Appends uint8 [some, *shape]."""
        for tile in tiles:
            self._strip[self._filled] = tile
            self._filled += 1
            if self._filled == len(self._strip):
                self._save()

    def _save(self) -> None:
        strip = self._strip[: self._filled].reshape(-1, *self._strip.shape[2:])
        path = self._folder / f"tiles-{self._files:05}.webp"
        Image.fromarray(strip).save(path, lossless=True, method=6)
        self._files, self._filled = self._files + 1, 0


def open_pack(path: str | os.PathLike, *, tile: int, luma: str) -> Tiles:
    """Opens a pack, whose array is memory-mapped; the rest as of `open_source`."""
    path = Path(path)
    about = json.loads((path / "pack.json").read_text())
    if about["version"] != _PACK_VERSION:
        raise ValueError(
            f"{str(path)!r} is a pack of version {about['version']}; expected "
            f"{_PACK_VERSION}; pack the images again"
        )
    for field, expected in (("tile", tile), ("luma", luma)):
        if about[field] != expected:
            raise ValueError(
                f"{str(path)!r} holds tiles of {field} {about[field]!r}, but config.data.{field} "
                f"is {expected!r}; "
                f"set --config.data.{field}={about[field]}, or pack the images again"
            )
    images = np.asarray(about["images"], np.int32)
    if (path / "tiles.npy").exists():
        pixels = np.load(path / "tiles.npy", mmap_mode="r")
    else:
        pixels = _read_strips(sorted(path.glob("tiles-*.webp")), tile, luma == "rgb")
    if len(pixels) != len(images):
        raise ValueError(
            f"{str(path)!r} holds {len(pixels)} tiles, but its pack.json speaks of "
            f"{len(images)}; pack the images again"
        )
    return Tiles(pixels, np.arange(len(pixels)), images, tuple(about["names"]), about["skipped"])


def _read_strips(paths: Sequence[Path], tile: int, colors: bool) -> np.ndarray:
    """All tiles of WebP images, uint8 [tiles, tile, tile(, 3)]; none is in memory twice."""
    ends = np.cumsum([0, *(_height(path) // tile for path in paths)])
    shape = (tile, tile, 3) if colors else (tile, tile)
    read = read_rgb if colors else _read_gray
    pixels = np.empty((ends[-1], *shape), np.uint8)
    for start, end, strip in zip(ends, ends[1:], parallel_map(read, paths), strict=False):
        pixels[start:end] = strip.reshape(-1, *shape)
    return pixels


def _height(path: Path) -> int:
    with Image.open(path) as image:
        return image.height


def _read_gray(path: Path) -> np.ndarray:
    # WebP knows no gray: three equal channels.
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))[..., 0]
