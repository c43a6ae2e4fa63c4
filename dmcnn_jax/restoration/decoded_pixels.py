"""Recovers the coefficients of a JPEG file from the pixels that were decoded from it.

Grid and tables are estimated from the pixels (`jpeg.decoded_plane`, `jpeg.lattice`), in colour
after chroma's upsampling is undone. Then each coefficient is rounded to a multiple of its step, and
the result is decoded as libjpeg does. Where that gives other pixels, because some were clipped or
lie outside of a cropped picture, the difference corrects the coefficients, and this is repeated.
The share of pixels that come back exactly is the proof.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import scipy.ndimage

from dmcnn_jax import jpeg
from dmcnn_jax.images import color
from dmcnn_jax.jpeg.dct import block_coefficients
from dmcnn_jax.jpeg.decoded_plane import (
    NOISE_SIZE,
    ROUNDING_NOISE,
    choose_grid,
    distinct_coefficients,
    find_grid,
)
from dmcnn_jax.jpeg.lattice import TableEstimate, estimate_table, step_evidence
from dmcnn_jax.jpeg.reader import Component, decode_plane
from dmcnn_jax.jpeg.resampling import fit_samples, upsample
from dmcnn_jax.jpeg.tables import STANDARD_CHROMA, nearest_quality
from dmcnn_jax.system.progress import Progress, check

MIN_EXACT = 0.9
"""The least share of pixels that must come back exactly, but for those near the border."""

# With this share, no other sampling of chroma is tried.
_SURELY_EXACT = 0.995

# Where cropping has cut blocks, or samples of chroma, pixels are uncertain.
_BORDER = 16

# The evidence, in nats, from which pixels may be those of a JPEG file.
_MIN_EVIDENCE = 60.0

# The evidence for each AC coefficient, on average: 0.47 and more in decoded files up to quality 98,
# 0.09 and less in other pictures. With steps of 1, any pixels come back.
_MIN_MEAN_EVIDENCE = 0.2

# The least share of unclipped colours that are images of whole YCbCr values. All are in a decoded
# file, and a quarter in other pictures.
_MIN_YCBCR = 0.6

# The noise of chroma's coefficients after undoing its upsampling, which was rounded as well.
_CHROMA_NOISE = 2 * ROUNDING_NOISE

# The share of chroma values that upsampling must give back, for the sampling to be considered.
_MIN_FIT = 0.9

# Levels by which pixels of a block that comes back may differ: other decoders round differently.
_SAME = 2

# Corrections end after so many, or when the number of wrong values falls by less than this factor.
_MAX_ITERATIONS, _PROGRESS = 8, 0.95

# The side of the part of a picture on which chroma's sampling is looked for, in pixels.
_SIDE = 768


class NotDecodedError(ValueError):
    """The pixels don't show the JPEG file that they came from, for the reason given."""


@dataclasses.dataclass(frozen=True, eq=False)
class Recovery:
    """What was recovered of a JPEG file.

    Attributes:
        components: as the file held them. The picture begins `margins` from their corner.
        margins: rows and columns that cropping has cut from the first blocks.
        exact: share of pixels that come back exactly, 0 to 1.
        trusted: bool [rows, columns] of 8 x 8 blocks: those whose pixels come back, to within two
            levels. The others were changed after decoding, or not recovered.
        tables: the estimates of luma's and, in colour, chroma's tables.
    """

    components: tuple[Component, ...]
    margins: tuple[int, int]
    exact: float
    trusted: np.ndarray
    tables: tuple[TableEstimate, ...]

    @property
    def quality(self) -> int:
        """The quality whose standard luma table is nearest to the file's, 1 to 100."""
        return nearest_quality(self.components[0].table)


@dataclasses.dataclass(frozen=True)
class _Sampling:
    """How chroma lies over the picture.

    Attributes:
        factors: rows and columns of the picture to a sample.
        left, top: where the first whole unit of 8 x 8 chroma samples begins, in pixels.
    """

    factors: tuple[int, int]
    left: int
    top: int

    @property
    def margins(self) -> tuple[int, int]:
        """Rows and columns by which units of 8 x 8 samples extend beyond the picture."""
        down, across = self.factors
        return -self.top % (8 * down), -self.left % (8 * across)


def recover(pixels: np.ndarray, progress: Progress | None = None) -> Recovery:
    """Recovers the file that pixels were decoded from.

    Args:
        pixels: uint8 [height, width], or [height, width, 3] (RGB).
        progress: called now and then, with 0; what it raises ends the work.

    Returns:
        Its coefficients and tables, with a proof.

    Raises:
        NotDecodedError: if the pixels don't show a JPEG compression, or too few of them come back.
    """
    planes, unclipped = _planes_of(pixels)
    left, top, _ = find_grid(planes[0])
    check(progress)
    x = distinct_coefficients(planes[0][top:, left:], unclipped[top:, left:])
    luma = estimate_table(step_evidence(x, ROUNDING_NOISE))
    count = np.count_nonzero(np.abs(x[:, 1:]) > NOISE_SIZE)
    if luma.evidence < max(_MIN_EVIDENCE, _MIN_MEAN_EVIDENCE * count):
        raise NotDecodedError(
            "no JPEG compression found in its pixels: it was never compressed, or changed since,"
            " as by scaling or filters"
        )
    best, most = None, -1.0
    for sampling, tables in _hypotheses(planes, unclipped, left, top, luma):
        check(progress)
        components = _Fit(pixels, planes, unclipped, sampling, tables).components()
        error = _errors_of(pixels, components, sampling.margins)
        inner = error[_BORDER:-_BORDER, _BORDER:-_BORDER]
        exact = float(np.mean((inner if inner.size else error) == 0))
        if exact > most:
            trusted = _trusted_blocks(error, sampling.margins)
            best = Recovery(
                components, sampling.margins, float(np.mean(error == 0)), trusted, tables
            )
            most = exact
        if exact >= _SURELY_EXACT:
            break
    if best is None or most < MIN_EXACT:
        raise NotDecodedError(
            f"JPEG compression at about quality {nearest_quality(luma.table)} shows in its pixels,"
            f" but only {most:.0%} of them come back by decoding it again; expected"
            f" {MIN_EXACT:.0%}: they were changed since, as by scaling, filters or another"
            " compression"
        )
    return best


def _planes_of(pixels: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns a picture's planes, uint8, and which pixels were surely not clipped."""
    if pixels.ndim == 2:
        return [pixels], (pixels > 0) & (pixels < 255)
    unclipped = np.asarray(((pixels > 0) & (pixels < 255)).all(axis=-1))
    ycbcr = color.rgb_to_ycbcr(pixels, "full")
    same = (color.ycbcr_to_rgb(ycbcr, "full") == pixels).all(axis=-1)
    share = same[unclipped].mean() if unclipped.any() else 1.0
    if share < _MIN_YCBCR:
        raise NotDecodedError(
            f"no JPEG compression found in its pixels: only {share:.0%} of their colours are ones"
            f" that decoders of JPEG files give; expected {_MIN_YCBCR:.0%}. It was never"
            " compressed, or was changed since, as by scaling or filters"
        )
    return [np.ascontiguousarray(ycbcr[..., c]) for c in range(3)], unclipped


def _hypotheses(
    planes: list[np.ndarray], unclipped: np.ndarray, left: int, top: int, luma: TableEstimate
) -> Iterator[tuple[_Sampling, tuple[TableEstimate, ...]]]:
    """Yields how chroma may be sampled, the coarsest first, and the tables of all planes."""
    if len(planes) == 1:
        yield _Sampling((1, 1), left, top), (luma,)
        return
    for factors in ((2, 2), (1, 2), (2, 1), (1, 1)):
        down, across = factors
        start = np.s_[top % down :, left % across :]
        if all(_fits(plane[start], unclipped[start], factors) for plane in planes[1:]):
            sampling, measured = _place_chroma(planes, unclipped, left, top, factors, luma)
            for chroma in _chroma_tables(measured, luma):
                yield sampling, (luma, *chroma)


def _place_chroma(
    planes: list[np.ndarray],
    unclipped: np.ndarray,
    left: int,
    top: int,
    factors: tuple[int, int],
    luma: TableEstimate,
) -> tuple[_Sampling, list[np.ndarray]]:
    """Finds where chroma's blocks lie, given luma's grid; returns also the evidence for steps."""
    height, width = planes[0].shape
    rows, columns = part = _active_part(planes[1], height, width)
    chroma = [plane[part] for plane in planes[1:]]
    down, across = factors
    candidates = [
        _Sampling(factors, (left + 8 * beside) % (8 * across), (top + 8 * below) % (8 * down))
        for below, beside in itertools.product(range(down), range(across))
    ]

    parts = []
    for each in candidates:
        inside = _Sampling(
            factors,
            (each.left - columns.start) % (8 * across),
            (each.top - rows.start) % (8 * down),
        )
        known = _known_samples(unclipped[part], inside)
        parts.append([(_samples_from(plane, inside), known) for plane in chroma])
    # A table that is known tells grids apart by few coefficients.
    table = _standard_chroma(luma)
    if table is None:
        best = candidates[choose_grid(parts, _CHROMA_NOISE, dc=True)[0]]
    else:
        fits = [sum(_agreement(_measure(*plane), table) for plane in planes) for planes in parts]
        best = candidates[int(np.argmax(fits))]
    known = _known_samples(unclipped, best)
    return best, [_measure(_samples_from(plane, best), known) for plane in planes[1:]]


def _measure(samples: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Returns the evidence of chroma samples for steps, as `step_evidence` does."""
    return step_evidence(distinct_coefficients(samples, known, dc=True), _CHROMA_NOISE)


def _standard_chroma(luma: TableEstimate) -> np.ndarray | None:
    """Returns the standard chroma table of luma's quality, int32 [8, 8], if luma's is standard."""
    return None if luma.quality is None else jpeg.quality_table(luma.quality, STANDARD_CHROMA)


def _agreement(evidence: np.ndarray, table: np.ndarray) -> float:
    """Returns the evidence for a table, in nats."""
    return float(evidence[np.arange(64), table.reshape(64) - 1].sum())


def _chroma_tables(
    measured: list[np.ndarray], luma: TableEstimate
) -> Iterator[tuple[TableEstimate, TableEstimate]]:
    """Yields tables that Cb and Cr may have, given their evidence: the likeliest first.

    The standard table of luma's quality comes first, then what the evidence speaks for: one table
    for both, unless it contradicts itself.
    """
    both = measured[0] + measured[1]
    separate = sum(np.maximum(e.max(axis=1), 0).sum() for e in measured)
    table = _standard_chroma(luma)
    if table is not None:
        known = np.ones((8, 8), bool)
        standard = TableEstimate(table, known, luma.quality, _agreement(both, table))
        yield standard, standard
    if np.maximum(both.max(axis=1), 0).sum() >= 0.95 * separate - 20:
        estimate = estimate_table(both, STANDARD_CHROMA)
        yield estimate, estimate
    else:
        cb, cr = (estimate_table(e, STANDARD_CHROMA) for e in measured)
        yield cb, cr


def _active_part(plane: np.ndarray, height: int, width: int) -> tuple[slice, slice]:
    """Returns the part of a picture, at most `_SIDE` square, whose chroma varies most."""
    tall, wide = min(_SIDE, height), min(_SIDE, width)
    places = [
        (int(top), int(left))
        for top in np.unique(np.linspace(0, height - tall, -(-height // _SIDE)))
        for left in np.unique(np.linspace(0, width - wide, -(-width // _SIDE)))
    ]

    def variation(place: tuple[int, int]) -> float:
        top, left = place
        return float(plane[top : top + tall, left : left + wide].std())

    top, left = max(places, key=variation)
    return slice(top, top + tall), slice(left, left + wide)


def _fits(plane: np.ndarray, known: np.ndarray, factors: tuple[int, int]) -> bool:
    """Returns whether a plane is what `upsample` gives, up to rounding, in most places."""
    if factors == (1, 1):
        return True
    height, width = (size // 2 * 2 for size in plane.shape)
    part, known = plane[:height, :width].astype(np.float32), known[:height, :width]
    error = np.abs(upsample(fit_samples(part, factors), factors) - part)
    # Cropping has cut what the samples at the border depend on.
    compared = error[4:-4, 4:-4][known[4:-4, 4:-4]]
    return not compared.size or bool((compared <= 1).mean() >= _MIN_FIT)


def _samples_from(plane: np.ndarray, sampling: _Sampling) -> np.ndarray:
    """Returns the samples of a chroma plane from its first whole unit of 8 x 8 on: float32."""
    down, across = sampling.factors
    top, left = sampling.top % down, sampling.left % across
    samples = fit_samples(plane[top:, left:].astype(np.float32), sampling.factors)
    return samples[(sampling.top - top) // down :, (sampling.left - left) // across :]


def _known_samples(unclipped: np.ndarray, sampling: _Sampling) -> np.ndarray:
    """Returns which of the samples that `_samples_from` returns depend on no clipped pixel."""
    down, across = sampling.factors
    top, left = sampling.top % down, sampling.left % across
    part = unclipped[top:, left:]
    part = np.pad(part, ((0, -part.shape[0] % down), (0, -part.shape[1] % across)), mode="edge")
    cells = part.reshape(part.shape[0] // down, down, part.shape[1] // across, across)
    known = np.asarray(cells.all(axis=(1, 3)))
    if sampling.factors != (1, 1):
        known = scipy.ndimage.binary_erosion(known, np.ones((3, 3), bool), border_value=1)
    return known[(sampling.top - top) // down :, (sampling.left - left) // across :]


class _Fit:
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
        sampling: _Sampling,
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
        wrong = int(np.count_nonzero(_join(decoded) != self._pixels))
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
        lacking = self._pixels.astype(np.float32) - _join(decoded)
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


def _join(planes: list[np.ndarray]) -> np.ndarray:
    """Returns the picture that decoded planes make: uint8 [height, width] or [height, width, 3]."""
    if len(planes) == 1:
        return planes[0]
    return color.ycbcr_to_rgb(np.stack(planes, axis=-1), "full")


def _errors_of(
    pixels: np.ndarray, components: tuple[Component, ...], margins: tuple[int, int]
) -> np.ndarray:
    """Returns by how much pixels differ from the decoded components: int16 [height, width]."""
    above, before = margins
    height, width = pixels.shape[0] + above, pixels.shape[1] + before
    full = [upsample(decode_plane(c), c.subsampling)[:height, :width] for c in components]
    error = np.abs(pixels.astype(np.int16) - _join(full)[above:, before:])
    return error.max(axis=-1) if error.ndim == 3 else error


def _trusted_blocks(error: np.ndarray, margins: tuple[int, int]) -> np.ndarray:
    """Returns which blocks come back, given by how much pixels differ: bool [rows, columns]."""
    above, before = margins
    height, width = error.shape[0] + above, error.shape[1] + before
    padded = np.pad(error, ((above, -height % 8), (before, -width % 8)))
    rows, columns = padded.shape[0] // 8, padded.shape[1] // 8
    return np.asarray(padded.reshape(rows, 8, columns, 8).max(axis=(1, 3)) <= _SAME)
