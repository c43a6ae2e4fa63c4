"""Restores the files of an archive one by one, as `dmcnn-restore` does."""

import dataclasses
import hashlib
import io
import posixpath
import time
from typing import NamedTuple

from dmcnn_jax import jpeg
from dmcnn_jax.archives.errors import StorageUnavailableError
from dmcnn_jax.archives.plan import Archive, Row
from dmcnn_jax.archives.reports import Record
from dmcnn_jax.archives.sources import split_member
from dmcnn_jax.images import formats
from dmcnn_jax.restoration.restorer import Restorer
from dmcnn_jax.restoration.results import Planes
from dmcnn_jax.restoration.writing import make_result
from dmcnn_jax.system.messages import first_line


class Read(NamedTuple):
    """A file that was read.

    Attributes:
        file: its coefficients, tables and metadata.
        digest: SHA-256 of its bytes, hexadecimal.
        size: in bytes.
    """

    file: jpeg.JpegFile
    digest: str
    size: int


class PictureRestorer:
    """A restorer of an archive's files, which loads each model once.

    Its methods are the stages of restoring a file, in order. Each may run in its own thread, while
    other stages work on other files.

    Args:
        archive: the archive.

    Raises:
        ValueError: if the plan's options are not possible here, or this installation's weights
            differ from the plan's.
        ImportError: if its engine is not installed.
    """

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.options = archive.plan.options
        archive.check_weights()
        self.restorer = Restorer(self.options.weights, self.options.restore)

    def fetch(self, row: Row) -> bytes:
        """Returns the bytes of a file.

        Raises:
            ValueError: if the plan says that it can't be restored.
            OSError: if it can't be read.
        """
        if row.refusal:
            raise ValueError(row.refusal)
        return fetch(self.archive, row)

    def read(self, row: Row, data: bytes) -> Read:
        """Returns the decoded contents of a file.

        Raises:
            ValueError: if it is not a JPEG file that can be restored.
        """
        options = self.options
        file = jpeg.read(
            data,
            max_pixels=options.max_pixels,
            allow_truncated=options.allow_truncated,
            name=row.path,
        )
        return Read(file, hashlib.sha256(data).hexdigest(), len(data))

    def restore(self, read: Read) -> Planes:
        """Returns the restored planes of a file: the accelerator's part of the work."""
        return self.restorer.restore_planes(read.file)

    def write(self, row: Row, read: Read, planes: Planes, began: float) -> Record:
        """Renders the result of a file, writes it and returns its record."""
        output, style = row.output, self.options.style()
        if len(read.file.components) == 4 and style.format not in formats.CMYK_FORMATS:
            was = style.format
            output, style = posixpath.splitext(output)[0] + ".tif", self.options.style(".tif")
            note = f"a CMYK file, written as TIFF, since {was} can't hold it"
            planes = dataclasses.replace(planes, notes=(*planes.notes, note))
        result, write = make_result(self.restorer, planes, style, self.options.jpeg)
        buffer = io.BytesIO()
        dropped = write(buffer, True)
        data = buffer.getvalue()
        try:
            self.archive.target.publish(output, data)
        except StorageUnavailableError:
            raise
        except OSError as error:
            raise OSError(f"its result can't be written ({error.strerror or error})") from error
        tally = result.luma_tally
        return Record(
            index=row.number,
            path=row.path,
            output=output,
            status="restored" if any(result.models) else "decoded",
            model=", ".join(model or "-" for model in result.models),
            width=read.file.width,
            height=read.file.height,
            quality=result.quality,
            kept=tally.kept if tally else None,
            coefficients=tally.coefficients if tally else None,
            input_sha256=read.digest,
            output_sha256=hashlib.sha256(data).hexdigest(),
            input_bytes=read.size,
            output_bytes=len(data),
            notes=result.notes,
            dropped=dropped,
            seconds=round(time.perf_counter() - began, 3),
        )

    def run(self, row: Row) -> Record:
        """Restores a file from beginning to end, and returns its record."""
        began = time.perf_counter()
        try:
            read = self.read(row, self.fetch(row))
            return self.write(row, read, self.restore(read), began)
        except Exception as error:
            return failure(row, error, began)


def fetch(archive: Archive, row: Row) -> bytes:
    """Returns the bytes of a file of an archive, or of a member of a tar file."""
    if row.offset is None:
        return archive.source.read(row.path)
    tar, _ = split_member(row.path)
    return archive.source.read(tar, row.offset, row.size)


def failure(row: Row, error: Exception, began: float) -> Record:
    """Returns the record of a file that can't be restored.

    Raises:
        StorageUnavailableError: if the error is one, since the file didn't cause it.
    """
    if isinstance(error, StorageUnavailableError):
        raise error
    # Without the paths of files, so that reports count equal reasons.
    message = first_line(error).removeprefix(f"{row.path}: ")
    if isinstance(error, OSError) and error.strerror:
        message = error.strerror
    elif not isinstance(error, ValueError | OSError):
        message = f"{type(error).__name__}: {message}"
    seconds = round(time.perf_counter() - began, 3)
    size = row.size or 0
    return Record(
        index=row.number,
        path=row.path,
        output=row.output,
        status="failed",
        error=message,
        input_bytes=size,
        seconds=seconds,
    )
