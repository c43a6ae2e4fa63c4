"""The components of a restored JPEG file: planes rounded to coefficients under a finer table."""

import dataclasses
import functools

import numpy as np

from dmcnn_jax.images import color
from dmcnn_jax.jpeg.coefficient_writer import MAX_BASELINE_STEP
from dmcnn_jax.jpeg.expected_error import expected_error
from dmcnn_jax.jpeg.finer_table import round_coefficients
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.jpeg.resampling import fit_samples
from dmcnn_jax.restoration.bands import BAND, map_bands, pad_to_blocks, transform
from dmcnn_jax.restoration.full_chroma import round_full_chroma
from dmcnn_jax.restoration.prior_save import prior_component
from dmcnn_jax.restoration.results import Planes

REMAINING_ERROR = 0.55
"""The squared error of a restored plane, as a share of `expected_error` of the file's plane: the
median over photographs at qualities 10 to 90, luma and chroma (`tools/jpeg_sizes.py
--calibrate`)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A component to write.

    Attributes:
        component: the component in the original file.
        written: number, size and sampling of the written component. Its coefficients and table are
            those of `component`, and are replaced if there is a plane.
        plane: the restored plane, float32, whole blocks of `written`, levels 0 to 255; None:
            coefficients and table are kept.
        bounded: whether coefficients stay inside the file's intervals.
        weight: weight of the plane's squared error in the error of R, G and B together.
        error: the expected squared error of the restored plane.
    """

    component: Component
    written: Component
    plane: np.ndarray | None
    bounded: bool
    weight: float
    error: float

    @property
    def resized(self) -> bool:
        """Whether the plane is written at another size than in the file."""
        return self.written.subsampling != self.component.subsampling

    def table(self, step: int) -> np.ndarray:
        """Returns Q', int32 [8, 8]: one step for all frequencies with a coarser step in the file.

        At equal error, one common step takes fewer bytes than steps in proportion to the file's, or
        to their square roots, because it distributes the error evenly over frequencies.
        """
        limit = self.component.table if self.bounded and not self.resized else MAX_BASELINE_STEP
        return np.minimum(np.full((8, 8), step, np.int32), limit).astype(np.int32)

    def rounded(self, step: int) -> Component:
        """Returns the component with coefficients under `table(step)`."""
        if self.plane is None:
            return self.written
        if self.resized and self.bounded:
            table = self.table(step)
            size = self.written.height, self.written.width
            coefficients = round_full_chroma(self.plane, self.component, *size, table)
        else:
            table, coefficients = self.table(step), self._round_plane(self.table(step))
        return dataclasses.replace(self.written, coefficients=coefficients, table=table)

    def rounding_error(self, step: int) -> float:
        """Returns the mean squared error of rounding a sample of blocks, in squared grey levels.

        Coefficients beyond the file's intervals are first moved to their ends. That costs the same
        at every step: counted here, it would demand the finest step of most files with subsampled
        chroma, whose fitted samples are sharper than the file's.
        """
        if self.plane is None:
            return 0.0
        x, k = self._sampled_blocks
        table, original = self.table(step).reshape(64), self.component.table.reshape(64)
        n = round_coefficients(x, table, k, original)
        if k is not None:
            center, half = k * original.astype(np.float32), original.astype(np.float32) / 2
            x = np.clip(x, center - half, center + half)
        return float(np.mean((n * table.astype(np.float32) - x) ** 2))

    def _round_plane(self, table: np.ndarray) -> np.ndarray:
        """Returns coefficients of the plane, int16 [rows, columns, 64]."""
        assert self.plane is not None
        plane, bounds = self.plane, self._bounds
        rows, columns = plane.shape[0] // 8, plane.shape[1] // 8
        result = np.empty((rows, columns, 64), np.int16)

        def band(top: int) -> None:
            x = transform(plane[8 * top : 8 * (top + BAND)])
            k = None if bounds is None else bounds[top : top + BAND].reshape(-1, 64)
            original = self.component.table.reshape(64)
            n = round_coefficients(x, table.reshape(64), k, original)
            result[top : top + BAND] = n.reshape(-1, columns, 64)

        map_bands(band, range(0, rows, BAND))
        return result

    @property
    def _bounds(self) -> np.ndarray | None:
        """The file's coefficients, [rows, columns, 64], if they bound those of the plane."""
        return self.component.coefficients if self.bounded and not self.resized else None

    @functools.cached_property
    def _sampled_blocks(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Coefficients of blocks in rows spread over the plane, [blocks, 64], and their bounds."""
        assert self.plane is not None
        rows, columns = self.plane.shape[0] // 8, self.plane.shape[1] // 8
        count = min(rows, max(1, _SAMPLED_BLOCKS // columns))
        chosen = np.unique(np.linspace(0, rows - 1, count).astype(int))
        x = np.concatenate([transform(self.plane[8 * row : 8 * row + 8]) for row in chosen])
        return x, None if self._bounds is None else self._bounds[chosen].reshape(-1, 64)


def find_targets(planes: Planes, *, project: bool, full_chroma: bool) -> list[Target]:
    """Returns the target of each component.

    Args:
        planes: what `Restorer.restore_planes` returned.
        project: whether the planes were projected into the file's intervals.
        full_chroma: whether Cb and Cr are written at full size.
    """
    if planes.parts:
        # CMYK and YCCK files keep their sampling.
        parts = [find_targets(p, project=project, full_chroma=False) for p in planes.parts]
        return [target for part in parts for target in part]
    file, prior = planes.file, planes.prior
    count, first_chroma = len(file.components), len(planes.lumas)
    restored: list[np.ndarray | None] = [*planes.luma, *planes.chroma] or [None] * count
    weights = _color_weights() if file.color == "ycbcr" else (1 / count,) * count
    full_chroma = full_chroma and can_write_full_chroma(planes)
    targets = []
    for index, component in enumerate(file.components):
        plane = restored[index] if planes.models[index] else None
        written = _full_size(component, file.height, file.width) if full_chroma else component
        if plane is not None and index >= first_chroma:
            plane = pad_to_blocks(plane if full_chroma else _fit(plane, component))
        seen = prior_component(component, prior) if prior and index == 0 else component
        error = REMAINING_ERROR * expected_error(seen)
        bounded = project and prior is None
        targets.append(Target(component, written, plane, bounded, weights[index], error))
    return targets


def can_write_full_chroma(planes: Planes) -> bool:
    """Returns whether chroma was restored at full size and is subsampled in the file."""
    if planes.parts:  # of CMYK and YCCK files, which keep their sampling
        return False
    first = len(planes.lumas)
    chroma = planes.file.components[first:]
    subsampled = any(component.subsampling != (1, 1) for component in chroma)
    return subsampled and all(planes.models[first:])


def _fit(plane: np.ndarray, component: Component) -> np.ndarray:
    """Returns a restored plane at the size of a component."""
    if plane.shape == (component.height, component.width):
        return plane
    return fit_samples(plane, component.subsampling)


def _full_size(component: Component, height: int, width: int) -> Component:
    """Returns a component with the size and the sampling of a plane at full size."""
    return dataclasses.replace(
        component, vertical=1, horizontal=1, subsampling=(1, 1), height=height, width=width
    )


def _color_weights() -> tuple[float, float, float]:
    """Returns the weights of the squared errors of Y, Cb and Cr in the mean of R, G and B."""
    red, green, blue = color.LUMA_WEIGHTS
    to_red, to_blue = 2 * (1 - red), 2 * (1 - blue)
    cb = (to_blue**2 + (blue * to_blue / green) ** 2) / 3
    cr = (to_red**2 + (red * to_red / green) ** 2) / 3
    return 1.0, cb, cr


# Number of blocks on which the rounding error is measured.
_SAMPLED_BLOCKS = 8192
