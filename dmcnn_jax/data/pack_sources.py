"""What is packed for the network for photographs: reduced copies of photographs, and graphics."""

from dmcnn_jax.data.graphics import Graphics
from dmcnn_jax.data.images import Images
from dmcnn_jax.data.rescaled import JoinedImages, RescaledImages


def join_sources(
    photographs: Images,
    tile: int,
    *,
    scales: tuple[float, float] | None = None,
    copies: int = 1,
    graphics: int = 0,
) -> tuple[Images, list[int]]:
    """Returns the images to pack, and for each the number that `write_pack` calls `copies_of`.

    Args:
        photographs: images to reduce.
        tile: side of a tile, pixels; no photograph is reduced to less.
        scales: lowest and highest factor, above 0 and at most 1, of which one is drawn for each
            copy; None: photographs stay as they are.
        copies: how many times each photograph is packed, which takes `scales` if more than once.
        graphics: how many pictures drawn by code are added, two tiles wide and high.

    Raises:
        ValueError: if there are copies without scales, which would not differ.
    """
    if copies > 1 and not scales:
        raise ValueError(f"copies is {copies} without scales, by which copies differ; expected 1")
    sources = [photographs]
    if scales:
        sources = [RescaledImages(photographs, copies=copies, scales=scales, shortest=tile)]
    numbers = [index // copies for index in range(len(sources[0]))]
    if graphics:
        sources.append(Graphics(graphics, 2 * tile))
        # They count as a single image, so that images set aside for validation are photographs.
        numbers += [len(photographs)] * graphics
    return JoinedImages(sources), numbers
