"""Cuts images into square tiles."""

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from dmcnn_jax.data.images import (
    Images,
    UnusableImageError,
    digest,
    read_usable,
    select_channels,
)
from dmcnn_jax.data.originals import is_gray
from dmcnn_jax.system.cpu import usable_cores

# Number of tiles whose pixels a fingerprint includes.
SAMPLED_TILES = 64

ProgressBar = Callable[[Iterable, int], Iterable]
"""Wraps an iterable of known length to show the progress of a loop over it, as tqdm does."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def no_progress(items: Iterable, total: int) -> Iterable:
    """Returns the items unchanged: a `ProgressBar` that shows nothing."""
    del total
    return items


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Square tiles of luma, or of RGB.

    Attributes:
        pixels: uint8 [rows, side, side] or [rows, side, side, 3], an array or a memory map; it may
            hold other tiles too.
        rows: int64 [tiles], index in `pixels` of each tile.
        images: int32 [tiles], index in `names` of the image that each tile was cut from.
        names: names of the images.
        skipped: number of images that gave no tile, by reason.
        train_only: indices of images that are never set aside for validation.
    """

    pixels: np.ndarray
    rows: np.ndarray
    images: np.ndarray
    names: tuple[str, ...]
    skipped: dict[str, int] = dataclasses.field(default_factory=dict)
    train_only: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def side(self) -> int:
        """Side of the tiles, pixels."""
        return self.pixels.shape[1]

    @property
    def nbytes(self) -> int:
        """Size of the tiles in memory, bytes."""
        return len(self) * math.prod(self.pixels.shape[1:])

    @property
    def fingerprint(self) -> str:
        """Digest of the names, of each tile's image, and of the pixels of some tiles."""
        sample = np.linspace(0, len(self) - 1, min(len(self), SAMPLED_TILES)).astype(int)
        pixels = hashlib.sha256(self.take(sample).tobytes()).hexdigest()
        return digest([list(self.names), self.images.tolist(), self.side, pixels])

    def take(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Returns tiles by index, or all: uint8 [count, side, side], or [count, side, side, 3]."""
        return np.asarray(self.pixels[self.rows[indices]])

    def of_images(self, chosen: Iterable[int]) -> "Tiles":
        """Returns the tiles of some images, given by index, without copying pixels."""
        chosen = sorted(chosen)
        (kept,) = np.nonzero(np.isin(self.images, chosen))
        images = np.searchsorted(chosen, self.images[kept]).astype(np.int32)
        names = tuple(self.names[i] for i in chosen)
        train_only = frozenset(n for n, i in enumerate(chosen) if i in self.train_only)
        return Tiles(self.pixels, self.rows[kept], images, names, self.skipped, train_only)


def split(tiles: Tiles, validation_images: int, seed: int) -> tuple[Tiles, Tiles]:
    """Sets images aside for validation, with all their tiles; none of `Tiles.train_only`.

    Args:
        tiles: tiles to split.
        validation_images: number of images to set aside, which is limited to a third of them.
        seed: random seed of the choice.

    Returns:
        Training tiles and validation tiles.

    Raises:
        ValueError: if there are fewer than two images, or all are in `Tiles.train_only`.
    """
    count = len(tiles.names)
    if count < 2 or len(tiles.train_only) == count:
        raise ValueError(
            f"the data source holds {count} image; expected at least 2, one to validate on; or "
            "name others as config.data.validation"
        )
    order = np.random.default_rng(seed).permutation(count)
    free = [i for i in order if i not in tiles.train_only]
    aside = free[: max(1, min(validation_images, count // 3))]
    return tiles.of_images(set(order).difference(aside)), tiles.of_images(aside)


def cut_images(
    images: Images,
    *,
    tile: int,
    luma: str,
    max_short_side: int,
    chosen: Iterable[int] | None = None,
    limit: int | None = None,
    progress: ProgressBar = no_progress,
    keep_gray: bool = False,
) -> Tiles:
    """Reads images and cuts them into tiles.

    Each image is covered by as few tiles as possible, evenly spaced; they overlap where its sides
    are not multiples of a tile's. Images that can't be read or are smaller than a tile are skipped
    and counted.

    Args:
        images: images to read.
        tile: side of a tile, pixels.
        luma: "studio", "full", or "rgb" for tiles of RGB.
        max_short_side: as in `read_rgb`.
        chosen: indices of the images to read, in this order; None for all.
        limit: number of usable images after which to stop; None for no limit.
        progress: wraps the loop over images.
        keep_gray: whether pixels of gray images are kept as they are, as evaluation does; training
            tiles hold their Y in the range `luma`.

    Returns:
        The tiles.

    Raises:
        ValueError: if no image gives a tile.
    """
    cuts: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    names: list[str] = []
    skipped: Counter[str] = Counter()
    order = list(range(len(images)) if chosen is None else chosen)
    for index, cut in cut_each(
        images, order, tile, luma, max_short_side, skipped, progress, keep_gray
    ):
        cuts.append(cut)
        owners.append(np.full(len(cut), len(names), np.int32))
        names.append(images.name(index))
        if len(names) == limit:
            break
    pixels = np.concatenate(cuts)
    return Tiles(
        pixels, np.arange(len(pixels)), np.concatenate(owners), tuple(names), dict(skipped)
    )


def cut_each(
    images: Images,
    order: Sequence[int],
    tile: int,
    luma: str,
    max_short_side: int,
    skipped: Counter[str],
    progress: ProgressBar,
    keep_gray: bool = False,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the index and tiles of each image that gives any, one image at a time to save memory.

    Args:
        images: images to read.
        order: indices of the images to read, in this order.
        tile: side of a tile, pixels.
        luma: "studio", "full", or "rgb" for tiles of RGB.
        max_short_side: as in `read_rgb`.
        skipped: counts the images that give none, by reason; updated.
        progress: wraps the loop over images.
        keep_gray: as in `cut_images`.

    Raises:
        ValueError: at the end, if no image gave a tile.
    """

    def read(index: int) -> np.ndarray | str:
        try:
            rgb = read_usable(images, int(index), max_short_side, tile)
            if keep_gray and luma != "rgb" and is_gray(images.open(int(index))):
                return rgb[..., 0]
            return select_channels(rgb, luma)
        except UnusableImageError as error:
            return str(error)

    used = False
    planes = zip(order, progress(parallel_map(read, order), len(order)), strict=True)
    for index, plane in planes:
        if isinstance(plane, str):
            skipped[plane] += 1
            continue
        used = True
        yield index, cut_tiles(plane, tile)
    if not used:
        raise ValueError(
            f"none of {len(order)} images gives a tile of {tile} × {tile} pixels: "
            f"{format_counts(skipped)}"
        )


def format_counts(skipped: Mapping[str, int]) -> str:
    """Returns counts as text, such as "3 unreadable, 1 smaller than 56 pixels", or "none"."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or "none"


def cut_tiles(plane: np.ndarray, tile: int) -> np.ndarray:
    """Cuts an image [H, W, …] into as few tiles as cover it, evenly spaced: [n, tile, tile, …]."""

    def starts(size: int) -> np.ndarray:
        return np.linspace(0, size - tile, -(-size // tile)).round().astype(int)

    height, width = plane.shape[:2]
    return np.stack(
        [plane[y : y + tile, x : x + tile] for y in starts(height) for x in starts(width)]
    )


def parallel_map(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yields the results of `map` in order, computed on all cores, few items ahead.

    It uses threads: decoding releases the interpreter's lock.
    """
    workers = usable_cores()
    with ThreadPoolExecutor(workers) as pool:
        pending: list[Future[Result]] = []
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 4 * workers:
                yield pending.pop(0).result()
        while pending:
            yield pending.pop(0).result()
