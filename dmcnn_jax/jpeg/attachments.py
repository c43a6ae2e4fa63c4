"""Finds a JPEG file's contents beside its picture: gain maps, videos, further pictures, other data.

Phones and cameras append them to the picture: Ultra HDR files a gain map, motion photos a video,
MPO files (CIPA DC-007) further pictures. Other programs add application segments of their own.
"""

import collections
import dataclasses
import re

from dmcnn_jax.jpeg import marker_codes as codes
from dmcnn_jax.jpeg.frame import Segments


@dataclasses.dataclass(frozen=True)
class Attachment:
    """A part of a JPEG file beside its picture and metadata.

    Attributes:
        kind: description: "gain map", "picture", "video", "APP4 data" or "other data".
        size: in bytes, total of all attachments of this kind.
        count: number of attachments of this kind.
    """

    kind: str
    size: int
    count: int = 1

    def __str__(self) -> str:
        several = "s" if self.count > 1 and not self.kind.endswith("data") else ""
        number = f"{self.count} " if several else ""
        return f"{number}{self.kind}{several} ({describe_size(self.size)})"


def find_attachments(segments: Segments, trailer: bytes, unread: int = 0) -> tuple[Attachment, ...]:
    """Finds the parts of a file beside its picture and metadata.

    Args:
        segments: application segments before the first scan, markers and payloads.
        trailer: the bytes after the end marker.
        unread: the number of bytes after the trailer, which count as part of the last attachment.

    Returns:
        One attachment for each kind, in the file's order.
    """
    found = [_describe_segment(*segment) for segment in segments]
    parts = _split_trailer(trailer, any(_GAIN_MAP.search(payload) for _, payload in segments))
    if unread and not parts:
        parts = [Attachment("other data", len(trailer))]
    if unread:
        parts[-1] = dataclasses.replace(parts[-1], size=parts[-1].size + unread)
    found += parts
    kinds: dict[str, list[int]] = collections.defaultdict(list)
    for each in found:
        if each is not None:
            kinds[each.kind].append(each.size)
    return tuple(Attachment(kind, sum(sizes), len(sizes)) for kind, sizes in kinds.items())


def end_of_picture(data: bytes, start: int = 0) -> int:
    """Returns the end of a JPEG picture; the end of the data if there is no end marker."""
    return _end_of_picture(data, start)[0]


def describe_size(size: int) -> str:
    """Returns a number of bytes as text, such as "916 bytes" or "1.2 MB"."""
    if size < 10_000:
        return f"{size} bytes"
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{round(size / 1e3)} kB"


# Adobe's and Google's, Apple's, and ISO 21496-1's name of a gain map.
_GAIN_MAP = re.compile(
    rb"ns\.adobe\.com/hdr-gain-map|ns\.apple\.com/HDRGainMap|urn:iso:std:iso:ts:21496|[\"'>]GainMap"
)

# The start of each part of a trailer: a JPEG picture, or the first box of a video (ISO 14496-12).
_PART = re.compile(rb"\xff\xd8\xff|.{4}ftyp", re.DOTALL)
_MAX_PARTS = 100
_MAX_HEAD = 2**18
_FILLER = re.compile(rb"[\0\xff\s]*")

_MARKER = re.compile(rb"\xff([\x01-\xfe])")

# Segments that are read as metadata, or that describe only how the file was written.
_KNOWN = {
    codes.APP0: (b"JFIF\0",),
    codes.APP1: (
        b"Exif\0",
        b"http://ns.adobe.com/xap/1.0/\0",
        b"http://ns.adobe.com/xmp/extension/",
    ),
    codes.APP2: (b"ICC_PROFILE\0", b"MPF\0", b"urn:iso:std:iso:ts:21496"),
    codes.APP9: (b"dmcnn_jax\0",),
    codes.APP12: (b"Ducky",),
    codes.APP13: (b"Photoshop 3.0\0", b"Adobe_Photoshop"),
    codes.APP14: (b"Adobe",),
}
_NAMED = {
    (codes.APP0, b"JFXX\0"): "JFIF thumbnail",
    (codes.APP2, b"FPXR\0"): "FlashPix data",
    (codes.APP11, b"JP"): "Content Credentials or other JUMBF data",
}


def _describe_segment(marker: int, payload: bytes) -> Attachment | None:
    """Describes an application segment, unless it is metadata that is read."""
    if (
        marker == codes.COM
        or not payload.strip(b"\0")
        or payload.startswith(_KNOWN.get(marker, ()))
    ):
        return None
    for (number, start), kind in _NAMED.items():
        if marker == number and payload.startswith(start):
            return Attachment(kind, len(payload))
    return Attachment(f"APP{marker - codes.APP0} data", len(payload))


def _split_trailer(trailer: bytes, promises_gain_map: bool) -> list[Attachment]:
    """Splits the trailer into pictures, videos and other data."""
    found: list[Attachment] = []
    position = 0
    while (position := _end_of_filler(trailer, position)) < len(trailer):
        part = _PART.match(trailer, position)
        if len(found) == _MAX_PARTS:
            end, kind = len(trailer), "other data"
        elif part is None:
            end, kind = _next_part(trailer, position + 1), "other data"
        elif part[0].startswith(b"\xff\xd8"):
            end, head = _end_of_picture(trailer, position)
            is_map = (
                _GAIN_MAP.search(trailer, position, min(head, position + _MAX_HEAD)) is not None
            )
            kind = "gain map" if is_map else "picture"
        else:
            end, kind = _end_of_video(trailer, position), "video"
        found.append(Attachment(kind, end - position))
        position = end
    # Some gain maps do not identify themselves; then the picture's metadata announces one.
    kinds = [each.kind for each in found]
    if promises_gain_map and "gain map" not in kinds and "picture" in kinds:
        found[kinds.index("picture")] = Attachment("gain map", found[kinds.index("picture")].size)
    return found


def _end_of_filler(data: bytes, position: int) -> int:
    """Returns the end of filler bytes, where a picture, a video or other data begins."""
    match = _FILLER.match(data, position)
    end = match.end() if match else position
    if end > position and data[end - 1 : end + 1] == b"\xff\xd8":
        return end - 1
    # The size before a video's first name also begins with zeros.
    video = data.find(b"ftyp", end, end + 8) - 4
    return video if video >= position else end


def _next_part(trailer: bytes, position: int) -> int:
    """Returns the start of the next picture or video, or the end of the trailer."""
    starts = (trailer.find(b"\xff\xd8\xff", position), trailer.find(b"ftyp", position + 4) - 4)
    return min((start for start in starts if start >= position), default=len(trailer))


def _end_of_picture(data: bytes, start: int) -> tuple[int, int]:
    """Returns the end of a JPEG picture, and the start of its first scan."""
    position, head = start + 2, len(data)
    while found := _MARKER.search(data, position):
        marker, position = found[1][0], found.end()
        if marker == codes.EOI:
            return position, min(head, position)
        if marker == codes.SOI:
            return found.start(), min(head, found.start())
        if marker in codes.WITHOUT_SEGMENT:
            continue
        position += int.from_bytes(data[position : position + 2], "big")
        if marker == codes.SOS:
            head = min(head, position)
            scan = codes.END_OF_SCAN.search(data, position)
            position = scan.start() if scan else len(data)
    return len(data), head


def _end_of_video(data: bytes, position: int) -> int:
    """Returns the end of a video's boxes."""
    while position + 8 <= len(data) and data[position + 4 : position + 8].isalnum():
        size = int.from_bytes(data[position : position + 4], "big")
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        if size < 8:
            return len(data)
        position = min(position + size, len(data))
    return position
