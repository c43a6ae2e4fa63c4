"""Image files: found, read and reduced."""

import hashlib
import io
import json
import os
from collections.abc import Sequence
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
        return digest([path.name, path.stat().st_size] for path in self._paths)


class UnusableImageError(Exception):
    """An image that can't be trained on; its message is the reason, as it is counted."""


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


def read_luma(
    file: str | os.PathLike | io.BytesIO, luma: str, max_short_side: int = 0
) -> np.ndarray:
    """Reads an image's luma: uint8 [H, W], "studio" or "full"; the rest as of `read_rgb`."""
    return rgb_to_y(read_rgb(file, max_short_side), luma)


def read_rgb(file: str | os.PathLike | io.BytesIO, max_short_side: int = 0) -> np.ndarray:
    """Reads an image.

    Gray, palettes and CMYK are converted, 16 bits are rounded to 8, transparency lies over white;
    the image is turned as its EXIF orientation says. An animation gives its first frame.

    Args:
        file: anything that Pillow opens.
        max_short_side: longest shorter side that is left as it is, pixels; 0: any.

    Returns:
        uint8 [H, W, 3].

    Raises:
        OSError: if it can't be decoded, or has pixels of an unknown range.
        Image.DecompressionBombError: if it has more pixels than Pillow deems sane.
    """
    with Image.open(file) as image:
        image = _to_rgb(ImageOps.exif_transpose(image))
        shorter = min(image.size)
        if max_short_side and shorter > max_short_side:
            size = tuple(max(1, round(side * max_short_side / shorter)) for side in image.size)
            image = image.resize(size, Image.Resampling.LANCZOS)
        return np.asarray(image)


def read_usable(images: Images, index: int, max_short_side: int, smallest: int) -> np.ndarray:
    """Reads an image that is to be trained on.

    Args:
        images: what there is.
        index: which of them.
        max_short_side: as of `read_rgb`.
        smallest: side that both sides must have, pixels.

    Returns:
        uint8 [H, W, 3].

    Raises:
        UnusableImageError: if it is damaged, too large or too small.
    """
    try:
        rgb = read_rgb(images.open(index), max_short_side)
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


def digest(value: Any) -> str:
    """A fingerprint of what JSON can hold, or of the items of an iterable."""
    text = json.dumps(value if isinstance(value, list) else list(value))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
