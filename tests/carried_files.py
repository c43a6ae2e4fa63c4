"""JPEG files with everything that cameras, phones and programs put beside the picture, for tests.

They are made by hand from the specifications: EXIF 2.32, XMP part 3, CIPA DC-007 (MPF), Google's
Ultra HDR 1.1 and Motion Photo 1.0, ISO 19566-5 (JUMBF), and ExifTool's notes on the others.
"""

import functools
import hashlib
import io
import struct

import jpeg_cases
import numpy as np
from jpeg_cases import segment
from PIL import Image, ImageCms

_RANDOM = np.random.default_rng(21)
PIXELS = np.clip(
    np.add.outer(np.arange(48) * 3, np.arange(64) * 2)[..., None]
    + [0, 20, 60]
    + _RANDOM.normal(0, 12, (48, 64, 3)),
    0,
    255,
).astype(np.uint8)
SMALL = PIXELS[::4, ::4]

XMP = b"http://ns.adobe.com/xap/1.0/\0"
EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" {attributes}>{inside}</rdf:Description></rdf:RDF></x:xmpmeta>
{padding}<?xpacket end="w"?>"""
_GOOGLE = "http://ns.google.com/photos/1.0/"


# ---------------------------------------------------------------------------------------------
# Segments


def plain(pixels=PIXELS, **options):
    """A file as Pillow writes it, with JFIF's segment."""
    return jpeg_cases.pillow(pixels, **{"quality": 30} | options)


def insert(data, *segments, at=20):
    """A file with segments more, by default after JFIF's."""
    return data[:at] + b"".join(segments) + data[at:]


def without_markers(data):
    """A file without application segments and comments."""
    parts = jpeg_cases.segments_of(data)
    return b"".join(
        part for marker, part in parts if not (0xE0 <= marker <= 0xEF or marker == 0xFE)
    )


def exif(order=">", thumbnail=b"", further=None, maker=0):
    """EXIF with an IFD0, an Exif IFD with a maker note, and an IFD1 with a thumbnail.

    Args:
        order: "<" or ">".
        thumbnail: a JPEG file.
        further: the offset that IFD1 gives instead of the thumbnail inside.
        maker: a number in the maker note.
    """

    def directory(start, entries, following):
        body = struct.pack(f"{order}H", len(entries))
        at, values = start + 2 + 12 * len(entries) + 4, b""
        for tag, kind, count, value in entries:
            body += struct.pack(f"{order}HHI", tag, kind, count)
            if isinstance(value, bytes):
                if len(value) <= 4:
                    body += value.ljust(4, b"\0")
                else:
                    body += struct.pack(f"{order}I", at + len(values))
                    values += value + b"\0" * (len(value) % 2)
            elif kind == 3:
                body += struct.pack(f"{order}HH", value, 0)
            else:
                body += struct.pack(f"{order}I", value)
        return body + struct.pack(f"{order}I", following) + values

    def build(exif_at, second_at):
        inner = [
            (0x9000, 7, 4, b"0232"),
            (0x9003, 2, 20, b"2020:01:02 03:04:05\0"),
            (0x927C, 7, 40, b"SomeMaker\0\1\2" + struct.pack(f"{order}7I", maker, *[7] * 6)),
            (0x9286, 7, 16, b"ASCII\0\0\0a remark"),
        ]
        first = [
            (0x10F, 2, 8, b"Example\0"),
            (0x112, 3, 1, 1),
            (0x11A, 5, 1, struct.pack(f"{order}II", 300, 1)),
            (0x11B, 5, 1, struct.pack(f"{order}II", 300, 1)),
            (0x128, 3, 1, 2),
            (0x8769, 4, 1, exif_at),
        ]
        size = len(thumbnail)
        second = [(0x103, 3, 1, 6), (0x201, 4, 1, 0), (0x202, 4, 1, size)]
        one = directory(8, first, second_at if thumbnail or further else 0)
        two = directory(exif_at, inner, 0)
        at = second_at + 2 + 12 * len(second) + 4
        second[1] = (0x201, 4, 1, at if further is None else further)
        three = directory(second_at, second, 0) if thumbnail or further else b""
        return one, two, three

    one, two, _ = build(0, 0)
    exif_at = 8 + len(one)
    second_at = exif_at + len(two)
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8)
    one, two, three = build(exif_at, second_at)
    inside = thumbnail if further is None else b""
    return segment(0xE1, b"Exif\0\0" + head + one + two + three + inside)


def icc(parts=3):
    """A colour profile in several segments."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    step = -(-len(profile) // parts)
    return b"".join(
        segment(
            0xE2,
            b"ICC_PROFILE\0" + bytes([i + 1, parts]) + profile[i * step : (i + 1) * step],
        )
        for i in range(parts)
    )


def photoshop():
    """Photoshop's resources: IPTC, and the quality of Photoshop's save."""
    iptc = b"".join(
        b"\x1c\x02" + bytes([number]) + struct.pack(">H", len(text)) + text
        for number, text in ((5, b"Title"), (80, b"Somebody"), (116, b"(c) Example"))
    )

    def resource(number, data):
        return b"8BIM" + struct.pack(">HHI", number, 0, len(data)) + data + b"\0" * (len(data) % 2)

    resources = resource(0x404, iptc) + resource(0x425, hashlib.md5(iptc).digest())
    resources += resource(0x406, struct.pack(">hhh", 5, 0, 1))
    return segment(0xED, b"Photoshop 3.0\0" + resources)


def packet(attributes="", inside="", padding=100):
    """An XMP packet."""
    return _PACKET.format(attributes=attributes, inside=inside, padding=" " * padding).encode()


def xmp(*arguments, **options):
    """A segment with an XMP packet."""
    return segment(0xE1, XMP + packet(*arguments, **options))


def extended_xmp():
    """A main packet that names an extension, and the extension in three parts."""
    body = packet(
        'xmlns:d="http://example.org/d/" d:Note="old"', f"<d:Data>{'x' * 90_000}</d:Data>"
    )
    guid = hashlib.md5(body).hexdigest().upper()
    named = f'xmlns:n="http://ns.adobe.com/xmp/note/" n:HasExtendedXMP="{guid}"'
    parts = [
        segment(
            0xE1,
            EXTENSION + guid.encode() + struct.pack(">II", len(body), at) + body[at : at + 40_000],
        )
        for at in range(0, len(body), 40_000)
    ]
    return xmp(named) + b"".join(parts)


def mpf(order, entries):
    """An MPF segment; entries are (attributes, size, offset)."""
    start = 8 + 2 + 3 * 12 + 4
    body = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8)
    body += struct.pack(f"{order}H", 3)
    body += struct.pack(f"{order}HHI", 0xB000, 7, 4) + b"0100"
    body += struct.pack(f"{order}HHII", 0xB001, 4, 1, len(entries))
    body += struct.pack(f"{order}HHII", 0xB002, 7, 16 * len(entries), start)
    body += struct.pack(f"{order}I", 0)
    body += b"".join(struct.pack(f"{order}IIIHH", *entry, 0, 0) for entry in entries)
    return segment(0xE2, b"MPF\0" + body)


def multi_picture(order, *others, before=b"", kind=0x020002, between=b"", base=None):
    """A file with further pictures and their index.

    Args:
        order: of the index, "<" or ">".
        others: JPEG files.
        before: segments before the index.
        kind: MP type of the further pictures.
        between: bytes before each further picture.
        base: a file that gets them; by default a plain one.
    """
    base = base or plain()
    primary = len(base) + len(before) + len(mpf(order, [(0, 0, 0)] * (1 + len(others))))
    mark = 20 + len(before) + 8
    entries, trailer = [(0x20030000, primary, 0)], b""
    for other in others:
        trailer += between
        entries.append((kind, len(other), primary + len(trailer) - mark))
        trailer += other
    return insert(base, before, mpf(order, entries)) + trailer


def container(items, further="", camera=""):
    """Attributes and content of XMP with a container directory; items are attributes."""
    listed = "".join(
        f'<rdf:li rdf:parseType="Resource"><Container:Item {item}/></rdf:li>' for item in items
    )
    return (
        f'xmlns:Container="{_GOOGLE}container/" xmlns:Item="{_GOOGLE}container/item/" {camera}',
        f"<Container:Directory><rdf:Seq>{listed}</rdf:Seq></Container:Directory>{further}",
    )


def item(semantic, mime="image/jpeg", **more):
    """The attributes of an item of a container directory."""
    more = {"Semantic": semantic, "Mime": mime} | more
    return " ".join(f'Item:{name}="{value}"' for name, value in more.items())


def gain_map():
    """A gain map that names itself."""
    described = 'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'
    return insert(plain(SMALL[..., 0]), xmp(described + ' hdrgm:GainMapMax="2"'))


def video():
    """The boxes of a video."""
    boxes = b"\0\0\0\x14ftypmp42\0\0\0\0mp42" + struct.pack(">I4s", 1000, b"mdat") + bytes(992)
    return boxes + b"\0\0\0\x08free"


def samsung():
    """Samsung's trailer: one block of data, its directory, and the directory's size."""
    name, value = b"Image_UTC_Data", b"1600000000000"
    block = struct.pack("<HHI", 0, 0x0A01, len(name)) + name + value
    directory = struct.pack("<4sIIHHII", b"SEFH", 101, 1, 0, 0x0A01, len(block), len(block))
    return block + directory + struct.pack("<I4s", len(directory), b"SEFT")


def afcp(start):
    """An AFCP trailer of one text, for the position where it starts in the file."""
    text = b"caption"
    entry = b"TEXT" + struct.pack(">II", len(text), start + 24)
    return (
        b"AXS!\1\0"
        + struct.pack(">HI", 1, 0)
        + entry
        + text
        + struct.pack(">4sII", b"AXS!", start, 0)
    )


def credentials():
    """Content Credentials: a JUMBF box of the C2PA's type, in APP11."""
    kind = b"c2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9b\x71\x03c2pa\0"
    described = struct.pack(">I4s", 8 + len(kind), b"jumd") + kind
    box = struct.pack(">I4s", 8 + len(described) + 16, b"jumb") + described
    box += struct.pack(">I4s", 16, b"free") + bytes(8)
    return segment(0xEB, b"JP\0\x01" + struct.pack(">I", 1) + box)


def self_measuring(build):
    """A file whose XMP gives the picture's length; `build` makes the file from that number."""
    size = 0
    for _ in range(5):
        size = build(size).index(b"\xff\xd9") + 2
    return build(size)


# ---------------------------------------------------------------------------------------------
# Files


def _ultra_hdr_mpf():
    described = 'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'
    items = [item("Primary"), item("GainMap", Length=len(gain_map()))]
    attributes, inside = container(items)
    before = exif("<", plain(SMALL)) + xmp(attributes + described, inside)
    return multi_picture(">", gain_map(), before=before, kind=0)


def _ultra_hdr_container():
    described = 'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'

    def build(size):
        items = [item("Primary", Length=size), item("GainMap", Length=len(gain_map()))]
        attributes, inside = container(items)
        return insert(plain(), xmp(attributes + described, inside))

    return self_measuring(build) + gain_map()


def _micro_video():
    camera = (
        f'xmlns:GCamera="{_GOOGLE}camera/" GCamera:MicroVideo="1" GCamera:MicroVideoVersion="1"'
    )
    return insert(plain(), xmp(f'{camera} GCamera:MicroVideoOffset="{len(video())}"')) + video()


def _motion_photo():
    camera = f'xmlns:GCamera="{_GOOGLE}camera/" GCamera:MotionPhoto="1"'
    items = [
        item("Primary", Length=0, Padding=0),
        item("GainMap", Length=len(gain_map())),
        item("MotionPhoto", "video/mp4", Length=len(video()), Padding=0),
    ]
    attributes, inside = container(items, camera=camera + ' GCamera:MotionPhotoVersion="1"')
    return insert(plain(), xmp(attributes, inside)) + gain_map() + video()


def _late_segments():
    data = plain()
    return insert(data, segment(0xFE, b"late"), exif(), xmp(), at=len(data) - 2)


def _stray():
    data = plain()
    return insert(data, b"junk", b"\xff\xff\xff" + exif()[1:], b"\0\0", segment(0xFE, b"said"))


def _inks():
    inks = Image.fromarray(np.dstack([PIXELS, 255 - PIXELS[..., 0]]), "CMYK")
    buffer = io.BytesIO()
    inks.save(buffer, "JPEG", quality=30)
    return buffer.getvalue()


@functools.cache
def files():
    """Returns files by name, more than twenty."""
    thumbnail = plain(SMALL)
    rgb = plain(keep_rgb=True)
    comments = [segment(0xFE, text) for text in (b"first", "zweite \xfc".encode("latin-1"), b"")]
    fpxr = segment(0xE2, b"FPXR\0\0\1\0\1" + bytes(7) + "/name\0".encode("utf-16-le"))
    fpxr += segment(0xE2, b"FPXR\0\0\2" + bytes(6) + b"stream")
    ducky = segment(0xEC, b"Ducky\0\1\0\4\0\0\0\x32\0\2\0\x0e\0\0\0\5\0s\0a\0i\0d\0\0\0\0")
    preview, behind = plain(PIXELS[::2, ::2]), _behind(exif("<", thumbnail, 1))
    whole = insert(plain(), exif(">", thumbnail), icc(), photoshop(), xmp(), *comments)
    return {
        "exif": insert(plain(), exif(">", thumbnail)),
        "exif-little": without_markers(plain())[:2]
        + exif("<", thumbnail)
        + without_markers(plain())[2:],
        "preview-behind": insert(plain(), exif("<", thumbnail, behind)) + preview,
        "maker-preview": insert(plain(), exif(maker=_behind(exif()))) + preview,
        "icc": insert(plain(), icc(5)),
        "iptc": insert(plain(), photoshop()),
        "xmp": insert(plain(), xmp('xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"')),
        "extended-xmp": insert(plain(), extended_xmp()),
        "comments": insert(plain(), *comments),
        "mpf-big": multi_picture(">", plain(PIXELS[::-1])),
        "mpf-little": multi_picture("<", plain(PIXELS[::-1]), plain(SMALL), between=bytes(24)),
        "ultra-hdr-mpf": _ultra_hdr_mpf(),
        "ultra-hdr-container": _ultra_hdr_container(),
        "micro-video": _micro_video(),
        "motion-photo": _motion_photo(),
        "samsung": insert(plain(), exif()) + samsung(),
        "afcp": plain() + afcp(len(plain())),
        "credentials": insert(plain(), exif(), credentials()),
        "flashpix": insert(plain(), fpxr),
        "ducky": insert(plain(), ducky),
        "adobe-rgb": rgb,
        "gray": insert(plain(PIXELS[..., 0]), exif("<", thumbnail)),
        "cmyk": insert(_inks(), exif(), icc(), at=2),
        "no-jfif": without_markers(plain()),
        "late": _late_segments(),
        "stray": _stray(),
        "whole": whole + samsung(),
        "progressive": insert(plain(progressive=True), exif(">", thumbnail)),
        "unknown": insert(
            plain(), *(segment(0xE0 + n, b"data of %d" % n) for n in (3, 4, 5, 7, 8, 9, 10, 15))
        )
        + b"and more",
    }


def _behind(segment_of_exif):
    """The offset from EXIF's byte-order mark to what comes after the picture."""
    return len(plain()) + len(segment_of_exif) - (20 + 4 + 6)


def picture_for(data):
    """Another picture of the same size, colour space and sampling, as libjpeg writes it."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        mode, layers = image.mode, [tuple(layer[:3]) for layer in image.layer]
        options = {"quality": 85, "progressive": b"\xff\xc2" not in data[:600]}
        if mode == "RGB" and layers[0][0] == ord("R"):
            options["keep_rgb"] = True
        elif mode == "RGB":
            options["subsampling"] = "4:4:4" if layers[0][1:] == (1, 1) else "4:2:0"
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", **options)
    return buffer.getvalue()
