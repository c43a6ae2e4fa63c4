"""Opens a folder of images or a pack as training tiles."""

from pathlib import Path

from dmcnn_jax.data.images import open_images
from dmcnn_jax.data.packs import open_pack
from dmcnn_jax.data.tiles import Tiles, cut_images


def open_source(
    source: str, *, tile: int, luma: str, max_short_side: int, keep_gray: bool = False
) -> Tiles:
    """Opens the data named by `config.data.source` as tiles.

    Args:
        source: "packaged", a folder of images, or a pack.
        tile: side of the tiles, pixels; a pack must have the same.
        luma: "studio", "full", or "rgb" for tiles of RGB; a pack must have the same.
        max_short_side: images whose shorter side is longer are reduced to it first, pixels; 0:
            never. Not used for packs, whose images were reduced when they were made.
        keep_gray: as in `cut_images`; not used for packs.

    Returns:
        The tiles.

    Raises:
        FileNotFoundError: if there is no such folder.
        ModuleNotFoundError: if the packaged photographs are not installed.
        ValueError: if no image in it gives a tile, or the pack holds tiles of another kind.
    """
    if source != "packaged" and (Path(source) / "pack.json").exists():
        return open_pack(source, tile=tile, luma=luma)
    return cut_images(
        open_images(source),
        tile=tile,
        luma=luma,
        max_short_side=max_short_side,
        keep_gray=keep_gray,
    )
