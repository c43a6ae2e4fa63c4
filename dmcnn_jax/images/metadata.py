"""Carries the metadata of a JPEG file over to other formats."""

import dataclasses
import struct

from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.PngImagePlugin import MAX_TEXT_CHUNK
from PIL.TiffImagePlugin import IPTC_NAA_CHUNK, PHOTOSHOP_CHUNK, IFDRational

from dmcnn_jax.images import orientation, xmp
from dmcnn_jax.jpeg.marker_codes import APP1, APP13, write_segment
from dmcnn_jax.jpeg.metadata import EXTENDED_XMP, PHOTOSHOP, XMP, Metadata

XMP_KEYWORD, IPTC_KEYWORD = "XML:com.adobe.xmp", "Raw profile type iptc"
"""The keywords under which a PNG file holds XMP and IPTC data, as text."""

MAX_SEGMENT = 65_533
"""The longest payload of a JPEG file's segment, in bytes."""

# The number of IPTC data among Photoshop's resources.
_IPTC = 0x0404


def prepare(
    metadata: Metadata, format_name: str, *, upright: bool, gray: bool
) -> tuple[Metadata, list[str]]:
    """Returns the metadata in the form that a format can hold.

    XMP entries on contents that are dropped (a gain map, a motion photo's video) are removed.
    Extended XMP is joined with the main packet, except in JPEG files, whose segments hold 64 kB.
    Zero bytes in comments, which only JPEG files can hold, become line feeds; those at the end of a
    comment are removed.

    Args:
        metadata: of the JPEG file.
        format_name: "PNG", "TIFF", "WEBP" or "JPEG".
        upright: whether the pixels are turned by EXIF's orientation.
        gray: whether the pixels are gray.

    Returns:
        The metadata, and the dropped contents, in a few words each.
    """
    dropped = [str(each) for each in metadata.attachments]
    packet, extension = metadata.xmp, metadata.extended_xmp
    if packet is None and extension:
        dropped.append("extended XMP (there is no main packet)")
        extension = ()
    if packet is not None:
        packet, extension = _prepare_xmp(packet, extension, format_name, upright, dropped)
    if format_name == "PNG":
        metadata = _prepare_for_png(metadata, gray, dropped)
    if format_name == "WEBP":
        if metadata.resolution and not metadata.exif:
            dropped.append("resolution (WebP can't hold it)")
        if metadata.comments:
            dropped.append("comments (WebP can't hold them)")
        if metadata.photoshop:
            dropped.append("IPTC data (WebP can't hold them)")
    if (upright or format_name == "TIFF") and orientation.has_thumbnail(metadata.exif or b""):
        dropped.append("EXIF's thumbnail")
    metadata = dataclasses.replace(metadata, xmp=packet, extended_xmp=extension, attachments=())
    if format_name != "JPEG":
        comments = (each.rstrip(b"\0").replace(b"\0", b"\n") for each in metadata.comments)
        metadata = dataclasses.replace(metadata, comments=tuple(filter(None, comments)))
    if upright:
        metadata = orientation.upright(metadata)
    return metadata, dropped


def _prepare_xmp(
    packet: bytes, extension: tuple[bytes, ...], format_name: str, upright: bool, dropped: list[str]
) -> tuple[bytes | None, tuple[bytes, ...]]:
    """Returns an XMP packet and its extension as a format can hold them."""
    lost = False
    try:
        if format_name != "JPEG" and extension:
            packet, extension = xmp.join_extension(packet, extension), ()
        elif any(map(xmp.has_promises, extension)):
            raise xmp.XmpError("it describes other things that are dropped")
    except xmp.XmpError as error:
        dropped.append(f"extended XMP ({error})")
        lost, extension = True, ()
    try:
        if lost or xmp.has_promises(packet):
            packet = xmp.drop_promises(packet, extension=lost)
        if upright and b"Orientation" in packet:
            packet = xmp.set_upright(packet)
        if format_name == "JPEG" and len(packet) > MAX_SEGMENT - len(XMP):
            raise xmp.XmpError("it exceeds 64 kB")
    except xmp.XmpError as error:
        dropped.append(f"XMP ({error})")
        return None, ()
    return packet, extension


def _prepare_for_png(metadata: Metadata, gray: bool, dropped: list[str]) -> Metadata:
    """Returns metadata without a colour profile that PNG forbids and text that Pillow refuses."""
    icc, photoshop = metadata.icc, metadata.photoshop
    space = icc[16:20] if icc else b""
    if space in _COLOR_SPACES and space != (b"GRAY" if gray else b"RGB "):
        kind = "gray" if gray else "colour"
        dropped.append(f"colour profile (of {space.decode().strip()}, for a {kind} picture)")
        icc = None
    if photoshop and not _is_readable(photoshop):
        dropped.append("Photoshop resources (too large for PNG)")
        photoshop = iptc_record(photoshop)
        if photoshop is not None:
            header = b"8BIM" + struct.pack(">HHI", _IPTC, 0, len(photoshop))
            photoshop = header + photoshop + bytes(len(photoshop) % 2)
            if not _is_readable(photoshop):
                dropped.append("IPTC data (too large for PNG)")
                photoshop = None
    return dataclasses.replace(metadata, icc=icc, photoshop=photoshop)


def _is_readable(photoshop: bytes) -> bool:
    """Returns whether Pillow opens a PNG file with Photoshop's resources."""
    return len(png_profile(photoshop)) < MAX_TEXT_CHUNK


def jpeg_segments(metadata: Metadata) -> bytes:
    """Returns the application segments of a JPEG file that hold XMP and Photoshop's resources."""
    payloads = [(APP1, EXTENDED_XMP + part) for part in metadata.extended_xmp]
    if metadata.xmp:
        payloads.insert(0, (APP1, XMP + metadata.xmp))
    resources = metadata.photoshop or b""
    step = MAX_SEGMENT - len(PHOTOSHOP)
    payloads += [
        (APP13, PHOTOSHOP + resources[start : start + step])
        for start in range(0, len(resources), step)
    ]
    return b"".join(write_segment(marker, payload) for marker, payload in payloads)


def png_profile(photoshop: bytes) -> str:
    """Returns Photoshop's resources as the text that ImageMagick and ExifTool know in PNG files."""
    digits = photoshop.hex()
    lines = [digits[start : start + 72] for start in range(0, len(digits), 72)]
    return "\n".join(["", "iptc", f"{len(photoshop):8d}", *lines, ""])


def to_exif(metadata: Metadata) -> Image.Exif:
    """Returns a Pillow EXIF object that holds a file's EXIF data, XMP, IPTC data and comments.

    Tags on the storage of pixels are left out, since they describe another file.
    """
    exif = _load(metadata)
    unwanted = _STORAGE if _has_resolution(exif) else _STORAGE | _RESOLUTION
    for tag in unwanted.intersection(exif):
        del exif[tag]
    if exif.get(Base.Orientation, 1) not in range(1, 9):
        del exif[Base.Orientation]  # readers warn about it
    inner = exif.get_ifd(IFD.Exif)
    directories = [exif, inner, exif.get_ifd(IFD.GPSInfo)]
    if IFD.Interop in inner:
        # Pillow writes directories of directories only if they are there as such.
        inner[IFD.Interop] = exif.get_ifd(IFD.Interop)
        directories.append(inner[IFD.Interop])
    for directory in directories:
        for number, value in directory.items():
            if isinstance(value, str):
                directory[number] = _Text(value)
    if metadata.xmp:
        exif[Base.XMLPacket] = metadata.xmp
    if metadata.photoshop:
        exif[PHOTOSHOP_CHUNK] = metadata.photoshop
        if (iptc := iptc_record(metadata.photoshop)) is not None:
            exif[IPTC_NAA_CHUNK] = iptc
    if metadata.comments:
        comments = b"\n".join(metadata.comments).decode("latin-1")
        exif.setdefault(Base.ImageDescription, _Text(comments))
    return exif


def has_description(metadata: Metadata) -> bool:
    """Returns whether EXIF has a description, where TIFF files would hold comments."""
    return Base.ImageDescription in _load(metadata)


def _load(metadata: Metadata) -> Image.Exif:
    """Returns a file's EXIF data as a Pillow object."""
    exif = Image.Exif()
    exif.load(metadata.exif or b"")
    return exif


class _Text(str):
    """Text in Latin-1, as Pillow reads bytes of any encoding; Pillow writes the same bytes.

    Of other text, Pillow writes ASCII only, and "?" for the rest.
    """

    __slots__ = ()

    def encode(self, encoding: str = "latin-1", errors: str = "strict") -> bytes:
        """Returns the bytes that were read, whatever the encoding asked for."""
        return super().encode("latin-1")


def _has_resolution(exif: Image.Exif) -> bool:
    """Returns whether EXIF's resolution is plausible; TIFF files can't hold others."""
    for tag in (Base.XResolution, Base.YResolution):
        dots = exif.get(tag)
        if isinstance(dots, IFDRational) and not dots.denominator:
            return False  # in older versions of Pillow, float() fails
        if not (isinstance(dots, int | float | IFDRational) and 0 < float(dots) < 2**32):
            return False
    return exif.get(Base.ResolutionUnit, 2) in (1, 2, 3)


def iptc_record(photoshop: bytes) -> bytes | None:
    """Returns the IPTC data among Photoshop's image resources; None if there are none.

    Each resource has a signature, a number, a name padded to an even length, and its data, too.
    """
    position = 0
    while position + 12 <= len(photoshop):
        number, length = struct.unpack_from(">HB", photoshop, position + 4)
        start = position + 6 + (length + 2) // 2 * 2
        size = int.from_bytes(photoshop[start : start + 4], "big")
        if number == _IPTC:
            return photoshop[start + 4 : start + 4 + size]
        position = start + 4 + size + size % 2
    return None


def decode_comment(comment: bytes) -> str:
    """Returns a JPEG comment as text: UTF-8 if valid, otherwise Latin-1.

    A JPEG file does not declare the encoding of its comments.
    """
    try:
        return comment.decode()
    except UnicodeDecodeError:
        return comment.decode("latin-1")


# The colour spaces of ICC profiles by their signatures.
_COLOR_SPACES = (b"GRAY", b"RGB ", b"CMYK")

_RESOLUTION = frozenset({Base.XResolution, Base.YResolution, Base.ResolutionUnit})

# The tags of TIFF 6.0 on the storage of pixels. fmt: off
_STORAGE = frozenset(
    {
        Base.NewSubfileType,
        Base.SubfileType,
        Base.ImageWidth,
        Base.ImageLength,
        Base.BitsPerSample,
        Base.Compression,
        Base.PhotometricInterpretation,
        Base.Thresholding,
        Base.CellWidth,
        Base.CellLength,
        Base.FillOrder,
        Base.StripOffsets,
        Base.SamplesPerPixel,
        Base.RowsPerStrip,
        Base.StripByteCounts,
        Base.MinSampleValue,
        Base.MaxSampleValue,
        Base.PlanarConfiguration,
        Base.GrayResponseUnit,
        Base.GrayResponseCurve,
        Base.T4Options,
        Base.T6Options,
        Base.PageNumber,
        Base.TransferFunction,
        Base.Predictor,
        Base.WhitePoint,
        Base.PrimaryChromaticities,
        Base.ColorMap,
        Base.HalftoneHints,
        Base.TileWidth,
        Base.TileLength,
        Base.TileOffsets,
        Base.TileByteCounts,
        Base.SubIFDs,
        Base.InkSet,
        Base.ExtraSamples,
        Base.SampleFormat,
        Base.SMinSampleValue,
        Base.SMaxSampleValue,
        Base.TransferRange,
        Base.ClipPath,
        Base.JPEGTables,
        Base.JPEGProc,
        Base.JpegIFOffset,
        Base.JpegIFByteCount,
        Base.JpegRestartInterval,
        Base.JpegLosslessPredictors,
        Base.JpegPointTransforms,
        Base.JpegQTables,
        Base.JpegDCTables,
        Base.JpegACTables,
        Base.YCbCrCoefficients,
        Base.YCbCrSubSampling,
        Base.YCbCrPositioning,
        Base.ReferenceBlackWhite,
    }
)
# fmt: on
