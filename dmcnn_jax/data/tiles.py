"""Square tiles that images are cut into."""

import dataclasses
import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dmcnn_jax.data.images import Images, UnusableImageError, digest, read_usable
from dmcnn_jax.images.color import rgb_to_y

# Tiles whose pixels enter a fingerprint.
SAMPLED_TILES = 64


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
        sample = np.linspace(0, len(self) - 1, min(len(self), SAMPLED_TILES)).astype(int)
        pixels = hashlib.sha256(np.ascontiguousarray(self.take(sample))).hexdigest()
        return digest([list(self.names), self.images.tolist(), self.side, pixels])

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


def cut_images(
    images: Images,
    *,
    tile: int,
    luma: str,
    max_short_side: int,
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
        max_short_side: as of `read_rgb`.
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
    for name, cut in cut_each(images, order, tile, luma, max_short_side, skipped, progress):
        pixels.append(cut)
        owners.append(np.full(len(cut), len(names), np.int32))
        names.append(name)
        if len(names) == limit:
            break
    pixels = np.concatenate(pixels)
    return Tiles(
        pixels, np.arange(len(pixels)), np.concatenate(owners), tuple(names), dict(skipped)
    )


def cut_each(
    images: Images,
    order: Sequence[int],
    tile: int,
    luma: str,
    max_short_side: int,
    skipped: Counter,
    progress: Callable[[Iterable, int], Iterable],
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and tiles of each image that gives some; reasons of others are counted in `skipped`.

    Raises:
        ValueError: at the end, if none gave one.
    """

    def read(index: int) -> np.ndarray | str:
        try:
            rgb = read_usable(images, int(index), max_short_side, tile)
            return rgb if luma == "rgb" else rgb_to_y(rgb, luma)
        except UnusableImageError as error:
            return str(error)

    used = False
    planes = zip(order, progress(parallel_map(read, order), len(order)), strict=True)
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


def parallel_map(function: Callable, items: Sequence) -> Iterator:
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
