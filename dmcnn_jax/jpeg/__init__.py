"""JPEG on an accelerator: what libjpeg does to pixels and coefficients, bit for bit, in JAX.

A JPEG encoder transforms blocks of 8x8 pixels, divides each coefficient by its step in the
quantisation table and rounds, and that rounding is the loss. Here it is as pure functions to jit
and vmap on CPU, GPU and TPU, with one table for all images or one for each:

    encode       pixels -> the integer coefficients that libjpeg's file would hold
    decode       coefficients -> the pixels that libjpeg would decode
    roundtrip    both: pixels -> the pixels of the decoded file
    simulate     roundtrip on floats, with a straight-through gradient, to train through JPEG

    quality_table, STANDARD_LUMA, STANDARD_CHROMA      the tables that a quality stands for
    dct, idct, to_blocks, from_blocks, BASIS_IMAGES    the exact transform, in floating point
    dequantize, interval, per_block                    what a coefficient says of the original

    read           a JPEG file: coefficients, tables, sampling and metadata, as a JpegFile
    decode_planes  the planes that libjpeg decodes of it, chroma at its own size

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

from dmcnn_jax.jpeg.codec import decode, encode, roundtrip, simulate
from dmcnn_jax.jpeg.dct import BASIS_IMAGES, dct, dequantize, from_blocks, idct, interval, to_blocks
from dmcnn_jax.jpeg.reader import MAX_PIXELS, JpegError, JpegFile, decode_planes, read
from dmcnn_jax.jpeg.tables import (
    STANDARD_CHROMA,
    STANDARD_LUMA,
    per_block,
    quality_table,
    varied_table,
)

__all__ = [
    "BASIS_IMAGES",
    "MAX_PIXELS",
    "STANDARD_CHROMA",
    "STANDARD_LUMA",
    "JpegError",
    "JpegFile",
    "dct",
    "decode",
    "decode_planes",
    "dequantize",
    "encode",
    "from_blocks",
    "idct",
    "interval",
    "per_block",
    "quality_table",
    "read",
    "roundtrip",
    "simulate",
    "to_blocks",
    "varied_table",
]
