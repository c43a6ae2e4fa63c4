"""The certificate in restored JPEG files: a segment by which they are recognised later.

It is an APP9 segment: "dmcnn_jax", a zero byte, and JSON with

- "version": version of the package that wrote the file
- "models": for each component the name of the model that restored it, null if it was not restored
- "tables": for each component the original file's table, in zigzag order, one byte an entry (two,
  big-endian, if an entry exceeds 255), in base64
- "digest": SHA-256 of the picture as written, in base64
- "original": SHA-256 of the original file, in base64

If a program changes the picture and keeps the segment, the digest no longer matches, and the file
counts as not restored.
"""

import base64
import binascii
import dataclasses
import hashlib
import json
from collections.abc import Sequence

import numpy as np

from dmcnn_jax.jpeg.frame import Segments
from dmcnn_jax.jpeg.marker_codes import APP9
from dmcnn_jax.jpeg.tables import ZIGZAG
from dmcnn_jax.version import __version__


@dataclasses.dataclass(frozen=True, eq=False)
class Certificate:
    """The contents of a certificate.

    Attributes:
        version: version of the package that wrote it.
        models: the model that restored each component; None: it was not restored.
        tables: the original file's table for each component, int32 [8, 8], natural order.
        original: digest of the original file; None: unknown.
    """

    version: str
    models: tuple[str | None, ...]
    tables: tuple[np.ndarray, ...]
    original: str | None = None

    def is_of(self, original: bytes) -> bool:
        """Returns whether a file is the original, byte for byte."""
        return self.original == _digest(original)


def make_segment(
    models: Sequence[str | None], tables: Sequence[np.ndarray], plain: bytes, original: bytes
) -> tuple[int, bytes]:
    """Returns the marker and the payload of a certificate.

    Args:
        models: the model that restored each component; None: it was not restored.
        tables: the original file's table for each component, integers [8, 8], natural order.
        plain: the plain stream of the written picture (`markers.Stream.plain`).
        original: the original file.
    """
    content = {
        "version": __version__,
        "models": list(models),
        "tables": [_pack(table) for table in tables],
        "digest": _digest(plain),
        "original": _digest(original),
    }
    return APP9, _IDENTIFIER + json.dumps(content, separators=(",", ":")).encode()


def find_certificate(segments: Segments, plain: bytes) -> Certificate | None:
    """Returns the certificate of a file; None if it has none, or one for another picture.

    Args:
        segments: the file's application segments.
        plain: the plain stream of its picture.
    """
    for marker, payload in segments:
        if is_certificate(marker, payload):
            try:
                content = json.loads(payload[len(_IDENTIFIER) :])
                if content["digest"] == _digest(plain):
                    return Certificate(
                        version=str(content["version"]),
                        models=tuple(None if m is None else str(m) for m in content["models"]),
                        tables=tuple(_unpack(table) for table in content["tables"]),
                        original=content.get("original"),
                    )
            except (ValueError, LookupError, TypeError, RecursionError, binascii.Error):
                continue  # not written by this package
    return None


def is_certificate(marker: int, payload: bytes) -> bool:
    """Returns whether a segment is a certificate, even one for another picture."""
    return marker == APP9 and payload.startswith(_IDENTIFIER)


_IDENTIFIER = b"dmcnn_jax\0"


def _digest(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _pack(table: np.ndarray) -> str:
    entries = table.reshape(64)[ZIGZAG]
    return base64.b64encode(entries.astype(">u2" if entries.max() > 255 else "u1")).decode()


def _unpack(text: str) -> np.ndarray:
    content = base64.b64decode(text, validate=True)
    table = np.empty(64, np.int32)
    table[ZIGZAG] = np.frombuffer(content, ">u2" if len(content) == 128 else "u1")
    return table.reshape(8, 8)
