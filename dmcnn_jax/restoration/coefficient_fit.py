"""Finds coefficients that decode to given pixels, where grid, sampling and tables are known.

Each coefficient of the pixels is rounded to a multiple of its step, and the result is decoded as
libjpeg does. Where that gives other pixels, because some were clipped or lie outside of a cropped
picture, the difference corrects the coefficients, and this is repeated.
"""

import dataclasses

import numpy as np

from dmcnn_jax.images import color
from dmcnn_jax.jpeg.dct import block_coefficients
from dmcnn_jax.jpeg.lattice import TableEstimate
from dmcnn_jax.jpeg.reader import Component, decode_plane
from dmcnn_jax.jpeg.resampling import fit_samples, upsample
from dmcnn_jax.restoration.chroma_sampling import ChromaSampling

# Corrections end after so many, or when the number of wrong values falls by less than this factor.
_MAX_ITERATIONS, _PROGRESS = 8, 0.95


class CoefficientFit:
    """The iteration that finds coefficients whose decoded pixels are the given ones.

    Args:
        pixels: uint8 [height, width] or [height, width, 3].
        planes: Y, Cb and Cr of them, or the one plane, uint8 at full size.
        unclipped: bool [height, width], the pixels whose planes are exact.
        sampling: of chroma.
        tables: of luma and chroma.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        planes: list[np.ndarray],
        unclipped: np.ndarray,
        sampling: ChromaSampling,
        tables: tuple[TableEstimate, ...],
    ) -> None:
        self._pixels, self._planes, self._unclipped = pixels, planes, unclipped
        self._above, self._before = sampling.margins
        height, width = pixels.shape[:2]
        self._size = height + self._above, width + self._before
        factors = sampling.factors
        color_planes = len(planes) == 3
        self._components = [
            self._empty(index, factors if index else (1, 1), factors, tables[index])
            for index in range(3 if color_planes else 1)
        ]

    def components(self) -> tuple[Component, ...]:
        """Returns the components, after as many iterations as change something."""
        for plane, index in zip(self._planes, range(3), strict=False):
            self._start(index, plane)
        best, fewest = tuple(self._components), np.inf
        for _ in range(_MAX_ITERATIONS):
            wrong = self._correct()
            if wrong > _PROGRESS * fewest:
                break
            best, fewest = self._corrected, wrong
        return best

    def _empty(
        self, index: int, own: tuple[int, int], factors: tuple[int, int], table: TableEstimate
    ) -> Component:
        height, width = (-(-size // f) for size, f in zip(self._size, own, strict=True))
        return Component(
            id=index + 1,
            coefficients=np.zeros((-(-height // 8), -(-width // 8), 64), np.int16),
            table=table.table,
            vertical=factors[0] // own[0],
            horizontal=factors[1] // own[1],
            subsampling=own,
            height=height,
            width=width,
        )

    def _start(self, index: int, plane: np.ndarray) -> None:
        """Sets a component's coefficients to those of the given pixels, border repeated."""
        component = self._components[index]
        full = np.pad(plane.astype(np.float32), ((self._above, 0), (self._before, 0)), "edge")
        x = self._transform(component, full, mode="edge")
        self._set(index, x)

    def _correct(self) -> int:
        """Corrects coefficients by the pixels that differ; returns how many values differed."""
        self._corrected = tuple(self._components)
        decoded = [self._full_size(decode_plane(c), c) for c in self._components]
        wrong = int(np.count_nonzero(join_planes(decoded) != self._pixels))
        if not wrong:
            return 0
        errors = self._errors(decoded)
        for index, (component, error) in enumerate(zip(self._components, errors, strict=True)):
            full = np.pad(error, ((self._above, 0), (self._before, 0)))
            x = self._transform(component, full, mode="constant", center=0)
            centers = component.coefficients * component.table.reshape(64).astype(np.float32)
            self._set(index, centers + x)
        return wrong

    def _errors(self, decoded: list[np.ndarray]) -> list[np.ndarray]:
        """Returns what the decoded planes lack: float32 [height, width] each.

        Where pixels were clipped, the difference of the clipped colours counts, which is none if
        the decoded colour is out of range too.
        """
        exact = [
            given.astype(np.float32) - plane
            for given, plane in zip(self._planes, decoded, strict=True)
        ]
        if len(decoded) == 1:
            return exact
        lacking = self._pixels.astype(np.float32) - join_planes(decoded)
        weights = (color.LUMA_WEIGHTS, color.CB_WEIGHTS, color.CR_WEIGHTS)
        return [
            np.where(self._unclipped, error, lacking @ np.array(row, np.float32))
            for error, row in zip(exact, weights, strict=True)
        ]

    def _full_size(self, plane: np.ndarray, component: Component) -> np.ndarray:
        full = upsample(plane, component.subsampling)[: self._size[0], : self._size[1]]
        return full[self._above :, self._before :]

    def _transform(
        self, component: Component, full: np.ndarray, *, mode: str, center: float = 128
    ) -> np.ndarray:
        """Returns the coefficients, [rows, columns, 64], of a plane at full size."""
        samples = fit_samples(full, component.subsampling)
        rows, columns, _ = component.coefficients.shape
        pad = ((0, 8 * rows - samples.shape[0]), (0, 8 * columns - samples.shape[1]))
        samples = np.pad(samples, pad, "edge" if mode == "edge" else "constant")
        return block_coefficients(samples + (128 - center)).reshape(rows, columns, 64)

    def _set(self, index: int, x: np.ndarray) -> None:
        component = self._components[index]
        k = np.rint(x / component.table.reshape(64)).clip(-32768, 32767).astype(np.int16)
        self._components[index] = dataclasses.replace(component, coefficients=k)


def join_planes(planes: list[np.ndarray]) -> np.ndarray:
    """Returns the picture that decoded planes make: uint8 [height, width] or [height, width, 3]."""
    if len(planes) == 1:
        return planes[0]
    return color.ycbcr_to_rgb(np.stack(planes, axis=-1), "full")
