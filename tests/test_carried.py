"""What a JPEG file carries besides its picture: kept, or said to be dropped."""

import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
from xml.etree import ElementTree

import jpeg_cases
import numpy as np
import pytest
from jpeg_cases import segment
from PIL import ExifTags, Image, ImageCms, ImageOps

from dmcnn_jax.cli.restore import main
from dmcnn_jax.images import formats
from dmcnn_jax.jpeg import read
from dmcnn_jax.jpeg.metadata import Metadata

TYPES = [(".png", 8), (".png", 16), (".tif", 8), (".tif", 16), (".jpg", 8), (".webp", 8)]

XMP = b"http://ns.adobe.com/xap/1.0/\0"
EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{rdf}">
<rdf:Description rdf:about="" {attributes}>{inside}</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""
ULTRA_HDR = PACKET.format(
    rdf=RDF,
    attributes='xmlns:C="http://ns.google.com/photos/1.0/container/" hdrgm:Version="1.0"'
    ' xmlns:Item="http://ns.google.com/photos/1.0/container/item/" xmp:Rating="5"'
    ' xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"',
    inside='<C:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><C:Item Item:Semantic="Primary"'
    ' Item:Mime="image/jpeg"/></rdf:li><rdf:li rdf:parseType="Resource"><C:Item'
    ' Item:Semantic="GainMap" Item:Mime="image/jpeg" Item:Length="1"/></rdf:li></rdf:Seq>'
    "</C:Directory>",
).encode()
MOTION_PHOTO = PACKET.format(
    rdf=RDF,
    attributes='xmlns:G="http://ns.google.com/photos/1.0/camera/" G:MotionPhoto="1"'
    ' G:MotionPhotoVersion="1" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"',
    inside="<G:MicroVideoOffset>2000</G:MicroVideoOffset>",
).encode()
RATING = "{http://ns.adobe.com/xap/1.0/}Rating"

PICTURE = np.add.outer(np.arange(24) * 5, np.arange(40) * 3)[..., None].astype(np.uint8) + np.array(
    [0, 20, 60], np.uint8
)


def jpeg_file(*segments, trailer=b"", **options):
    data = jpeg_cases.pillow(PICTURE, quality=80, **options)
    return data[:20] + b"".join(segments) + data[20:] + trailer


def written(tmp_path, data, extension, bits=8, **options):
    """Writes a picture with a file's metadata: its path, and what is said to be dropped."""
    file = read(data)
    path = tmp_path / f"result{extension}"
    pixels = PICTURE if bits == 8 else PICTURE * np.uint16(257)
    style = formats.output_format(extension, bits=bits, **options)
    return path, formats.write(path, pixels, file.metadata, style)


def xmp_of(path):
    """The XMP packet of a file, as Pillow finds it."""
    with Image.open(path) as image:
        image.load()
        packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
        packet = packet or (image.tag_v2.get(700) if image.format == "TIFF" else None)
    return packet.encode() if isinstance(packet, str) else packet


# ---------------------------------------------------------------------------------------------
# Gain maps, videos, further pictures


def gain_map():
    inner = jpeg_cases.pillow(PICTURE[::4, ::4], "L")
    packet = PACKET.format(
        rdf=RDF,
        attributes='xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:GainMapMax="2"',
        inside="",
    ).encode()
    return inner[:2] + segment(0xE1, XMP + packet) + inner[2:]


def video():
    boxes = b"\0\0\0\x14ftypmp42\0\0\0\0mp42" + struct.pack(">I4s", 1000, b"mdat") + bytes(992)
    return boxes + b"\0\0\0\x08free"


def further_picture():
    return jpeg_cases.pillow(PICTURE, exif=b"Exif\0\0MM\0*\0\0\0\x08" + bytes(6))


@pytest.mark.parametrize(
    ("trailer", "expected"),
    [
        (gain_map(), [("gain map", len(gain_map()), 1)]),
        (video(), [("video", len(video()), 1)]),
        (bytes(40) + further_picture() + bytes(7), [("picture", len(further_picture()), 1)]),
        (2 * further_picture(), [("picture", 2 * len(further_picture()), 2)]),
        (
            gain_map() + video() + b"SEFT of some phone",
            [("gain map", len(gain_map()), 1), ("video", len(video()), 1), ("other data", 18, 1)],
        ),
        (gain_map()[:-50], [("gain map", len(gain_map()) - 50, 1)]),
        (b"MotionPhoto_Data" + video(), [("other data", 16, 1), ("video", len(video()), 1)]),
        (bytes(5000), []),
        (b"\xff" * 30 + b"\n", []),
        (bytes(9) + struct.pack(">I", 32) + b"ftyp" + bytes(24), [("video", 32, 1)]),
    ],
    ids=[
        "map",
        "video",
        "padded",
        "two",
        "all",
        "cut",
        "samsung",
        "zeros",
        "filler",
        "padded video",
    ],
)
def test_what_follows_the_picture_is_recognised(trailer, expected):
    file = read(jpeg_file(trailer=trailer))
    assert not file.notes
    assert [(a.kind, a.size, a.count) for a in file.metadata.attachments] == expected


def test_a_gain_map_that_does_not_name_itself_is_the_one_that_xmp_promises():
    inner = jpeg_cases.pillow(PICTURE[::4, ::4], "L")
    (found,) = read(jpeg_file(segment(0xE1, XMP + ULTRA_HDR), trailer=inner)).metadata.attachments
    assert str(found) == f"gain map ({len(inner)} bytes)"


def test_the_pictures_of_pillows_mpo_files_are_counted():
    buffer = io.BytesIO()
    others = [Image.fromarray(PICTURE[::-1]), Image.fromarray(PICTURE[:, ::-1])]
    Image.fromarray(PICTURE).save(buffer, "MPO", save_all=True, append_images=others)
    (found,) = read(buffer.getvalue()).metadata.attachments
    assert (found.kind, found.count) == ("picture", 2)


def test_application_data_are_named():
    file = read(
        jpeg_file(
            segment(0xE4, b"of a phone"), segment(0xEB, b"JP\0\1c2pa"), segment(0xEC, b"Ducky")
        )
    )
    assert [str(a) for a in file.metadata.attachments] == [
        "APP4 data (10 bytes)",
        "Content Credentials or other JUMBF data (8 bytes)",
    ]


def test_of_a_huge_trailer_only_the_beginning_is_read(tmp_path):
    path = tmp_path / "x.jpg"
    content = jpeg_file()
    path.write_bytes(content)
    os.truncate(path, 3 * 2**30)  # zeros that take no space on the disk
    tracemalloc.start()
    (found,) = read(path).metadata.attachments
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found.kind, found.size) == ("other data", 3 * 2**30 - len(content))
    assert peak < 200 * 2**20
    with open(path, "r+b") as file:
        file.seek(len(content))
        file.write(struct.pack(">I4s", 2**31, b"ftyp"))
    (found,) = read(path).metadata.attachments
    assert (found.kind, found.size) == ("video", 3 * 2**30 - len(content))


def test_large_files_are_read_as_far_as_their_image(tmp_path, monkeypatch):
    monkeypatch.setattr("dmcnn_jax.jpeg.reader._WHOLE", 50)
    monkeypatch.setattr("dmcnn_jax.jpeg.reader._TRAILER", 30)
    content = jpeg_file(segment(0xE4, b"a phone's"))
    for trailer in (b"", video(), video() + further_picture()):
        file = read(io.BytesIO(content + trailer))
        expected = read(content)
        for found, component in zip(file.components, expected.components, strict=True):
            np.testing.assert_array_equal(found.coefficients, component.coefficients)
        assert sum(a.size for a in file.metadata.attachments) == 9 + len(trailer)


def test_hostile_trailers_take_time_and_memory_in_proportion():
    for piece in (b"\xff\xd8\xff", b"\0\0\0\x08ftyp", b"x\xff", b"\xff\xd8\xff\xe0\0\2"):
        assert len(read(jpeg_file(trailer=piece * 300_000)).metadata.attachments) <= 4


@pytest.mark.parametrize(("extension", "bits"), TYPES)
@pytest.mark.parametrize("packet", [ULTRA_HDR, MOTION_PHOTO], ids=["gain map", "motion photo"])
def test_promises_go_with_what_they_promise(tmp_path, packet, extension, bits):
    data = jpeg_file(segment(0xE1, XMP + packet), trailer=gain_map() + video())
    path, dropped = written(tmp_path, data, extension, bits)
    assert dropped == (f"gain map ({len(gain_map())} bytes)", f"video ({len(video())} bytes)")
    found = xmp_of(path)
    for promise in (b"GainMap", b"Directory", b"Version", b"Motion", b"Micro"):
        assert promise not in found
    (description,) = ElementTree.fromstring(found).iter(f"{{{RDF}}}Description")
    assert description.get(RATING) == "5"
    assert b"ftyp" not in path.read_bytes()
    assert b"<?xpacket begin" in found and b"<?xml" not in found


def test_other_xmp_is_kept_to_the_byte(tmp_path):
    packet = PACKET.format(rdf=RDF, attributes="xmlns:a='b' a:c='&quot;d'", inside="").encode()
    for extension in (".png", ".tif", ".jpg", ".webp"):
        path, dropped = written(tmp_path, jpeg_file(segment(0xE1, XMP + packet)), extension)
        assert dropped == () and xmp_of(path) == packet


@pytest.mark.parametrize(
    "packet",
    [
        ULTRA_HDR[:-60],
        b"<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]>" + ULTRA_HDR.partition(b"?>")[2],
        b"<a>" * 9000 + b"MotionPhoto" + b"</a>" * 9000,
    ],
    ids=["cut", "entities", "deep"],
)
def test_promises_that_can_not_be_removed_safely_go_with_all_xmp(tmp_path, packet):
    path, dropped = written(tmp_path, jpeg_file(segment(0xE1, XMP + packet)), ".png")
    assert [each.partition(" (")[0] for each in dropped] == ["XMP"]
    assert xmp_of(path) is None


# ---------------------------------------------------------------------------------------------
# Extended XMP


def extended(note, limit=40_000):
    """Segments of a main packet and of an extension in parts, in an odd order."""
    body = PACKET.format(
        rdf=RDF,
        attributes=f'xmlns:d="http://example.org/d/" d:Note="{note}"',
        inside=f"<d:Data>{'x' * 90_000}</d:Data>",
    ).encode()
    guid = hashlib.md5(body).hexdigest().upper().encode()
    main_packet = PACKET.format(
        rdf=RDF,
        attributes='xmlns:n="http://ns.adobe.com/xmp/note/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        f' n:HasExtendedXMP="{guid.decode()}" xmp:Rating="5"',
        inside="",
    ).encode()
    parts = [
        segment(0xE1, EXTENSION + guid + struct.pack(">II", len(body), at) + body[at : at + limit])
        for at in range(0, len(body), limit)
    ]
    return segment(0xE1, XMP + main_packet), parts[::-1]


@pytest.mark.parametrize(
    ("where", "lost"), [("main packet", ["extended XMP", "XMP"]), ("extension", ["extended XMP"])]
)
def test_deeply_nested_xmp_with_an_extension_costs_only_itself(tmp_path, where, lost):
    deep = "<a>" * 900 + "</a>" * 900 if where == "extension" else ""
    body = PACKET.format(rdf=RDF, attributes="", inside=deep).encode()
    guid = hashlib.md5(body).hexdigest().upper().encode()
    note = f'xmlns:n="http://ns.adobe.com/xmp/note/" n:HasExtendedXMP="{guid.decode()}"'
    deep = "<a>" * 900 + "</a>" * 900 if where == "main packet" else ""
    packet = PACKET.format(rdf=RDF, attributes=note, inside=deep).encode()
    part = EXTENSION + guid + struct.pack(">II", len(body), 0) + body
    data = jpeg_file(segment(0xE1, XMP + packet), segment(0xE1, part))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(500)
    try:
        path, dropped = written(tmp_path, data, ".png")
    finally:
        sys.setrecursionlimit(limit)
    assert [each.partition(" (")[0] for each in dropped] == lost
    assert (xmp_of(path) is None) == ("XMP" in lost)


@pytest.mark.parametrize(("extension", "bits"), TYPES[:4] + TYPES[5:])
def test_extended_xmp_is_joined(tmp_path, extension, bits):
    main_packet, parts = extended("of old")
    path, dropped = written(tmp_path, jpeg_file(main_packet, *parts), extension, bits)
    assert dropped == ()
    root = ElementTree.fromstring(xmp_of(path))
    first, second = root.iter(f"{{{RDF}}}Description")
    assert first.get(RATING) == "5" and second.get("{http://example.org/d/}Note") == "of old"
    assert second.findtext("{http://example.org/d/}Data") == "x" * 90_000
    assert b"HasExtendedXMP" not in xmp_of(path)


def test_extended_xmp_is_kept_in_jpeg_as_it_came(tmp_path):
    main_packet, parts = extended("of old")
    path, dropped = written(tmp_path, jpeg_file(main_packet, *parts), ".jpg")
    assert dropped == ()
    found = [part for marker, part in jpeg_cases.segments_of(path.read_bytes()) if marker == 0xE1]
    assert found == [main_packet, *parts]


def test_extended_xmp_that_promises_something_is_dropped_from_jpeg_and_said(tmp_path):
    main_packet, parts = extended(
        '" xmlns:G="http://ns.google.com/photos/1.0/camera/" G:MotionPhoto="1'
    )
    path, dropped = written(tmp_path, jpeg_file(main_packet, *parts), ".jpg")
    assert dropped == ("extended XMP (it describes other things that are dropped)",)
    assert b"HasExtendedXMP" not in xmp_of(path) and b"Rating" in xmp_of(path)
    path, dropped = written(tmp_path, jpeg_file(main_packet, *parts), ".png")
    assert dropped == ()
    assert b"Motion" not in xmp_of(path) and b"x" * 90_000 in xmp_of(path)


def test_a_resolution_outside_exif_is_dropped_from_webp_and_said(tmp_path):
    _, dropped = written(tmp_path, jpeg_file(dpi=(300, 300)), ".webp")
    assert dropped == ("resolution (WebP can't hold it)",)


@pytest.mark.parametrize("extension", [".png", ".tif", ".webp"])
def test_extended_xmp_without_a_part_is_dropped_and_said(tmp_path, extension):
    main_packet, parts = extended("of old")
    path, dropped = written(tmp_path, jpeg_file(main_packet, *parts[1:]), extension)
    assert dropped == ("extended XMP (parts of it are missing)",)
    assert b"HasExtendedXMP" not in xmp_of(path) and b"Rating" in xmp_of(path)
    _, dropped = written(tmp_path, jpeg_file(*parts), extension)
    assert dropped == ("extended XMP (there is no main packet)",)


# ---------------------------------------------------------------------------------------------
# IPTC, EXIF


def resources():
    """Photoshop's image resources: a caption and a copyright among others (IIM, 1:0 records)."""
    records = b"".join(
        b"\x1c\x02" + bytes([number]) + struct.pack(">H", len(text)) + text
        for number, text in ((116, b"(c) Example"), (120, b"A caption"))
    )
    blocks = ((0x03ED, bytes(16)), (0x0404, records), (0x040B, b"url"))
    return records, b"".join(
        b"8BIM" + struct.pack(">H", number) + b"\x03odd" + struct.pack(">I", len(data)) + data
        + b"\0" * (len(data) % 2)
        for number, data in blocks
    )  # fmt: skip


@pytest.mark.parametrize(("extension", "bits"), TYPES)
def test_iptc_data_are_kept(tmp_path, extension, bits):
    records, block = resources()
    data = jpeg_file(segment(0xED, b"Photoshop 3.0\0" + block))
    path, dropped = written(tmp_path, data, extension, bits)
    if extension == ".webp":
        assert dropped == ("IPTC data (WebP can't hold them)",)
        return
    assert dropped == ()
    with Image.open(path) as image:
        image.load()
        if extension == ".jpg":
            assert image.info["photoshop"][0x0404] == records
        elif extension == ".tif":
            assert image.tag_v2[33723] == records and image.tag_v2[34377] == block
        else:
            kind, length, *lines = image.text["Raw profile type iptc"].split()
            assert (kind, int(length)) == ("iptc", len(block))
            assert bytes.fromhex("".join(lines)) == block


def test_iptc_data_beyond_64_kb_are_kept_in_jpeg(tmp_path):
    block = b"8BIM\x04\x04\0\0" + struct.pack(">I", 100_000) + b"\x1c" * 100_000
    halves = [segment(0xED, b"Photoshop 3.0\0" + block[at : at + 60_000]) for at in (0, 60_000)]
    path, dropped = written(tmp_path, jpeg_file(*halves), ".jpg")
    assert dropped == () and read(path).metadata.photoshop == block


def photoshop_resource(number, data):
    return b"8BIM" + struct.pack(">HHI", number, 0, len(data)) + data + b"\0" * (len(data) % 2)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("captions", "lost"),
    [
        (b"\x1c\x02\x78\0\x07caption", ["Photoshop resources"]),
        (None, ["Photoshop resources"]),
        (600_000 * b"\x1c", ["Photoshop resources", "IPTC data"]),
    ],
    ids=["captions", "no captions", "large captions"],
)
def test_png_files_with_large_photoshop_resources_can_be_opened(tmp_path, captions, lost, bits):
    block = photoshop_resource(0x03ED, bytes(600_000))
    if captions:
        block += photoshop_resource(0x0404, captions)
    path, style = tmp_path / "a.png", formats.output_format(".png")
    pixels = PICTURE if bits == 8 else PICTURE * np.uint16(257)
    assert formats.write(path, pixels, Metadata(photoshop=block), style) == tuple(
        f"{each} (too large for PNG)" for each in lost
    )
    with Image.open(path) as image:
        text = image.text.get("Raw profile type iptc")
    if captions is None or "IPTC data" in lost:
        assert text is None
    else:
        kept = bytes.fromhex("".join(text.split()[2:]))
        assert kept == photoshop_resource(0x0404, captions)


def gray_and_rgb_profiles():
    rgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return rgb[:16] + b"GRAY" + rgb[20:], rgb


@pytest.mark.parametrize("bits", [8, 16])
def test_png_files_have_only_profiles_of_their_own_colours(tmp_path, bits):
    """As PNG demands (ISO/IEC 15948, 11.3.3.3)."""
    path, style = tmp_path / "a.png", formats.output_format(".png")
    gray, rgb = gray_and_rgb_profiles()
    pixels = PICTURE if bits == 8 else PICTURE * np.uint16(257)
    for picture, profile, dropped in (
        (pixels, rgb, ()),
        (pixels[..., 0], gray, ()),
        (pixels, gray, ("colour profile (of GRAY, for a colour picture)",)),
        (pixels[..., 0], rgb, ("colour profile (of RGB, for a gray picture)",)),
    ):
        assert formats.write(path, picture, Metadata(icc=profile), style) == dropped
        with Image.open(path) as image:
            assert image.info.get("icc_profile") == (None if dropped else profile)


def texts(tiff):
    """The bytes of each text in the directories of a TIFF structure, by tag."""
    order, found = {b"II": "<", b"MM": ">"}[tiff[:2]], {}

    def walk(start):
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length, value = struct.unpack_from(f"{order}HHII", tiff, at)
            if tag in (0x8769, 0x8825, 0xA005):
                walk(value)
            if kind == 2:
                first = value if length > 4 else at + 8
                found[tag] = tiff[first : first + length]

    walk(struct.unpack_from(f"{order}I", tiff, 4)[0])
    return found


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_text_outside_ascii_is_kept_to_the_byte(tmp_path, encoding):
    copyright_, lens, datum, index, remark = (
        text.encode(encoding) for text in ("© Müller", "Größe", "Ünter", "ä", "Maß: groß")
    )
    exif = Image.Exif()
    # Pillow would write the texts as ASCII, so they are put in later.
    exif[0x8298] = "C" * len(copyright_)
    exif.get_ifd(0x8769)[0xA434] = "L" * len(lens)
    exif.get_ifd(0x8769)[0xA005] = {1: "I" * len(index)}
    exif.get_ifd(0x8825)[0x12] = "D" * len(datum)
    data = exif.tobytes()
    for letter, text in zip(b"CLDI", (copyright_, lens, datum, index), strict=True):
        data = data.replace(bytes([letter]) * len(text) + b"\0", text + b"\0")
    expected = {0x8298: copyright_, 0xA434: lens, 0x12: datum, 1: index}
    expected = {tag: text + b"\0" for tag, text in expected.items()}
    assert texts(data[6:]) == expected
    for extension, bits in TYPES:
        path, dropped = written(tmp_path, jpeg_file(exif=data, comment=remark), extension, bits)
        content = path.read_bytes()
        if extension == ".tif":
            assert texts(content) == expected | {0x10E: remark + b"\0"}
        else:
            assert data[6:] in content
        assert dropped == (("comments (WebP can't hold them)",) if extension == ".webp" else ())


@pytest.mark.parametrize("bits", [8, 16])
def test_comments_beside_a_description_are_dropped_from_tiff_and_said(tmp_path, bits):
    exif = Image.Exif()
    exif[0x10E] = "a description"
    path, dropped = written(tmp_path, jpeg_file(exif=exif, comment=b"a comment"), ".tif", bits)
    assert dropped == ("comments (TIFF has one description, which EXIF fills)",)
    assert texts(path.read_bytes())[0x10E] == b"a description\0"
    _, dropped = written(tmp_path, jpeg_file(exif=exif), ".tif", bits)
    assert dropped == ()


def test_comments_with_zeros_are_written_without_them(tmp_path):
    data = jpeg_file(segment(0xFE, b"one\0two\0\0"))
    for extension, bits in TYPES[:5]:
        path, dropped = written(tmp_path, data, extension, bits)
        assert dropped == ()
        if extension == ".jpg":
            assert read(path).metadata.comments == (b"one\0two\0\0",)
        elif extension == ".tif":
            assert texts(path.read_bytes())[0x10E] == b"one\ntwo\0"
        else:
            with Image.open(path) as image:
                assert image.text["Comment"] == "one\ntwo"


def test_comments_of_zeros_only_are_none(tmp_path):
    data = jpeg_file(segment(0xFE, b"\0\0"))
    path, dropped = written(tmp_path, data, ".tif", 8)
    assert dropped == () and 0x10E not in texts(path.read_bytes())
    path, dropped = written(tmp_path, data, ".png", 8)
    with Image.open(path) as image:
        assert dropped == () and "Comment" not in image.text


@pytest.mark.parametrize(("extension", "bits"), TYPES)
def test_the_mark_of_adobe_rgb_is_kept(tmp_path, extension, bits):
    exif = Image.Exif()
    exif[0x10F] = "Camera"
    exif.get_ifd(0x8769)[0xA001] = 0xFFFF
    exif.get_ifd(0x8769)[0xA005] = {1: "R03", 2: b"0100"}
    path, dropped = written(tmp_path, jpeg_file(exif=exif), extension, bits)
    assert dropped == ()
    with Image.open(path) as image:
        found = image.getexif()
        assert found[0x10F] == "Camera" and found.get_ifd(0x8769)[0xA001] == 0xFFFF
        assert found.get_ifd(0xA005) == {1: "R03", 2: b"0100"}


@pytest.mark.parametrize(
    "junk", [b"\xff\xff\xff\xff\0\0\0\x08junk", b"", b"II*\0\xff\xff\0\0\0\0", b"M"]
)
def test_exif_data_that_make_no_sense_are_left_out(tmp_path, junk):
    file = jpeg_file(segment(0xE1, b"Exif\0\0" + junk))
    assert read(file).notes == ("malformed EXIF data are left out",)
    for extension, bits in TYPES:
        path, _ = written(tmp_path, file, extension, bits)
        with Image.open(path) as image:
            assert 0x10F not in image.getexif()
            image.load()
            assert "exif" not in image.info
        assert b"eXIf" not in path.read_bytes()


@pytest.mark.parametrize(("extension", "bits"), TYPES)
def test_exif_data_that_programs_fail_on_are_reduced_to_the_orientation(tmp_path, extension, bits):
    hostile = b"MM\0*\0\0\0\x08" + b"".join(
        (
            struct.pack(">H", 2),
            struct.pack(">HHIf", 0x103, 11, 1, 1.5),  # a fraction where a whole number belongs
            struct.pack(">HHIHH", 0x112, 3, 1, 6, 0),
            bytes(4),
        )
    )
    data = jpeg_file(exif=b"Exif\0\0" + hostile)
    with Image.open(io.BytesIO(data)) as image, pytest.raises(struct.error):
        ImageOps.exif_transpose(image)
    path, dropped = written(tmp_path, data, extension, bits)
    with Image.open(path) as image:
        assert ImageOps.exif_transpose(image).size == PICTURE.shape[:2]
    if extension != ".tif":
        (said,) = dropped
        assert said.startswith("EXIF data but for the orientation (")


def test_an_orientation_that_makes_no_sense_is_not_written_to_tiff(tmp_path, capfd):
    data = struct.pack(">H HHIHH I", 1, 0x112, 3, 1, 77, 0, 0)
    path, _ = written(tmp_path, jpeg_file(exif=b"Exif\0\0MM\0*\0\0\0\x08" + data), ".tif")
    with Image.open(path) as image:
        image.load()
        assert 0x112 not in image.getexif()
    assert capfd.readouterr().err == ""


# ---------------------------------------------------------------------------------------------
# Upright pictures, times


def oriented(orientation, order=">"):
    """A JPEG file whose EXIF and XMP say how to turn it, with sizes and a thumbnail."""
    pack = {"<": b"II*\0", ">": b"MM\0*"}[order]

    def entry(tag, value, kind=3):
        packed = struct.pack(
            f"{order}HH" if kind == 3 else f"{order}I", *([value, 0] if kind == 3 else [value])
        )
        return struct.pack(f"{order}HHI", tag, kind, 1) + packed

    def directory(entries, following):
        return (
            struct.pack(f"{order}H", len(entries))
            + b"".join(entries)
            + struct.pack(f"{order}I", following)
        )

    first = 8 + 2 + 2 * 12 + 4
    second = first + 2 + 2 * 12 + 4
    body = pack + struct.pack(f"{order}I", 8)
    body += directory([entry(0x112, orientation), entry(0x8769, first, 4)], second)
    body += directory([entry(0xA002, 40), entry(0xA003, 24, 4)], 0)
    body += directory([entry(0x103, 6)], 0)
    packet = PACKET.format(
        rdf=RDF,
        attributes=f'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"',
        inside="",
    ).encode()
    return jpeg_file(segment(0xE1, b"Exif\0\0" + body), segment(0xE1, XMP + packet))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_upright_pictures_look_alike_in_every_viewer(tmp_path, orientation, order):
    data = oriented(orientation, order)
    for extension, bits in TYPES:
        path, dropped = written(tmp_path, data, extension, bits, upright=True)
        assert dropped == ("EXIF's thumbnail",)
        found = formats.read(path)
        # As Pillow turns the picture by its EXIF orientation.
        image = Image.fromarray(PICTURE)
        image.getexif()[0x112] = orientation
        expected = np.asarray(ImageOps.exif_transpose(image))
        if extension == ".jpg":
            assert np.abs(found.astype(int) - expected).max() < 30 and found.shape == expected.shape
        else:
            np.testing.assert_array_equal(found if bits == 8 else found // 257, expected)
        with Image.open(path) as image:
            exif = image.getexif()
            assert exif[0x112] == 1
            inner = exif.get_ifd(0x8769)
            assert (inner[0xA003], inner[0xA002]) == expected.shape[:2]
            assert not exif.get_ifd(ExifTags.IFD.IFD1)
        (description,) = ElementTree.fromstring(xmp_of(path)).iter(f"{{{RDF}}}Description")
        assert description.get("{http://ns.adobe.com/tiff/1.0/}Orientation") == "1"


def test_pictures_stay_as_they_lie_unless_asked(tmp_path):
    path, dropped = written(tmp_path, oriented(6), ".png")
    assert dropped == ()
    np.testing.assert_array_equal(formats.read(path), PICTURE)
    with Image.open(path) as image:
        assert image.getexif()[0x112] == 6
        assert image.getexif().get_ifd(ExifTags.IFD.IFD1)
    path, dropped = written(tmp_path, oriented(6), ".tif")
    assert dropped == ("EXIF's thumbnail",)


def test_the_command_turns_keeps_times_and_says_what_it_drops(tmp_path, capsys):
    source, report = tmp_path / "a.jpg", tmp_path / "report.json"
    source.write_bytes(oriented(6) + gain_map())
    os.utime(source, (10**9, 10**9))
    results = [tmp_path / name for name in ("plain.png", "upright.png")]
    common = [str(source), "--strength", "0", "--json", str(report)]
    assert main([*common, "-o", str(results[0])]) == 0
    assert main([*common, "-o", str(results[1]), "--upright", "--preserve-times"]) == 0
    said = capsys.readouterr().err
    assert f"dropped: gain map ({len(gain_map())} bytes))\n" in said
    (record,) = json.loads(report.read_text())["files"]
    assert record["dropped"] == [f"gain map ({len(gain_map())} bytes)", "EXIF's thumbnail"]
    assert results[0].stat().st_mtime > 10**9 + 1 and results[1].stat().st_mtime == 10**9
    plain, turned = map(formats.read, results)
    np.testing.assert_array_equal(turned, np.rot90(plain, -1))
    # Both quantise to the file's coefficients as far as its own decoded pixels do.
    verdicts = []
    for result in results:
        main(["--verify", str(source), str(result), "--json", str(report)])
        verdicts.append(json.loads(report.read_text()))
    assert verdicts[0] == verdicts[1]


def test_exiftool_reads_what_is_kept(tmp_path):
    if shutil.which("exiftool") is None:
        pytest.skip("no exiftool: apt-get install libimage-exiftool-perl")
    exif = Image.Exif()
    exif[0x10F] = "Camera"
    exif.get_ifd(0x8769)[0xA005] = {1: "R03", 2: b"0100"}
    _, block = resources()
    data = jpeg_file(
        segment(0xED, b"Photoshop 3.0\0" + block), segment(0xE1, XMP + ULTRA_HDR), exif=exif
    )
    for extension, bits in TYPES:
        path, _ = written(tmp_path, data, extension, bits)
        command = ["exiftool", "-j", "-n", "-G1", "-a", str(path)]
        (found,) = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        assert found["IFD0:Make"] == "Camera" and found["InteropIFD:InteropIndex"] == "R03"
        assert found["XMP-xmp:Rating"] == 5
        if extension != ".webp":
            assert found["IPTC:CopyrightNotice"] == "(c) Example"
        assert not any("Warning" in key or "hdrgm" in key for key in found)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("kind", "dots", "unit"),
    [(2, b"low\0", 2), (5, struct.pack(">2I", 1, 0), 2), (5, struct.pack(">2I", 72, 1), 65535)],
    ids=["text", "infinite", "unit"],
)
def test_a_resolution_that_makes_no_sense_costs_only_itself(tmp_path, kind, dots, unit, bits):
    end = 8 + 2 + 4 * 12 + 4
    value = struct.pack(">HI", kind, 4 if kind == 2 else 1)
    value += dots if kind == 2 else struct.pack(">I", end)
    body = struct.pack(">2sHIH", b"MM", 42, 8, 4) + struct.pack(">HHI", 0x10F, 2, 4) + b"Cam\0"
    body += struct.pack(">H", 0x11A) + value + struct.pack(">H", 0x11B) + value
    body += struct.pack(">HHIHH", 0x128, 3, 1, unit, 0) + bytes(4) + dots
    path, dropped = written(tmp_path, jpeg_file(segment(0xE1, b"Exif\0\0" + body)), ".tif", bits)
    assert dropped == ()
    with Image.open(path) as image:
        assert image.getexif()[0x10F] == "Cam" and 0x11A not in image.getexif()
