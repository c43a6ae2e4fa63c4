"""Pairs JPEG files with their restored pictures, and with originals, by name."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import ImageOps

from dmcnn_jax.images import color, formats, metrics
from dmcnn_jax.images.extensions import JPEG_EXTENSIONS
from dmcnn_jax.images.input_folders import find_files
from dmcnn_jax.images.output_names import distinct_targets
from dmcnn_jax.web.entries import Item, Measures, to_uint8

_EXTENSIONS = (*JPEG_EXTENSIONS, ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm")

# The suffix in the names of results that dmcnn-restore writes beside their inputs.
_SUFFIX = "-restored"


def read_pairs(
    jpegs: str | os.PathLike[str],
    restored: str | os.PathLike[str],
    originals: str | os.PathLike[str] | None = None,
    *,
    skip: Callable[[str], None] | None = None,
) -> Iterator[Item]:
    """Reads JPEG files together with their restored pictures and originals.

    Args:
        jpegs: a JPEG file, or a folder with JPEG files in it and below.
        restored: the restored picture, or a folder where each has the same place and name as its
            JPEG file, except for the extension; "-restored" may be added to the name. It may be the
            folder of the JPEG files, in which that addition marks the restored ones. Files that
            differ only by extension have the results `a.jpg.png` and `a.jpeg.png`, which are the
            names that dmcnn-restore gives them.
        originals: the uncompressed picture, or such a folder of them. With originals, items have
            figures: measures of luma in 16..235, as in the evaluation protocol.
        skip: called with the reason for each JPEG file that is left out, because its counterpart is
            missing, has another size or can't be read. None: such a file raises an error.

    Yields:
        Items in the order of their names, upright.

    Raises:
        ValueError: if there are no such pictures, or, without `skip`, one has no counterpart.
        OSError: if, without `skip`, one can't be read.
    """
    jpegs, restored = Path(jpegs), Path(restored)
    inputs = _find_jpegs(jpegs)
    endings = ("", _SUFFIX)
    if _same_folder(jpegs, restored):
        endings = (_SUFFIX, "")
        # Results may be JPEG files too.
        inputs = {name: path for name, path in inputs.items() if not _is_result(name, inputs)}
    if not inputs:
        raise ValueError(f"{str(jpegs)!r} has no JPEG files")
    match_restored = _Matcher(restored, jpegs, inputs, endings)
    matchers = [match_restored]
    if originals:
        matchers.append(_Matcher(Path(originals), jpegs, inputs, ("",), shared=True))
    for name, path in sorted(inputs.items()):
        try:
            yield _read_item(name, [path, *(match(name) for match in matchers)])
        except (ValueError, OSError) as error:
            if skip is None:
                raise
            skip(" ".join(str(error).split()))


def _read_item(name: str, paths: Sequence[Path]) -> Item:
    """Reads a JPEG file, its restored picture and its original, if there is one."""
    pictures = [_read(path) for path in paths]
    if len({picture.ndim for picture in pictures}) > 1:
        pictures = [p if p.ndim == 3 else np.repeat(p[..., None], 3, axis=2) for p in pictures]
    for path, picture in zip(paths, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            height, width = pictures[0].shape[:2]
            raise ValueError(
                f"{path}: {picture.shape[1]} x {picture.shape[0]} pixels; expected {width} x"
                f" {height}, as in {paths[0]}"
            )
    jpeg, result, *original = pictures
    if not original:
        return Item(name, jpeg, result)
    try:
        figures = _measure(jpeg, result, original[0])
    except ValueError as error:  # too small to be measured
        raise ValueError(f"{paths[0]}: {error}") from None
    return Item(name, jpeg, result, original[0], figures)


class _Matcher:
    """A finder of the counterparts of JPEG files.

    Args:
        place: a picture, or a folder of pictures.
        jpegs: the JPEG file or folder.
        inputs: JPEG files by name; none of them is a counterpart.
        endings: what may follow a JPEG file's name, in order of preference.
        shared: whether files that differ only by extension have the same counterpart, as they have
            the same original.
    """

    def __init__(
        self,
        place: Path,
        jpegs: Path,
        inputs: Mapping[str, Path],
        endings: Sequence[str],
        *,
        shared: bool = False,
    ) -> None:
        self._place, self._inputs, self._endings = place, inputs, endings
        self._own_names = {name: _without_extension(path, jpegs) for name, path in inputs.items()}
        self._counts, self._shared = Counter(self._own_names.values()), shared
        # Two files given by name form a pair, whatever their names.
        self._only = None if place.is_dir() or jpegs.is_dir() else place
        excluded = set()
        if _same_folder(place, jpegs):
            excluded = {path.relative_to(jpegs) for path in inputs.values()}
        self._found = _find(place, _EXTENSIONS, excluded)

    def __call__(self, name: str) -> Path:
        """Returns the counterpart of a JPEG file; raises a ValueError if there is none."""
        names, own = [name], self._own_names[name]
        if self._shared or self._counts[own] == 1:
            names.append(own)
        matches = (self._found.get(each + ending) for each in names for ending in self._endings)
        match = self._only or next(filter(None, matches), None)
        if match is None:
            raise ValueError(
                f"{str(self._place)!r} has no picture {name!r} to go with {self._inputs[name]}"
            )
        return match


def _same_folder(one: Path, other: Path) -> bool:
    return one.is_dir() and other.is_dir() and one.samefile(other)


def _is_result(name: str, inputs: Mapping[str, Path]) -> bool:
    """Returns whether a name is that of another file's result, such as photo-restored for photo."""
    return name.endswith(_SUFFIX) and name.removesuffix(_SUFFIX) in inputs


def _find_jpegs(place: Path) -> dict[str, Path]:
    """Returns JPEG files by the path that dmcnn-restore gives their result, without extension."""
    if not place.is_dir():
        return {place.stem: place}
    paths = find_files(place, JPEG_EXTENSIONS)
    targets = distinct_targets([(path, path.with_suffix(".png")) for path in paths])
    names = (_without_extension(target, place) for target in targets)
    return dict(zip(names, paths, strict=True))


def _find(
    place: Path, extensions: Sequence[str], excluded: Collection[Path] = ()
) -> dict[str, Path]:
    """Returns pictures by their path in a folder, without extension; for a file, only itself."""
    if not place.is_dir():
        return {place.stem: place}
    return {
        _without_extension(path, place): path
        for path in find_files(place, extensions)
        if path.relative_to(place) not in excluded
    }


def _without_extension(path: Path, place: Path) -> str:
    return path.relative_to(place).with_suffix("").as_posix() if place.is_dir() else path.stem


def _read(path: Path) -> np.ndarray:
    """Reads pixels, upright: uint8 [H, W] or [H, W, 3].

    Raises:
        OSError: if the file can't be opened.
        ValueError: if it is not a picture or is damaged; the message names it.
    """
    try:
        with formats.opening(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):
                return to_uint8(np.asarray(image).astype(np.uint16))
            return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
    except Exception as error:
        if getattr(error, "errno", None) is not None or str(error).startswith(f"{path}: "):
            raise
        # Pillow's errors on damaged pictures are of many types, and don't name the file.
        raise ValueError(
            f"{path}: can't be decoded: {str(error) or type(error).__name__}"
        ) from error


def _measure(jpeg: np.ndarray, restored: np.ndarray, original: np.ndarray) -> dict[str, Measures]:
    luma = [color.rgb_to_y(p, "studio") if p.ndim == 3 else p for p in (jpeg, restored, original)]
    return {
        "jpeg": metrics.measure(luma[2], luma[0]),
        "model": metrics.measure(luma[2], luma[1]),
    }
