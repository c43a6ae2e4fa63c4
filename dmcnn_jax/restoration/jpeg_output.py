"""Writes restored planes as a JPEG file: small, certified, with the original's other contents."""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from dmcnn_jax import jpeg
from dmcnn_jax.jpeg.carrying import replace_picture
from dmcnn_jax.jpeg.certificate import make_segment
from dmcnn_jax.jpeg.coefficient_writer import (
    MAX_BASELINE_STEP,
    MAX_DIFFERENCE,
    MAX_MAGNITUDE,
    write_coefficients,
)
from dmcnn_jax.jpeg.markers import parse
from dmcnn_jax.jpeg.reader import Component
from dmcnn_jax.jpeg.recoverable import replace_recoverably
from dmcnn_jax.jpeg.tables import nearest_quality
from dmcnn_jax.restoration.jpeg_components import Target, can_write_full_chroma, find_targets
from dmcnn_jax.restoration.jpeg_options import JpegOptions
from dmcnn_jax.restoration.jpeg_verification import tally_files
from dmcnn_jax.restoration.results import JpegRestoration, Planes

NOT_RECOVERABLE = "the original file can't be recovered from it"
"""The note if `JpegOptions.recoverable` is set and recovery isn't possible."""


def make_jpeg(planes: Planes, options: JpegOptions, *, project: bool = True) -> JpegRestoration:
    """Writes restored planes as a JPEG file.

    The planes are transformed and rounded under a finer table, inside the intervals that the file's
    coefficients allow. The file's other contents are kept. If no plane was restored, the file is
    returned unchanged.

    Args:
        planes: what `Restorer.restore_planes` returned.
        options: the loss allowed to rounding, and the sampling of chroma.
        project: whether the planes were projected into the file's intervals.

    Raises:
        ValueError: if the file can't be as small as `options` say, or can't be written; if a part
            of it was not read.
    """
    file = planes.file
    if file.unread:
        raise ValueError(
            f"{file.name}: read without its end, which JPEG results keep; expected a file read with"
            " whole=True"
        )
    quality = nearest_quality(file.components[0].table)
    if not any(planes.models) and not file.damage:
        return JpegRestoration(
            data=file.data, models=planes.models, quality=quality, notes=planes.notes
        )
    targets = find_targets(planes, project=project, full_chroma=options.full_chroma)
    write = functools.partial(_write, file, targets, planes.models, recoverable=options.recoverable)
    if options.size is None:
        step = find_step(targets, options.loss or 0)
        data, notes = write(step)
    else:
        step, data, notes = _fit_size(write, options.size, file.name)
    if options.full_chroma and not can_write_full_chroma(planes):
        reason = "the file is CMYK" if planes.parts else "no network restored it at full size"
        notes += (f"chroma keeps its size: {reason}",)
    written = jpeg.read(data, max_pixels=file.height * file.width)
    luma, chroma = tally_files(file, written)
    bounded = project and planes.prior is None
    return JpegRestoration(
        data=data,
        models=planes.models,
        quality=quality,
        luma_tally=luma if bounded else None,
        notes=(*planes.notes, *notes),
        prior=planes.prior,
        chroma_tally=chroma if bounded and chroma.coefficients else None,
        step=step,
        loss=expected_loss(targets, step),
        recoverable=options.recoverable and NOT_RECOVERABLE not in notes,
    )


def find_step(targets: Sequence[Target], loss: float) -> int:
    """Returns the coarsest step, at least 1, whose rounding costs at most a given loss.

    Args:
        targets: the components to write.
        loss: the largest loss, dB.
    """
    finest, too_coarse = 1, MAX_BASELINE_STEP + 1
    while too_coarse - finest > 1:
        step = (finest + too_coarse) // 2
        if expected_loss(targets, step) <= loss:
            finest = step
        else:
            too_coarse = step
    return finest


def expected_loss(targets: Sequence[Target], step: int) -> float:
    """Returns the loss in quality of the restored picture by rounding, in dB.

    It is 10 log₁₀(1 + D / E), with the restored picture's squared error E and the rounding error D,
    which is independent of it. D is measured, E is estimated (`expected_error`).

    Args:
        targets: the components to write.
        step: step of the table.
    """
    rounding = sum(target.weight * target.rounding_error(step) for target in targets)
    restored = sum(target.weight * target.error for target in targets)
    return 10 * math.log10(1 + rounding / restored)


def _fit_size(
    write: Callable[[int], tuple[bytes, tuple[str, ...]]], size: int, name: str
) -> tuple[int, bytes, tuple[str, ...]]:
    """Returns the finest step for which the file is small enough, and the file with its notes.

    Args:
        write: returns the file for a step, and notes.
        size: size limit, in bytes.
        name: name of the original.

    Raises:
        ValueError: if there is none.
    """
    coarsest, data, notes = MAX_BASELINE_STEP, *write(MAX_BASELINE_STEP)
    if len(data) > size:
        raise ValueError(
            f"{name}: {size} bytes are too few: with the coarsest table, which loses all that"
            f" was restored, the file takes {len(data)}; allow more, or a loss in dB"
        )
    too_fine = 0
    while coarsest - too_fine > 1:
        step = (too_fine + coarsest) // 2
        tried, remarks = write(step)
        if len(tried) <= size:
            coarsest, data, notes = step, tried, remarks
        else:
            too_fine = step
    return coarsest, data, notes


def _write(
    file: jpeg.JpegFile,
    targets: Sequence[Target],
    models: Sequence[str | None],
    step: int,
    *,
    recoverable: bool,
) -> tuple[bytes, tuple[str, ...]]:
    """Returns a restored JPEG file, and remarks on its other contents."""
    components = [_within_range(target, step) for target in targets]
    try:
        picture = write_coefficients(
            components, file.height, file.width, progressive=file.progressive
        )
    except ValueError as error:  # from damaged and crafted files
        raise ValueError(f"{file.name}: {error}; write a PNG or TIFF file instead") from None
    plain = parse(picture, file.name, file.height * file.width).plain
    segment = make_segment(models, [c.table for c in file.components], plain, file.data)
    if recoverable:
        pixels = file.height * file.width
        whole = replace_recoverably(file.data, picture, added=[segment], max_pixels=pixels)
        if whole is not None:
            return whole.data, whole.notes
    carried = replace_picture(file.data, picture, added=[segment])
    return carried.data, (*carried.notes, *[NOT_RECOVERABLE] * recoverable)


def _within_range(target: Target, step: int) -> Component:
    """Returns a component within a JPEG file's range, if need be with a coarser step."""
    while True:
        component = target.rounded(step)
        coefficients = component.coefficients.astype(np.int32)
        largest = np.abs(coefficients[..., 1:]).max(initial=0)
        # No difference of two blocks is larger than this, whatever their order.
        difference = np.ptp(coefficients[..., 0])
        fits = largest <= MAX_MAGNITUDE and difference <= MAX_DIFFERENCE
        if fits or target.plane is None or step >= MAX_BASELINE_STEP:
            return component
        step = min(2 * step, MAX_BASELINE_STEP)
