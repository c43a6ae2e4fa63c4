"""Replaces the picture in a JPEG file, and adds a recipe that recovers the original file."""

from collections.abc import Sequence

from dmcnn_jax.jpeg.carrying import CarriedFile, replace_picture
from dmcnn_jax.jpeg.reader import MAX_PIXELS
from dmcnn_jax.jpeg.recipe import make_segments, split_recipe
from dmcnn_jax.jpeg.recovery import make_recipe


def replace_recoverably(
    original: bytes,
    picture: bytes,
    *,
    added: Sequence[tuple[int, bytes]] = (),
    max_pixels: int = MAX_PIXELS,
) -> CarriedFile | None:
    """Returns the file of `carrying.replace_picture`, with a recipe for `recover_original`.

    Args:
        original: a JPEG file.
        picture: a JPEG file whose coefficients lie inside the original's intervals.
        added: markers and payloads of further segments, before those of the recipe.
        max_pixels: the largest width * height to accept.

    Returns:
        The file; None if the original can't be recovered exactly (see `recovery`).
    """
    plain, size = replace_picture(original, picture, added=added).data, 0
    for _ in range(_MAX_ROUNDS):
        recipe = make_recipe(original, plain, max_pixels=max_pixels)
        if recipe is None:
            return None
        # The recipe is padded to its reserved size, since a different size would move the trailer
        # again; bytes after the deflated data aren't read.
        size = max(size, len(recipe))
        segments = make_segments(recipe.ljust(size, b"\0"))
        whole = replace_picture(original, picture, added=[*added, *segments])
        # The segments move the trailer, which changes offsets in other segments; the recipe has to
        # hold these.
        moved, _ = split_recipe(whole.data)
        if moved == plain:
            return whole
        plain = moved
    return None


_MAX_ROUNDS = 5
