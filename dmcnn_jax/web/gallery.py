"""A gallery: JPEG, restored picture and original under a slider, in one HTML file.

The file loads nothing else. Pictures with the worst and the best gains come first.

    dmcnn-evaluate … --gallery gallery.html
    dmcnn-gallery photographs/ cleaned/ -o gallery.html
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from dmcnn_jax.system.atomic_write import replacing
from dmcnn_jax.system.printable import printable
from dmcnn_jax.web import page
from dmcnn_jax.web.entries import Entry, Item, encode_item, in_order
from dmcnn_jax.web.gallery_html import ENTRY_BYTES, PAGE_BYTES, gallery_body

__all__ = ["CROP", "MAX_BYTES", "Gallery", "Item", "describe", "write_gallery"]

MAX_BYTES = 32 * 2**20
"""Default size limit of a gallery, which phones can open and mail servers accept."""

CROP = 1024
"""Default for the longest side shown of a picture, pixels."""


def write_gallery(
    path: str | os.PathLike[str],
    items: Iterable[Item],
    *,
    title: str = "JPEG and restored",
    about: str = "",
    max_bytes: int = MAX_BYTES,
    crop: int = CROP,
) -> tuple[str, ...]:
    """Writes a gallery, whole or not at all.

    Args:
        path: of the HTML file.
        items: what to show, all with figures or all without. With figures, pictures are ordered by
            gain, worst and best in turn; without, by how much restoring changed them.
        title: of the page.
        about: a line below the title: the model, the images, the quality.
        max_bytes: largest size of the file. Pictures from the middle of the order are left out
            above it; their figures stay.
        crop: longest side shown, pixels; of larger pictures the middle is shown, pixel for pixel.

    Returns:
        Names of items whose pictures were left out.

    Raises:
        ValueError: if there is no item, pictures of an item differ in shape or aren't pictures, or
            only some items have figures.
        OSError: if the file can't be written.
    """
    gallery = Gallery(title, about, max_bytes=max_bytes, crop=crop)
    for item in items:
        gallery.add(item)
    return gallery.write(path)


def describe(path: str | os.PathLike[str], left_out: Sequence[str]) -> str:
    """Returns a line about a written gallery: path, size, and number of pictures left out."""
    line = f"gallery: {printable(os.fspath(path))}, {os.path.getsize(path) / 2**20:.1f} MB"
    if left_out:
        line += f"; {len(left_out)} pictures from the middle of the order were left out"
    return line


class Gallery:
    """A gallery to which items are added one by one; it holds no more data than its file may.

    Args:
        title: as in `write_gallery`; may be changed until the gallery is written.
        about: as in `write_gallery`; may be changed until the gallery is written.
        max_bytes: as in `write_gallery`.
        crop: as in `write_gallery`.

    Raises:
        ValueError: if `crop` is no positive number.
    """

    def __init__(
        self,
        title: str = "JPEG and restored",
        about: str = "",
        *,
        max_bytes: int = MAX_BYTES,
        crop: int = CROP,
    ) -> None:
        if crop < 1:
            raise ValueError(f"crop is {crop}; expected a positive number of pixels")
        self.title, self.about = title, about
        self.max_bytes, self.crop = max_bytes, crop
        self._entries: list[Entry] = []

    def add(self, item: Item) -> None:
        """Adds an item; raises a ValueError as `write_gallery` does."""
        if self._entries and (item.figures is None) != (self._entries[0].figures is None):
            raise ValueError(f"{item.name}: some items have figures, some have none")
        self._entries.append(encode_item(item, self.crop))
        self._leave_out_middle()

    def write(self, path: str | os.PathLike[str]) -> tuple[str, ...]:
        """Writes the items added so far; returns and raises as `write_gallery` does."""
        if not self._entries:
            raise ValueError("no picture for the gallery")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        body = gallery_body(self.title, self.about, self._entries, self.max_bytes)
        text, _ = page.page(self.title, body, ("base", "compare", "gallery"), img_src="data:")
        with replacing(path) as file:
            file.write(text.encode())
        return tuple(entry.name for entry in self._entries if not entry.pictures)

    def _leave_out_middle(self) -> None:
        """Drops pictures from the middle of the order until the rest fits the size limit."""
        # An entry that is in the middle now stays there: items added later only move the ends
        # outward.
        size = sum(entry.bytes for entry in self._entries)
        limit = self.max_bytes - PAGE_BYTES - ENTRY_BYTES * len(self._entries)
        for entry in reversed(in_order(self._entries)):
            if size <= limit:
                break
            size -= entry.bytes
            entry.pictures.clear()
