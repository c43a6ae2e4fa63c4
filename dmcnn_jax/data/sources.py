"""Where images come from: the packaged photographs, a folder, a pack. All become square tiles of
luma in memory.

A pack is a folder of two files: `tiles.npy`, uint8 [tiles, side, side], which is memory-mapped (or
    `tiles-NNNNN.webp`,
the same in about half the bytes, which is decoded whole), and `pack.json`, which says what the
tiles are.
"""

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dmcnn_jax.color import rgb_to_y

EXTENSIONS = frozenset(
    (
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".bmp",
        ".tif",
        ".tiff",
        ".webp",
        ".ppm",
        ".pgm",
        ".pnm",
        ".gif",
        ".jp2",
    )
)

# scikit-image's photographs that lie in its wheel. Left out: drawings, scans, microscope slides,
# and pictures of another kind of statistics than a photograph's.
PACKAGED = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)

_PACK_VERSION = 1
# A WebP image is at most 16383 pixels high.
_WEBP_ROWS = 16383


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Square tiles of luma.

    Attributes:
        pixels: uint8 [rows, side, side], an array or a memory map; more than these tiles, perhaps.
        rows: int64 [tiles], where in `pixels` each tile is.
        images: int32 [tiles], index in `names` of the image that a tile was cut from.
        names: of the images.
        skipped: reason → number of images that gave no tile.
    """

    pixels: np.ndarray
    rows: np.ndarray
    images: np.ndarray
    names: tuple[str, ...]
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def side(self) -> int:
        """Side of the tiles, pixels."""
        return self.pixels.shape[1]

    @property
    def nbytes(self) -> int:
        """Size of the tiles, bytes."""
        return len(self) * self.side**2

    def take(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Some tiles, or all: uint8 [indices, side, side]."""
        return np.asarray(self.pixels[self.rows[indices]])

    def of_images(self, chosen: Iterable[int]) -> "Tiles":
        """The tiles of some of the images, by index; no pixel is copied."""
        chosen = sorted(chosen)
        (kept,) = np.nonzero(np.isin(self.images, chosen))
        images = np.searchsorted(chosen, self.images[kept]).astype(np.int32)
        return Tiles(self.pixels, self.rows[kept], images, tuple(self.names[i] for i in chosen))


def open_source(source: str, *, tile: int, luma: str, reduce_to: int) -> Tiles:
    """Opens what `config.data.source` names.

    Args:
        source: "packaged", a folder of images, or a pack.
        tile: side of the tiles, pixels; of a pack, what it must have.
        luma: "studio" or "full"; likewise.
        reduce_to: longest shorter side of an image that is not reduced first, pixels; 0: none is.
            A pack's images were.

    Returns:
        The tiles.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no image that gives a tile, or a pack of other tiles.
    """
    if source == "packaged":
        return cut_images(packaged_images(), tile=tile, luma=luma, reduce_to=reduce_to)
    path = Path(source)
    if not path.is_dir():
        raise FileNotFoundError(
            f"data source {source!r} is not there; expected 'packaged', a folder of images, or a pack written by "
            "tools/pack_images.py"
        )
    if (path / "pack.json").exists():
        return open_pack(path, tile=tile, luma=luma)
    return cut_images(list_images(path), tile=tile, luma=luma, reduce_to=reduce_to)


def open_data(config: Mapping[str, Any]) -> tuple[Tiles, Tiles]:
    """Training and validation tiles, as `config.data` says; errors as of `open_source` and
    `split`."""
    data = config.data
    options = {"tile": data.tile, "luma": data.luma, "reduce_to": data.reduce_to}
    tiles = open_source(data.source, **options)
    if data.validation:
        return tiles, open_source(data.validation, **options)
    return split(tiles, data.validation_images, config.seed)


def split(tiles: Tiles, validation_images: int, seed: int) -> tuple[Tiles, Tiles]:
    """Sets images aside, all their tiles with them.

    Args:
        tiles: all there are.
        validation_images: how many images to set aside; at most a third of them are.
        seed: decides which.

    Returns:
        Training tiles and validation tiles.

    Raises:
        ValueError: if there are fewer than two images.
    """
    count = len(tiles.names)
    if count < 2:
        raise ValueError(
            f"the data source holds {count} image; expected at least 2, one to validate on; or name data.validation"
        )
    order = np.random.default_rng(seed).permutation(count)
    aside = max(1, min(validation_images, count // 3))
    return tiles.of_images(order[aside:]), tiles.of_images(order[:aside])


def packaged_images() -> list[Path]:
    """Paths of the photographs that come with scikit-image.

    Raises:
        ModuleNotFoundError: if scikit-image is not installed.
    """
    try:
        import skimage.data
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the packaged photographs are scikit-image's, which is not installed; pip install 'dmcnn-jax[train]', or set "
            "config.data.source to a folder of images"
        ) from error
    folder = Path(skimage.data.__file__).parent
    return [folder / name for name in PACKAGED if (folder / name).exists()]


def list_images(folder: str | os.PathLike) -> list[Path]:
    """Paths of all images in a folder and below it, sorted.

    Raises:
        FileNotFoundError: if the folder is not there.
        ValueError: if there is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{str(folder)!r} is not a folder; expected one that holds images")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
    if not paths:
        raise ValueError(
            f"no image in {str(folder)!r}; expected files that end in {', '.join(sorted(EXTENSIONS))}"
        )
    return paths


def read_luma(path: str | os.PathLike, luma: str, reduce_to: int = 0) -> np.ndarray:
    """Reads an image's luma.

    Args:
        path: of the image, anything that Pillow opens; turned as its EXIF orientation says; of an
            animation the first frame.
        luma: "studio" or "full".
        reduce_to: longest shorter side that is left as it is, pixels; 0: any.

    Returns:
        uint8 [H, W].

    Raises:
        OSError: if it can't be decoded.
    """
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        image = _to_rgb(image)
        shorter = min(image.size)
        if reduce_to and shorter > reduce_to:
            size = tuple(round(side * reduce_to / shorter) for side in image.size)
            image = image.resize(size, Image.Resampling.LANCZOS)
        return rgb_to_y(np.asarray(image), luma)


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits, transparency over white, 16 bits scaled to 8."""
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        # Pillow opens 16-bit gray as 16 or 32-bit integers, whose conversion to 8 clips.
        return Image.fromarray(np.clip((wide + 128) // 257, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise OSError("pixels are floating-point numbers, whose range is not known")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def cut_images(
    paths: Sequence[Path],
    *,
    tile: int,
    luma: str,
    reduce_to: int,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> Tiles:
    """Reads images and cuts them into tiles.

    An image is covered by the fewest tiles, at even distances; they overlap where its sides are no
    multiples of theirs. Images that can't be read or are smaller than a tile are skipped and
    counted.

    Args:
        paths: of the images.
        tile: side of a tile, pixels.
        luma: "studio" or "full".
        reduce_to: as of `read_luma`.
        progress: wraps the loop over images, to show how far it is.

    Returns:
        The tiles.

    Raises:
        ValueError: if no image gives one.
    """
    pixels, images, names, skipped = [], [], [], Counter()

    def read(path: Path) -> np.ndarray | str:
        try:
            return read_luma(path, luma, reduce_to)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return "unreadable"

    for path, plane in zip(paths, progress(_parallel(read, paths), len(paths)), strict=True):
        if isinstance(plane, str):
            skipped[plane] += 1
        elif min(plane.shape) < tile:
            skipped[f"smaller than {tile} pixels"] += 1
        else:
            cut = cut_tiles(plane, tile)
            pixels.append(cut)
            images.append(np.full(len(cut), len(names), np.int32))
            names.append(path.name)
    if not names:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        raise ValueError(
            f"none of {len(paths)} images gives a tile of {tile} × {tile} pixels: {reasons}"
        )
    pixels = np.concatenate(pixels)
    return Tiles(
        pixels, np.arange(len(pixels)), np.concatenate(images), tuple(names), dict(skipped)
    )


def cut_tiles(plane: np.ndarray, tile: int) -> np.ndarray:
    """Covers a plane, [H, W], by the fewest tiles, at even distances: [tiles, tile, tile]."""

    def starts(size: int) -> np.ndarray:
        return np.linspace(0, size - tile, -(-size // tile)).round().astype(int)

    height, width = plane.shape
    return np.stack(
        [plane[y : y + tile, x : x + tile] for y in starts(height) for x in starts(width)]
    )


def _parallel(function: Callable, items: Sequence) -> Iterator:
    """`map` on all cores (decoding releases the interpreter's lock), in order, few items ahead."""
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        pending = []
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 4 * workers:
                yield pending.pop(0).result()
        for future in pending:
            yield future.result()


def write_pack(
    path: str | os.PathLike, tiles: Tiles, *, luma: str, reduce_to: int, compact: bool = False
) -> None:
    """Writes a pack, to a temporary name first.

    Args:
        path: folder to make.
        tiles: what to write.
        luma: which luma they hold, "studio" or "full".
        reduce_to: what images were reduced to.
        compact: as lossless WebP, to be decoded whole, instead of an array to be memory-mapped.

    Raises:
        FileExistsError: if there is something at `path`.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{str(path)!r} exists; name another folder, or remove it first")
    temporary = path.with_name(path.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    side = tiles.side
    if compact:
        per_file = _WEBP_ROWS // side
        for i, start in enumerate(range(0, len(tiles), per_file)):
            strip = tiles.take(slice(start, start + per_file)).reshape(-1, side)
            Image.fromarray(strip).save(temporary / f"tiles-{i:05}.webp", lossless=True, method=6)
    else:
        np.save(temporary / "tiles.npy", tiles.take())
    (temporary / "pack.json").write_text(
        json.dumps(
            {
                "version": _PACK_VERSION,
                "tile": side,
                "luma": luma,
                "reduce_to": reduce_to,
                "names": tiles.names,
                "images": tiles.images.tolist(),
                "skipped": tiles.skipped,
            }
        )
    )
    temporary.rename(path)


def open_pack(path: str | os.PathLike, *, tile: int, luma: str) -> Tiles:
    """Opens a pack; its array is memory-mapped. Arguments, results and errors as of
    `open_source`."""
    path = Path(path)
    about = json.loads((path / "pack.json").read_text())
    if about["version"] != _PACK_VERSION:
        raise ValueError(
            f"{str(path)!r} is a pack of version {about['version']}; expected {_PACK_VERSION}; pack the images again"
        )
    for field, expected in (("tile", tile), ("luma", luma)):
        if about[field] != expected:
            raise ValueError(
                f"{str(path)!r} holds tiles of {field} {about[field]!r}, but config.data.{field} is {expected!r}; "
                f"set --config.data.{field}={about[field]}, or pack the images again"
            )
    images = np.asarray(about["images"], np.int32)
    if (path / "tiles.npy").exists():
        pixels = np.load(path / "tiles.npy", mmap_mode="r")
    else:
        strips = _parallel(_read_gray, sorted(path.glob("tiles-*.webp")))
        pixels = np.concatenate([strip.reshape(-1, tile, tile) for strip in strips])
    if len(pixels) != len(images):
        raise ValueError(
            f"{str(path)!r} holds {len(pixels)} tiles, but its pack.json speaks of {len(images)}; pack the images again"
        )
    return Tiles(pixels, np.arange(len(pixels)), images, tuple(about["names"]), about["skipped"])


def _read_gray(path: Path) -> np.ndarray:
    # WebP knows no gray: three equal channels.
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))[..., 0]
