"""Where images come from: the packaged photographs, a folder, a pack.

All become square tiles of luma, or of RGB, in memory, or, for tf.data, images that are opened one
by one (`Images`). Any image that Pillow opens will do; what can't be used is skipped and counted.

A pack is a folder of two files: `tiles.npy`, uint8 [tiles, side, side] or, of RGB,
[tiles, side, side, 3], which is memory-mapped (or
`tiles-NNNNN.webp`, the same in about half the bytes, which is decoded whole), and `pack.json`,
which says what the tiles are.
"""

import dataclasses
import hashlib
import io
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from dmcnn_jax.images.color import rgb_to_y

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
# Tiles whose pixels enter a fingerprint.
_SAMPLED_TILES = 64
# A WebP image is at most 16383 pixels high.
_WEBP_ROWS = 16383


class Images(Protocol):
    """Images in a fixed order, any of which can be opened at any time."""

    def __len__(self) -> int:
        """How many there are."""

    def name(self, index: int) -> str:
        """What to call one in a message."""

    def open(self, index: int) -> str | os.PathLike | io.BytesIO:
        """One of them, for Pillow to open."""

    @property
    def fingerprint(self) -> str:
        """Differs where the images do."""


class ImageFiles:
    """Images that are files.

    Args:
        paths: of the files.
    """

    def __init__(self, paths: Sequence[str | os.PathLike]):
        self._paths = [Path(path) for path in paths]

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        """The file's name."""
        return self._paths[index].name

    def open(self, index: int) -> Path:
        """The file's path."""
        return self._paths[index]

    @property
    def fingerprint(self) -> str:
        """Of names and sizes; the folder may move."""
        return _digest([path.name, path.stat().st_size] for path in self._paths)


class UnusableImageError(Exception):
    """An image that can't be trained on; its message is the reason, as it is counted."""


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Square tiles of luma, or of RGB.

    Attributes:
        pixels: uint8 [rows, side, side] or [rows, side, side, 3], an array or a memory map; more
            than these tiles, perhaps.
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
        return len(self) * math.prod(self.pixels.shape[1:])

    @property
    def fingerprint(self) -> str:
        """Of which tile is from which image, and of the pixels of some; the files may move."""
        sample = np.linspace(0, len(self) - 1, min(len(self), _SAMPLED_TILES)).astype(int)
        pixels = hashlib.sha256(np.ascontiguousarray(self.take(sample))).hexdigest()
        return _digest([list(self.names), self.images.tolist(), self.side, pixels])

    def take(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Some tiles, or all: uint8 [indices, side, side], of RGB [indices, side, side, 3]."""
        return np.asarray(self.pixels[self.rows[indices]])

    def of_images(self, chosen: Iterable[int]) -> "Tiles":
        """The tiles of some of the images, by index; no pixel is copied."""
        chosen = sorted(chosen)
        (kept,) = np.nonzero(np.isin(self.images, chosen))
        images = np.searchsorted(chosen, self.images[kept]).astype(np.int32)
        names = tuple(self.names[i] for i in chosen)
        return Tiles(self.pixels, self.rows[kept], images, names, self.skipped)


def open_source(source: str, *, tile: int, luma: str, reduce_to: int) -> Tiles:
    """Opens what `config.data.source` names, as tiles.

    Args:
        source: "packaged", a folder of images, or a pack.
        tile: side of the tiles, pixels; of a pack, what it must have.
        luma: "studio", "full", or "rgb" for tiles of RGB; likewise.
        reduce_to: longest shorter side of an image that is not reduced first, pixels; 0: none is.
            A pack's images were.

    Returns:
        The tiles.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no image that gives a tile, or a pack of other tiles.
    """
    if source != "packaged" and (Path(source) / "pack.json").exists():
        return open_pack(source, tile=tile, luma=luma)
    return cut_images(open_images(source), tile=tile, luma=luma, reduce_to=reduce_to)


def open_images(source: str) -> ImageFiles:
    """Opens "packaged" or a folder, as images; errors as of `list_images`, and for a pack."""
    if source == "packaged":
        return ImageFiles(packaged_images())
    if not Path(source).is_dir():
        raise FileNotFoundError(
            f"data source {source!r} is not there; expected 'packaged', a folder of images, a pack "
            "written by tools/pack_images.py, or tfds:NAME"
        )
    if (Path(source) / "pack.json").exists():
        raise ValueError(
            f"data source {source!r} is a pack, whose tiles need no tf.data; set "
            "config.data.pipeline to 'device', or name the folder that it was packed from"
        )
    return ImageFiles(list_images(source))


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
            f"the data source holds {count} image; expected at least 2, one to validate on; or "
            "name others as config.data.validation"
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
            "the packaged photographs are scikit-image's, which is not installed; "
            "pip install 'dmcnn-jax[train]', or name a folder of images instead"
        ) from error
    folder = Path(skimage.data.__file__).parent
    return [folder / name for name in PACKAGED if (folder / name).exists()]


def find_images(source: str | os.PathLike) -> dict[str, Path]:
    """Images by name: those of a folder by their paths in it, or those of "packaged".

    Raises:
        FileNotFoundError: if the folder is not there.
        ModuleNotFoundError: if the packaged photographs are not installed.
        ValueError: if there is no image in it.
    """
    if source == "packaged":
        return {path.name: path for path in packaged_images()}
    return {str(path.relative_to(source)): path for path in list_images(source)}


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
            f"no image in {str(folder)!r}; expected files that end in "
            f"{', '.join(sorted(EXTENSIONS))}"
        )
    return paths


def read_luma(file: str | os.PathLike | io.BytesIO, luma: str, reduce_to: int = 0) -> np.ndarray:
    """Reads an image's luma: uint8 [H, W], "studio" or "full"; the rest as of `read_rgb`."""
    return rgb_to_y(read_rgb(file, reduce_to), luma)


def read_rgb(file: str | os.PathLike | io.BytesIO, reduce_to: int = 0) -> np.ndarray:
    """Reads an image.

    Gray, palettes and CMYK are converted, 16 bits are rounded to 8, transparency lies over white;
    the image is turned as its EXIF orientation says. An animation gives its first frame.

    Args:
        file: anything that Pillow opens.
        reduce_to: longest shorter side that is left as it is, pixels; 0: any.

    Returns:
        uint8 [H, W, 3].

    Raises:
        OSError: if it can't be decoded, or has pixels of an unknown range.
        Image.DecompressionBombError: if it has more pixels than Pillow deems sane.
    """
    with Image.open(file) as image:
        image = _to_rgb(ImageOps.exif_transpose(image))
        shorter = min(image.size)
        if reduce_to and shorter > reduce_to:
            size = tuple(max(1, round(side * reduce_to / shorter)) for side in image.size)
            image = image.resize(size, Image.Resampling.LANCZOS)
        return np.asarray(image)


def read_usable(images: Images, index: int, reduce_to: int, smallest: int) -> np.ndarray:
    """Reads an image that is to be trained on.

    Args:
        images: what there is.
        index: which of them.
        reduce_to: as of `read_rgb`.
        smallest: side that both sides must have, pixels.

    Returns:
        uint8 [H, W, 3].

    Raises:
        UnusableImageError: if it is damaged, too large or too small.
    """
    try:
        rgb = read_rgb(images.open(index), reduce_to)
    except Image.DecompressionBombError as error:
        raise UnusableImageError("too large") from error
    # A decoder may raise anything on a damaged file.
    except Exception as error:
        raise UnusableImageError("unreadable") from error
    if min(rgb.shape[:2]) < smallest:
        raise UnusableImageError(f"smaller than {smallest} pixels")
    return rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits."""
    if image.mode.startswith("I"):
        # Pillow opens 16-bit gray as 16 or 32-bit integers, whose conversion to 8 clips.
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise OSError("pixels are integers of more than 16 bits, whose range is not known")
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise OSError("pixels are floating-point numbers, whose range is not known")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def cut_images(
    images: Images,
    *,
    tile: int,
    luma: str,
    reduce_to: int,
    chosen: Iterable[int] | None = None,
    limit: int | None = None,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> Tiles:
    """Reads images and cuts them into tiles.

    An image is covered by the fewest tiles, at even distances; they overlap where its sides are no
    multiples of theirs. Images that can't be read or are smaller than a tile are skipped and
    counted.

    Args:
        images: what to read.
        tile: side of a tile, pixels.
        luma: "studio", "full", or "rgb" for tiles of RGB.
        reduce_to: as of `read_rgb`.
        chosen: indices of those to read, in this order; None for all.
        limit: how many usable images are enough; None for all.
        progress: wraps the loop over images, to show how far it is.

    Returns:
        The tiles.

    Raises:
        ValueError: if no image gives one.
    """
    pixels, owners, names, skipped = [], [], [], Counter()
    order = list(range(len(images)) if chosen is None else chosen)
    for name, cut in _cut_each(images, order, tile, luma, reduce_to, skipped, progress):
        pixels.append(cut)
        owners.append(np.full(len(cut), len(names), np.int32))
        names.append(name)
        if len(names) == limit:
            break
    pixels = np.concatenate(pixels)
    return Tiles(
        pixels, np.arange(len(pixels)), np.concatenate(owners), tuple(names), dict(skipped)
    )


def _cut_each(
    images: Images,
    order: Sequence[int],
    tile: int,
    luma: str,
    reduce_to: int,
    skipped: Counter,
    progress: Callable[[Iterable, int], Iterable],
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and tiles of each image that gives some; reasons of others are counted in `skipped`.

    Raises:
        ValueError: at the end, if none gave one.
    """

    def read(index: int) -> np.ndarray | str:
        try:
            rgb = read_usable(images, int(index), reduce_to, tile)
            return rgb if luma == "rgb" else rgb_to_y(rgb, luma)
        except UnusableImageError as error:
            return str(error)

    used = False
    planes = zip(order, progress(_parallel(read, order), len(order)), strict=True)
    for index, plane in planes:
        if isinstance(plane, str):
            skipped[plane] += 1
            continue
        used = True
        yield images.name(index), cut_tiles(plane, tile)
    if not used:
        raise ValueError(
            f"none of {len(order)} images gives a tile of {tile} × {tile} pixels: "
            f"{format_counts(skipped)}"
        )


def format_counts(skipped: Mapping[str, int]) -> str:
    """What was skipped, in words: "3 unreadable, 1 smaller than 56 pixels"."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or "none"


def cut_tiles(plane: np.ndarray, tile: int) -> np.ndarray:
    """Covers an image [H, W, …] by the fewest tiles, at even distances: [tiles, tile, tile, …]."""

    def starts(size: int) -> np.ndarray:
        return np.linspace(0, size - tile, -(-size // tile)).round().astype(int)

    height, width = plane.shape[:2]
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
        while pending:
            yield pending.pop(0).result()


def write_pack(
    path: str | os.PathLike,
    images: Images,
    *,
    tile: int,
    luma: str,
    reduce_to: int,
    compact: bool = False,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> dict[str, Any]:
    """Cuts images into tiles and writes a pack, to a temporary name first.

    Tiles go to disk as they are cut: a pack may be larger than memory.

    Args:
        path: folder to make.
        images: what to read.
        tile: as of `cut_images`, and `luma`, `reduce_to`, `progress`.
        luma: likewise.
        reduce_to: likewise.
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
            for name, cut in _cut_each(images, order, tile, luma, reduce_to, skipped, progress):
                writer.write(cut)
                owners += [len(names)] * len(cut)
                names.append(name)
        about = {
            "version": _PACK_VERSION,
            "tile": tile,
            "luma": luma,
            "reduce_to": reduce_to,
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
    for start, end, strip in zip(ends, ends[1:], _parallel(read, paths), strict=False):
        pixels[start:end] = strip.reshape(-1, *shape)
    return pixels


def _height(path: Path) -> int:
    with Image.open(path) as image:
        return image.height


def _digest(value: Any) -> str:
    """A fingerprint of what JSON can hold, or of the items of an iterable."""
    text = json.dumps(value if isinstance(value, list) else list(value))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_gray(path: Path) -> np.ndarray:
    # WebP knows no gray: three equal channels.
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))[..., 0]
