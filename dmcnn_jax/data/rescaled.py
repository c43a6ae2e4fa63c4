"""Photographs at several random sizes, and images of several sources as one."""

import io
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from dmcnn_jax.data.images import Images, digest, read_rgb


class RescaledImages:
    """Images each repeated several times in a row, reduced by random factors.

    Reducing removes artifacts of images that were JPEGs themselves; different factors show a
    network the same content at different scales.

    Args:
        images: images to reduce.
        copies: how many times each image is in the sequence.
        scales: lowest and highest factor, above 0 and at most 1, drawn uniformly.
        shortest: shorter side below which no copy is reduced, pixels; smaller images are not
            reduced.
        seed: random seed.
    """

    def __init__(
        self,
        images: Images,
        *,
        copies: int,
        scales: tuple[float, float],
        shortest: int,
        seed: int = 0,
    ):
        self._images, self._copies, self._scales = images, copies, scales
        self._shortest, self._seed = shortest, seed

    def __len__(self) -> int:
        return len(self._images) * self._copies

    def name(self, index: int) -> str:
        """Returns the name of a copy's image."""
        return self._images.name(index // self._copies)

    def open(self, index: int) -> io.BytesIO:
        """Returns a reduced copy."""
        rgb = read_rgb(self._images.open(index // self._copies))
        factor = np.random.default_rng((self._seed, index)).uniform(*self._scales)
        shorter = min(rgb.shape[:2])
        factor = min(1.0, max(factor, self._shortest / shorter))
        height, width = (round(side * factor) for side in rgb.shape[:2])
        image = Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=0)
        file.seek(0)
        return file

    @property
    def fingerprint(self) -> str:
        """Digest of the images and arguments that determine the copies."""
        options = [self._copies, list(self._scales), self._shortest, self._seed]
        return digest([self._images.fingerprint, options])


class JoinedImages:
    """The concatenated images of several sources.

    Args:
        sources: the sources.
    """

    def __init__(self, sources: Sequence[Images]):
        self._sources = sources
        self._places = [(source, i) for source in sources for i in range(len(source))]

    def __len__(self) -> int:
        return len(self._places)

    def name(self, index: int) -> str:
        """Returns the image's name in its source."""
        source, i = self._places[index]
        return source.name(i)

    def open(self, index: int) -> str | os.PathLike | io.BytesIO:
        """Returns the image, opened by its source."""
        source, i = self._places[index]
        return source.open(i)

    @property
    def fingerprint(self) -> str:
        """Digest of the sources' fingerprints."""
        return digest([source.fingerprint for source in self._sources])
