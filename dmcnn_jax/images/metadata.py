"""Carries the metadata of a JPEG file over to other formats."""

from PIL import Image
from PIL.ExifTags import Base

from dmcnn_jax.jpeg.metadata import Metadata

XMP_KEYWORD = "XML:com.adobe.xmp"
"""The keyword under which a PNG file holds XMP, as text."""


def to_exif(metadata: Metadata) -> Image.Exif:
    """Returns a Pillow EXIF object that holds a file's EXIF data, XMP and comments.

    Tags that describe how pixels are stored are left out: they belong to another file.
    """
    exif = Image.Exif()
    exif.load(metadata.exif or b"")
    for tag in _STORAGE.intersection(exif):
        del exif[tag]
    if metadata.xmp:
        exif[Base.XMLPacket] = metadata.xmp
    if metadata.comments:
        exif.setdefault(Base.ImageDescription, decode_comment(b"\n".join(metadata.comments)))
    return exif


def decode_comment(comment: bytes) -> str:
    """Returns a JPEG comment as text: UTF-8 if it is valid, else Latin-1.

    A JPEG file does not declare the encoding of its comments.
    """
    try:
        return comment.decode()
    except UnicodeDecodeError:
        return comment.decode("latin-1")


# The tags of TIFF 6.0 that describe how pixels are stored.
# fmt: off
_STORAGE = frozenset(
    {
        Base.NewSubfileType, Base.SubfileType, Base.ImageWidth, Base.ImageLength,
        Base.BitsPerSample, Base.Compression, Base.PhotometricInterpretation, Base.Thresholding,
        Base.CellWidth, Base.CellLength, Base.FillOrder, Base.StripOffsets, Base.SamplesPerPixel,
        Base.RowsPerStrip, Base.StripByteCounts, Base.MinSampleValue, Base.MaxSampleValue,
        Base.PlanarConfiguration, Base.GrayResponseUnit, Base.GrayResponseCurve, Base.T4Options,
        Base.T6Options, Base.PageNumber, Base.TransferFunction, Base.Predictor, Base.WhitePoint,
        Base.PrimaryChromaticities, Base.ColorMap, Base.HalftoneHints, Base.TileWidth,
        Base.TileLength, Base.TileOffsets, Base.TileByteCounts, Base.SubIFDs, Base.InkSet,
        Base.ExtraSamples, Base.SampleFormat, Base.SMinSampleValue, Base.SMaxSampleValue,
        Base.TransferRange, Base.ClipPath, Base.JPEGTables, Base.JPEGProc, Base.JpegIFOffset,
        Base.JpegIFByteCount, Base.JpegRestartInterval, Base.JpegLosslessPredictors,
        Base.JpegPointTransforms, Base.JpegQTables, Base.JpegDCTables, Base.JpegACTables,
        Base.YCbCrCoefficients, Base.YCbCrSubSampling, Base.YCbCrPositioning,
        Base.ReferenceBlackWhite,
    }
)
# fmt: on
