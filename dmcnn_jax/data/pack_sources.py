"""Sources of packs for the network for photographs: reduced photographs, and drawings."""

from dmcnn_jax.data.graphics import KINDS, Graphics
from dmcnn_jax.data.images import Images
from dmcnn_jax.data.packs import TRAIN_ONLY
from dmcnn_jax.data.rescaled import JoinedImages, RescaledImages
from dmcnn_jax.data.skies import SKIES


def join_sources(
    photographs: Images,
    tile: int,
    *,
    scales: tuple[float, float] | None = None,
    copies: int = 1,
    graphics: int = 0,
    skies: int = 0,
) -> tuple[Images, list[int]]:
    """Returns the images to pack, and the argument `copies_of` of `write_pack`.

    Args:
        photographs: images to reduce.
        tile: side of a tile, pixels; no photograph is reduced to less.
        scales: lowest and highest factor, above 0 and at most 1; a factor between them is drawn for
            each copy. None: photographs are not reduced.
        copies: how many times each photograph is packed; more than once needs `scales`.
        graphics: how many pictures drawn by code are added, two tiles wide and high.
        skies: how many drawn skies are added, likewise.

    Raises:
        ValueError: if there are copies without scales, since these would be equal.
    """
    if copies > 1 and not scales:
        raise ValueError(f"copies is {copies} without scales, by which copies differ; expected 1")
    sources = [photographs]
    if scales:
        sources = [RescaledImages(photographs, copies=copies, scales=scales, shortest=tile)]
    numbers = [index // copies for index in range(len(sources[0]))]
    for count, kinds in ((graphics, KINDS), (skies, SKIES)):
        if count:
            sources.append(Graphics(count, 2 * tile, kinds=kinds))
    # Validation images are photographs.
    numbers += [TRAIN_ONLY] * (graphics + skies)
    return JoinedImages(sources), numbers
