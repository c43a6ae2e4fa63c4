"""Opens what a configuration names as a source of training tiles."""

from pathlib import Path

from dmcnn_jax.data.images import open_images
from dmcnn_jax.data.packs import open_pack
from dmcnn_jax.data.tiles import Tiles, cut_images


def open_source(source: str, *, tile: int, luma: str, max_short_side: int) -> Tiles:
    """Opens what `config.data.source` names, as tiles.

    Args:
        source: "packaged", a folder of images, or a pack.
        tile: side of the tiles, pixels; of a pack, what it must have.
        luma: "studio", "full", or "rgb" for tiles of RGB; likewise.
        max_short_side: images whose shorter side is longer are reduced to it first, pixels; 0:
            never. A pack's images already were.

    Returns:
        The tiles.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no image that gives a tile, or a pack of other tiles.
    """
    if source != "packaged" and (Path(source) / "pack.json").exists():
        return open_pack(source, tile=tile, luma=luma)
    return cut_images(open_images(source), tile=tile, luma=luma, max_short_side=max_short_side)
