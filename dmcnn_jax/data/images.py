"""Finds and reads images, and converts them to 8-bit RGB or luma."""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from PIL import AvifImagePlugin, Image, ImageOps

from dmcnn_jax.images.color import Range, rgb_to_y
from dmcnn_jax.images.input_folders import find_files

# Images are read on all cores at once; a decoder with its own threads would start too many.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

EXTENSIONS = frozenset(
    {
        ".avif",
        ".bmp",
        ".gif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    }
)
"""Suffixes of image files in a folder."""

# Photographs in scikit-image's wheel. Its drawings, scans and microscope slides are left out, since
# their statistics are not those of photographs.
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
    """Images in a fixed order, with random access."""

    def __len__(self) -> int:
        """Returns the number of images."""

    def name(self, index: int) -> str:
        """Returns the name of an image in messages."""

    def open(self, index: int) -> str | os.PathLike | io.BytesIO:
        """Returns an image as an object that Pillow can open."""

    @property
    def fingerprint(self) -> str:
        """Text that differs if the images differ."""


class ImageFiles:
    """Images in files.

    Args:
        paths: of the files.
    """

    def __init__(self, paths: Sequence[str | os.PathLike]):
        self._paths = [Path(path) for path in paths]

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        """Returns the file's name."""
        return self._paths[index].name

    def open(self, index: int) -> Path:
        """Returns the file's path."""
        return self._paths[index]

    @property
    def fingerprint(self) -> str:
        """Digest of names and sizes, independent of the folder."""
        return digest([path.name, path.stat().st_size] for path in self._paths)


class UnusableImageError(Exception):
    """An image unusable for training; the message is the reason under which it is counted."""


def open_images(source: str) -> ImageFiles:
    """Opens the images of a data source.

    Args:
        source: "packaged" for scikit-image's photographs, or a folder.

    Raises:
        FileNotFoundError: if there is no such folder.
        ModuleNotFoundError: if the packaged photographs are not installed.
        ValueError: if the folder holds no image, or is a pack.
    """
    if source == "packaged":
        return ImageFiles(packaged_images())
    if not Path(source).is_dir():
        raise FileNotFoundError(
            f"data source {source!r} doesn't exist; expected 'packaged', a folder of images, a "
            "pack written by tools/pack_images.py, or tfds:NAME"
        )
    if (Path(source) / "pack.json").exists():
        raise ValueError(
            f"data source {source!r} is a pack, whose tiles need no tf.data; set "
            "config.data.pipeline to 'device', or name the folder that it was packed from"
        )
    return ImageFiles(list_images(source))


def packaged_images() -> list[Path]:
    """Returns the paths of the photographs that come with scikit-image.

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
    """Returns the paths of images by name.

    Args:
        source: a folder, whose images are named by their paths in it, or "packaged".

    Raises:
        FileNotFoundError: if the folder is not there.
        ModuleNotFoundError: if the packaged photographs are not installed.
        ValueError: if there is no image in it.
    """
    if source == "packaged":
        return {path.name: path for path in packaged_images()}
    return {str(path.relative_to(source)): path for path in list_images(source)}


def list_images(folder: str | os.PathLike) -> list[Path]:
    """Returns the paths of all images in a folder and the folders below it, sorted.

    Raises:
        FileNotFoundError: if the folder is not there.
        PermissionError: if a folder in it can't be read.
        ValueError: if there is no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{str(folder)!r} is not a folder; expected one that holds images")
    paths = find_files(folder, EXTENSIONS)
    if not paths:
        raise ValueError(
            f"no image in {str(folder)!r}; expected files that end in "
            f"{', '.join(sorted(EXTENSIONS))}"
        )
    return paths


def read_luma(
    file: str | os.PathLike | io.BytesIO, luma: str, max_short_side: int = 0
) -> np.ndarray:
    """Reads an image's luma.

    Args:
        file: anything that Pillow opens.
        luma: range of the luma, "studio" or "full".
        max_short_side: as in `read_rgb`.

    Returns:
        uint8 [H, W].

    Raises:
        OSError: if the image can't be decoded, or its pixels have an unknown range.
        Image.DecompressionBombError: if it has more pixels than Pillow allows.
    """
    return select_channels(read_rgb(file, max_short_side), luma)


def select_channels(rgb: np.ndarray, luma: str) -> np.ndarray:
    """Returns the channels that networks are trained on: luma, or unchanged RGB.

    Args:
        rgb: uint8 [..., 3].
        luma: as in `config.data.luma`: "studio" (16 to 235) or "full" (0 to 255) for luma of that
            range, uint8 [...]; "rgb" for RGB.
    """
    return rgb if luma == "rgb" else rgb_to_y(rgb, cast(Range, luma))


def read_rgb(file: str | os.PathLike | io.BytesIO, max_short_side: int = 0) -> np.ndarray:
    """Reads an image as 8-bit RGB.

    Gray, palettes and CMYK are converted, 16 bits are rounded to 8, transparent pixels are blended
    with white, and the image is rotated by its EXIF orientation. Of an animation, the first frame
    is read.

    Args:
        file: anything that Pillow opens.
        max_short_side: images whose shorter side is longer are reduced to it, pixels; 0: never.

    Returns:
        uint8 [H, W, 3].

    Raises:
        OSError: if the image can't be decoded, or its pixels have an unknown range.
        Image.DecompressionBombError: if it has more pixels than Pillow allows.
    """
    with Image.open(file) as opened:
        image = _to_rgb(ImageOps.exif_transpose(opened))
        shorter = min(image.size)
        if max_short_side and shorter > max_short_side:
            width, height = (max(1, round(side * max_short_side / shorter)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        return np.asarray(image)


def read_usable(images: Images, index: int, max_short_side: int, smallest: int) -> np.ndarray:
    """Reads an image for training.

    Args:
        images: images to choose from.
        index: index of the image.
        max_short_side: as in `read_rgb`.
        smallest: minimum height and width, pixels.

    Returns:
        uint8 [H, W, 3].

    Raises:
        UnusableImageError: if the image is damaged, too large or too small.
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
    """Converts an image to 8-bit RGB."""
    if image.mode.startswith("I"):
        # Pillow opens 16-bit gray as 16 or 32-bit integers, and clips them if asked for 8 bits.
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


def digest(items: Iterable[Any]) -> str:
    """Returns a fingerprint of items that JSON can hold: 16 hexadecimal digits of their SHA-256."""
    return hashlib.sha256(json.dumps(list(items)).encode()).hexdigest()[:16]
