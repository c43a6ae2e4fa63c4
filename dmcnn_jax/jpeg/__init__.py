"""JPEG on an accelerator: libjpeg's arithmetic on pixels and coefficients, bit for bit, in JAX.

A JPEG encoder transforms blocks of 8x8 pixels, divides each coefficient by its quantisation step
and rounds; that rounding is the loss. The functions here are pure: they work under jit and vmap, on
CPU, GPU and TPU, with one table for all images or one for each.

The codec, exact to the last bit:

    encode       pixels -> the integer coefficients in libjpeg's file
    decode       coefficients -> the pixels that libjpeg decodes
    roundtrip    both: pixels -> the pixels of the decoded file
    simulate     roundtrip on floats, with a straight-through gradient, to train through JPEG

Quantisation tables:

    quality_table, varied_table        the table of a quality; random tables like those of cameras
    STANDARD_LUMA, STANDARD_CHROMA     the tables that qualities scale
    ZIGZAG                             the order in which files store a table
    per_block, check_table             a table in the shape of coefficients; checks of a table

The exact transform, in floating point:

    dct, idct, BASIS_IMAGES            the orthonormal 8x8 DCT of all blocks
    to_blocks, from_blocks             a plane as blocks of 64 pixels, and back
    dequantize, interval               the values of coefficients, and the bounds of the original

Files and their planes:

    read, JpegFile, Component          a JPEG file: coefficients, tables, sampling and metadata
    Metadata                           EXIF, colour profile, XMP, IPTC, resolution, comments
    Attachment                         other contents of a file: a gain map, a video, other data
    JpegError, MAX_PIXELS              the error for rejected files; the default limit on size
    printable                          a file name with unprintable characters escaped
    decode_planes                      the planes that libjpeg decodes, chroma at its own size
    SUBSAMPLING_FACTORS                "4:2:0" and the like, as rows and columns for each sample
    upsample, upsample_rows            chroma at full size, as libjpeg does it

Three modules are imported by their own names: `double_compression` finds a prior, coarser
compression, `dihedral` turns images by their coefficients, and `projection` projects planes onto
intervals.

>>> import numpy as np
>>> from dmcnn_jax import jpeg
>>> pixels = np.random.default_rng(0).integers(0, 256, (2, 56, 56), dtype=np.uint8)
>>> tables = jpeg.quality_table(np.array([10, 90]))  # one for each image
>>> coefficients = jpeg.encode(pixels, tables)
>>> coefficients.shape, coefficients.dtype
((2, 7, 7, 64), dtype('int32'))
>>> decoded = jpeg.decode(coefficients, tables)
>>> bool((decoded == jpeg.roundtrip(pixels, tables)).all())
True
>>> lower, upper = jpeg.interval(coefficients, tables)
>>> exact = jpeg.dct(pixels.astype(np.float32) - 128)
>>> bool(((lower <= exact) & (exact <= upper)).all())
True

Planes are uint8 ``[..., H, W]``; coefficients are integers ``[..., H/8, W/8, 64]`` in natural
(row-major, not zigzag) order, channel 8*v + u with v the vertical frequency; tables are integers
``[..., 8, 8]`` in the same order.
"""

from dmcnn_jax.jpeg.attachments import Attachment
from dmcnn_jax.jpeg.codec import decode, encode, roundtrip, simulate
from dmcnn_jax.jpeg.dct import BASIS_IMAGES, dct, dequantize, from_blocks, idct, interval, to_blocks
from dmcnn_jax.jpeg.errors import JpegError
from dmcnn_jax.jpeg.metadata import Metadata
from dmcnn_jax.jpeg.reader import (
    MAX_PIXELS,
    Component,
    JpegFile,
    decode_planes,
    printable,
    read,
)
from dmcnn_jax.jpeg.resampling import SUBSAMPLING_FACTORS, upsample, upsample_rows
from dmcnn_jax.jpeg.tables import (
    STANDARD_CHROMA,
    STANDARD_LUMA,
    ZIGZAG,
    check_table,
    per_block,
    quality_table,
    varied_table,
)

__all__ = [
    "BASIS_IMAGES",
    "MAX_PIXELS",
    "STANDARD_CHROMA",
    "STANDARD_LUMA",
    "SUBSAMPLING_FACTORS",
    "ZIGZAG",
    "Attachment",
    "Component",
    "JpegError",
    "JpegFile",
    "Metadata",
    "check_table",
    "dct",
    "decode",
    "decode_planes",
    "dequantize",
    "encode",
    "from_blocks",
    "idct",
    "interval",
    "per_block",
    "printable",
    "quality_table",
    "read",
    "roundtrip",
    "simulate",
    "to_blocks",
    "upsample",
    "upsample_rows",
    "varied_table",
]
