"""A JPEG file with another picture: everything else is kept, and offsets point where they did."""

import io
import itertools
import re
import struct
from xml.etree import ElementTree

import carried_files
import jpeg_cases
import numpy as np
import pytest
from carried_files import (
    container,
    files,
    insert,
    item,
    mpf,
    multi_picture,
    picture_for,
    plain,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from jpeg_cases import adobe, segment, segments_of
from PIL import Image, MpoImagePlugin

from dmcnn_jax.jpeg import JpegError, read
from dmcnn_jax.jpeg.carrying import replace_picture
from dmcnn_jax.jpeg.coefficient_writer import write_coefficients

NAMES = sorted(files())
ITEM = "{http://ns.google.com/photos/1.0/container/item/}"

# Bytes that may change in the segments of these files: 4 for each size and offset, digits in XMP.
CHANGED = {
    "mpf-big": 8,
    "mpf-little": 12,
    "ultra-hdr-mpf": 8,
    "ultra-hdr-container": 4,
    "preview-behind": 4,
}


def carried(data):
    return replace_picture(data, picture_for(data))


def applications(data):
    """Segments of application data and comments, with their markers and lengths."""
    return [part for marker, part in segments_of(data) if 0xE0 <= marker <= 0xEF or marker == 0xFE]


def end_of(data):
    """Where the first picture ends."""
    return sum(len(part) for _, part in segments_of(data))


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "stray"])
def test_segments_and_trailer_are_the_originals_to_the_byte(name):
    data = files()[name]
    result = carried(data).data
    assert data[end_of(data) :] == result[end_of(result) :]
    before, after = b"".join(applications(data)), b"".join(applications(result))
    assert len(before) == len(after)
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert len(changed) <= CHANGED.get(name, 0)
    assert bool(changed) == (name in CHANGED)


@pytest.mark.parametrize("name", NAMES)
def test_the_picture_is_the_new_one_in_the_originals_colours(name):
    data = files()[name]
    result = carried(data).data
    np.testing.assert_array_equal(pixels(result), pixels(picture_for(data)))
    found, expected = read(result), read(picture_for(data))
    assert found.damage is None and found.color == read(data).color
    for one, other in zip(found.components, expected.components, strict=True):
        np.testing.assert_array_equal(one.coefficients, other.coefficients)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "late"])
def test_metadata_and_attachments_are_read_as_before(name):
    before, after = (read(each).metadata for each in (files()[name], carried(files()[name]).data))
    if name == "ultra-hdr-container":
        assert before.xmp != after.xmp
        assert before.attachments == after.attachments
    elif name == "preview-behind":
        assert before.exif != after.exif
        assert before.attachments == after.attachments
    else:
        assert before == after


@pytest.mark.parametrize("name", ["gray", "cmyk", "adobe-rgb", "no-jfif", "progressive", "stray"])
def test_the_same_coefficients_in_a_new_file_are_the_same_pixels(name):
    file = read(files()[name])
    picture = write_coefficients(
        file.components, file.height, file.width, progressive=file.progressive
    )
    result = replace_picture(file.data, picture).data
    assert len(result) < len(file.data)
    np.testing.assert_array_equal(pixels(result), pixels(file.data))
    assert read(result).metadata == file.metadata


def test_remarks_say_what_is_not_kept_or_not_true():
    notes = {name: carried(data).notes for name, data in files().items()}
    assert {name: found for name, found in notes.items() if found} == {
        "late": ("3 segments after the first scan moved before it",),
        "stray": ("6 stray bytes between segments left out",),
        "credentials": (
            "Content Credentials kept, but their signature doesn't match the new picture",
        ),
        "maker-preview": ("EXIF seems to give the old position of data behind the picture",),
        "afcp": ("positions in the AFCP trailer are those of the original file",),
    }


# ---------------------------------------------------------------------------------------------
# Odd files


def test_stray_and_fill_bytes_between_segments_are_left_out():
    said = segment(0xFE, b"said")
    result = carried(files()["stray"]).data
    exif = carried_files.exif()
    assert result[20:].startswith(exif + said + b"\xff\xdb")


def test_segments_after_the_scan_come_first_unless_decoders_would_see_other_colours():
    plain_file = carried_files.without_markers(plain())
    at = len(plain_file) - 2
    late = insert(plain_file, segment(0xFE, b"late"), adobe(0), at=at)
    result = carried(late)
    assert result.data.startswith(b"\xff\xd8" + segment(0xFE, b"late") + b"\xff\xdb")
    assert result.data.endswith(adobe(0) + b"\xff\xd9")
    assert result.notes == ("1 segment after the first scan moved before it",)
    np.testing.assert_array_equal(pixels(result.data), pixels(picture_for(late)))


def test_a_file_without_its_end_gets_one():
    data = insert(plain(), segment(0xFE, b"said"))[:-2]
    result = replace_picture(data, picture_for(plain()))
    assert result.data.endswith(b"\xff\xd9") and result.notes == ()
    assert applications(result.data) == applications(data + b"\xff\xd9")


def test_a_picture_that_begins_before_the_end_of_the_first_follows_its_end():
    second = plain(carried_files.SMALL)
    result = replace_picture(plain()[:-2] + second, picture_for(plain()))
    assert result.data.endswith(b"\xff\xd9" + second)


def test_bytes_after_the_image_that_are_no_segment_are_kept_behind_its_end():
    rest = b"\xff\xe5\xff\xffa segment that runs past the end"
    data = plain()[:-2] + rest
    assert [each.kind for each in read(data).metadata.attachments] == ["other data"]
    assert replace_picture(data, picture_for(plain())).data.endswith(b"\xff\xd9" + rest)


def test_bytes_behind_damage_are_left_out_and_counted():
    data = files()["progressive"]
    at = data.rindex(b"\xff\xda")
    broken = data[:at] + b"\xff\x05" + data[at + 2 :]
    result = replace_picture(broken, picture_for(data))
    assert result.notes == (f"{len(data) - at} bytes behind the damage left out",)
    assert applications(result.data) == applications(data)
    assert result.data.endswith(b"\xff\xd9")


@pytest.mark.parametrize("missing", [2, 20, 100])
def test_of_a_file_that_is_cut_off_its_segments_are_kept(missing):
    result = replace_picture(plain()[:-missing], picture_for(plain()))
    assert applications(result.data) == applications(plain())
    assert result.data.endswith(b"\xff\xd9")


def test_segments_of_an_impossible_length_become_empty():
    data = insert(plain(), b"\xff\xe7\0\0", b"\xff\xfe\0\1", segment(0xFE, b"said"))
    result = replace_picture(data, picture_for(plain()))
    assert result.notes == ("2 segments of an impossible length written as empty",)
    assert applications(result.data)[1:] == [
        b"\xff\xe7\0\2",
        b"\xff\xfe\0\2",
        segment(0xFE, b"said"),
    ]


def test_a_height_after_the_image_data_is_written_in_the_header():
    data = bytearray(insert(plain(), segment(0xFE, b"said")))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 7] = bytes(2)
    data = bytes(data[:-2]) + segment(0xDC, struct.pack(">H", 48)) + b"\xff\xd9"
    result = replace_picture(data, picture_for(plain()))
    assert applications(result.data)[1:] == [segment(0xFE, b"said")] and result.notes == ()
    assert pixels(result.data).shape == (48, 64, 3)


def test_further_segments_come_after_the_originals():
    data = files()["mpf-big"]
    result = replace_picture(data, picture_for(data), added=[(0xEB, b"mine"), (0xFE, b"")])
    assert applications(result.data)[2:] == [segment(0xEB, b"mine"), segment(0xFE, b"")]
    with Image.open(io.BytesIO(result.data)) as image:
        image.seek(1)
        np.testing.assert_array_equal(np.asarray(image), pixels(data[end_of(data) :]))


# ---------------------------------------------------------------------------------------------
# What is refused


PROGRESSIVE = plain(progressive=True)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (plain(carried_files.SMALL), "16 x 12 pixels of 3 components; expected 64 x 48 of 3"),
        (plain(carried_files.PIXELS[..., 0]), "of 1 components; expected"),
        (PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xda")] + b"\xff\xd9", "damaged"),
    ],
    ids=["size", "components", "damage"],
)
def test_another_or_a_damaged_picture_is_refused(picture, expected):
    with pytest.raises(ValueError, match=expected):
        replace_picture(plain(), picture)


def test_a_picture_that_would_change_its_colours_is_refused():
    rgb = plain(keep_rgb=True)
    bare = carried_files.without_markers(rgb)
    assert read(bare).color == "rgb"
    assert replace_picture(bare, rgb).data == bare  # its components are numbered R, G, B
    with pytest.raises(ValueError, match="would be read as ycbcr; expected rgb"):
        replace_picture(bare, plain())
    with pytest.raises(ValueError, match="would be read as ycbcr; expected rgb"):
        replace_picture(rgb, rgb, added=[(0xEE, adobe(1)[4:])])


def test_impossible_further_segments_are_refused():
    with pytest.raises(ValueError, match="0xdb; expected 0xe0"):
        replace_picture(plain(), plain(), added=[(0xDB, b"")])
    with pytest.raises(ValueError, match="65534 bytes; expected at most 65533"):
        replace_picture(plain(), plain(), added=[(0xE4, bytes(65_534))])


def test_what_is_no_jpeg_file_is_refused():
    with pytest.raises(JpegError, match="original: not a JPEG file"):
        replace_picture(b"\x89PNG\r\n\x1a\n", plain())


# ---------------------------------------------------------------------------------------------
# Further pictures


@pytest.mark.parametrize("name", ["mpf-big", "mpf-little", "ultra-hdr-mpf"])
def test_pillow_finds_further_pictures(name):
    data = files()[name]
    result = carried(data).data
    assert end_of(result) != end_of(data)
    # Image.open opens Ultra HDR files as files of one picture.
    before, after = (MpoImagePlugin.MpoImageFile(io.BytesIO(each)) for each in (data, result))
    with before, after:
        assert after.n_frames == before.n_frames > 1
        sizes = [entry["Size"] for entry in after.mpinfo[0xB002]]
        assert sizes[0] == end_of(result)
        assert sizes[1:] == [entry["Size"] for entry in before.mpinfo[0xB002]][1:]
        for frame in range(1, after.n_frames):
            before.seek(frame)
            after.seek(frame)
            np.testing.assert_array_equal(np.asarray(after), np.asarray(before))


def test_pillows_own_files_of_several_pictures_stay_readable():
    buffer = io.BytesIO()
    others = [Image.fromarray(carried_files.PIXELS[::-1]), Image.fromarray(carried_files.SMALL)]
    first = Image.fromarray(carried_files.PIXELS)
    first.save(buffer, "MPO", save_all=True, append_images=others, quality=30)
    with Image.open(io.BytesIO(carried(buffer.getvalue()).data)) as image:
        image.seek(2)
        assert image.size == (16, 12) and np.asarray(image).shape == (12, 16, 3)


def test_an_index_that_moves_measures_from_its_new_place():
    before = b"stray bytes" + segment(0xFE, b"said") + b"\xff" * 9
    data = multi_picture("<", plain(carried_files.SMALL), before=before)
    with MpoImagePlugin.MpoImageFile(io.BytesIO(carried(data).data)) as image:
        image.seek(1)
        np.testing.assert_array_equal(np.asarray(image), pixels(plain(carried_files.SMALL)))


def test_padding_that_the_index_counts_is_counted_again():
    data = multi_picture("<", plain(carried_files.SMALL), between=bytes(100))
    size = struct.pack("<I", end_of(data))
    data = data.replace(size, struct.pack("<I", end_of(data) + 100), 1)
    result = carried(data).data
    assert struct.pack("<I", end_of(result) + 100) in result[:300]


def test_entries_that_point_nowhere_are_left_and_said():
    entries = [(0, 7, 0), (0, 5, 10), (0, 0, 0), (0, 5, 2**32 - 1)]
    data = insert(plain(), mpf(">", entries)) + b"trailer"
    result = carried(data)
    assert result.notes == tuple(
        f"entry {number} of the index of further pictures (MPF) points nowhere"
        for number in (1, 2, 4)
    )
    assert applications(result.data) == applications(data)


# An entry list of 32 bytes that begins within the segment and ends outside.
OUTSIDE = struct.pack(">2sHIHHHII", b"MM", 42, 8, 1, 0xB002, 7, 32, 8) + bytes(4)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of the same index
@pytest.mark.parametrize(
    "payload", [b"", b"II*\0", b"MM\0*\0\0\0\x08\0\1", b"MM\0*\xff\xff\xff\xff", OUTSIDE]
)
def test_an_unreadable_index_is_left_and_said(payload):
    data = insert(plain(), segment(0xE2, b"MPF\0" + payload))
    result = carried(data)
    assert result.notes == ("an index of further pictures (MPF) is unreadable and kept unchanged",)
    assert applications(result.data) == applications(data)


def test_exifs_previews_behind_the_picture_are_found_where_they_are():
    data = files()["preview-behind"]
    result = carried(data).data
    mark = result.index(b"Exif\0\0") + 6
    at = result.index(struct.pack("<HHI", 0x201, 4, 1)) + 8
    (offset,) = struct.unpack_from("<I", result, at)
    assert result[mark + offset :] == data[end_of(data) :]


# ---------------------------------------------------------------------------------------------
# The length in XMP


def lengths(data):
    """The length of the primary item, as XMP gives it."""
    (found,) = [part for part in applications(data) if b"Container" in part]
    root = ElementTree.fromstring(found[4 + len(carried_files.XMP) :])
    described = [
        {child.tag: child.text for child in element} | element.attrib for element in root.iter()
    ]
    return [
        int(each[f"{ITEM}Length"])
        for each in described
        if (each.get(f"{ITEM}Semantic") or "").strip() == "Primary"
    ]


ELEMENTS = (
    '<Container:Item rdf:parseType="Resource"><Item:Mime>image/jpeg</Item:Mime>'
    "<Item:Length> {size} </Item:Length><Item:Semantic> Primary </Item:Semantic></Container:Item>"
)


@pytest.mark.parametrize("form", ["attributes", "quotes", "elements"])
def test_the_pictures_length_in_xmp_is_that_of_the_new_picture(form):
    def build(size):
        attributes, inside = container([item("Primary", Length=size), item("Other", Length=size)])
        if form == "quotes":
            inside = inside.replace('"', " ' ").replace("' Resource '", "'Resource'")
            inside = inside.replace("' ", "'").replace(" '", "'").replace("'Item", "' Item")
        if form == "elements":
            inside = ELEMENTS.format(size=size)
        return insert(plain(), carried_files.xmp(attributes, inside))

    data = carried_files.self_measuring(build) + carried_files.gain_map()
    assert lengths(data) == [end_of(data)]
    result = carried(data).data
    assert lengths(result) == [end_of(result)] and end_of(result) != end_of(data)
    found, before = (b"".join(applications(each)) for each in (result, data))
    assert len(found) == len(before)
    # The other item's equal length is its own.
    old = str(end_of(data)).encode()
    assert (before.count(old), found.count(old)) == {"elements": (1, 0)}.get(form, (2, 1))


@pytest.mark.parametrize("padding", [0, 1, 300])
@pytest.mark.parametrize("grows", [True, False])
def test_the_pictures_length_may_have_more_digits_or_fewer(padding, grows):
    def build(size, filler, picture):
        attributes, inside = container([item("Primary", Length=size)] * 2)
        added = [
            segment(0xFE, bytes(filler)),
            carried_files.xmp(attributes, inside, padding=padding),
        ]
        return insert(picture, *added)

    small, large = plain(), plain(quality=95)
    assert len(small) < 1000 < len(large) - len(small)
    for target in (9_999, 10_000):
        # The smaller of the two is just below 10000 bytes, or just there.
        filler = target - len(build(target, 0, small))
        first, second = (small, large) if grows else (large, small)
        data = carried_files.self_measuring(lambda size, a=first, f=filler: build(size, f, a))
        assert lengths(data) == [end_of(data)] * 2
        result = replace_picture(data, second).data
        assert lengths(result) == [end_of(result)] * 2
        assert abs(end_of(result) - target) <= 2 or grows
        if padding > 1:
            # From the end of the SOI to the tables, nothing has moved.
            assert result.index(b"\xff\xdb") == data.index(b"\xff\xdb")


def test_other_lengths_in_xmp_are_left_and_said_if_wrong():
    for value, expected in ((0, ()), (77, ("XMP gave the picture's length as 77 bytes",))):
        attributes, inside = container([item("Primary", Length=value), item("GainMap", Length=5)])
        data = insert(plain(), carried_files.xmp(attributes, inside))
        result = carried(data)
        assert applications(result.data) == applications(data)
        assert tuple(note.partition(",")[0] for note in result.notes) == expected


def test_attributes_whose_names_begin_like_a_length_are_left():
    """There may be thousands of them, and looking for each took time by their square."""
    sizes = {f"Length-{i}": 1 for i in range(3000)}

    def build(size):
        attributes, inside = container([item("Primary", **sizes, **{"Length-old": size})])
        return insert(plain(), carried_files.xmp(attributes, inside))

    data = carried_files.self_measuring(build)
    assert applications(carried(data).data) == applications(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda packet: packet.replace(b"</rdf:RDF>", b""),
        lambda packet: b"<!DOCTYPE x [<!ENTITY a 'a'>]>" + packet.partition(b"?>")[2],
        lambda packet: packet.decode().encode("utf-16"),
        lambda packet: (
            b'<?xml version="1.0" encoding="ISO-8859-1"?>'
            + re.sub(b"Item(?=[:=])", b"It\xe9m", packet.partition(b"?>")[2])
        ),
        lambda packet: packet.replace(b"photos/1.0/container/item", b"photos/another"),
        lambda packet: re.sub(b'Length="(.)', lambda m: b'Length="&#%d;' % m[1][0], packet),
    ],
    ids=["malformed", "entities", "utf-16", "latin-1", "another namespace", "references"],
)
def test_xmp_that_cannot_be_read_safely_is_left(change):
    def build(size):
        attributes, inside = container([item("Primary", Length=size)])
        packet = change(carried_files.packet(attributes, inside))
        return insert(plain(), segment(0xE1, carried_files.XMP + packet))

    data = carried_files.self_measuring(build)
    assert applications(carried(data).data) == applications(data)


# ---------------------------------------------------------------------------------------------
# Anything

PAYLOADS = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda head, rest: head + rest,
        st.sampled_from(
            [b"MPF\0II*\0", b"MPF\0MM\0*\0\0\0\x08", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\0\0\0\x08"]
        ),
        st.binary(max_size=80),
    ),
    st.just(carried_files.XMP + carried_files.packet()),
)
SEGMENTS = st.lists(st.tuples(st.sampled_from([*range(0xE0, 0xF0), 0xFE]), PAYLOADS), max_size=8)


@settings(deadline=None, max_examples=25)
@given(early=SEGMENTS, late=SEGMENTS, added=SEGMENTS, fill=st.integers(0, 3), rest=st.binary())
def test_any_segments_are_kept_in_their_order(early, late, added, fill, rest):
    base = plain()
    written = [[segment(*each) for each in several] for several in (early, late, added)]
    data = insert(base[:-2], *(b"\xff" * fill + each for each in written[0]))
    data += b"".join(written[1]) + b"\xff\xd9" + rest
    result = replace_picture(data, base, added=added).data
    found = applications(result)
    assert found[0] == base[2:20]
    assert result[end_of(result) :] == rest
    for one, other in zip(found[1:], itertools.chain(*written), strict=True):
        # Offsets may be corrected if they happen to point into the trailer.
        assert one == other or (one[4:8] in (b"MPF\0", b"Exif") and len(one) == len(other) and rest)


@pytest.mark.parametrize("seed", range(4))
def test_files_with_something_wrong_are_carried_or_refused(seed):
    rng = np.random.default_rng(seed)
    names = ["whole", "mpf-little", "ultra-hdr-mpf", "ultra-hdr-container", "preview-behind"]
    carried_so_far = 0
    for name in names * 10:
        data = jpeg_cases.mutate(rng, files()[name])
        try:
            result = replace_picture(data, picture_for(files()[name])).data
        except ValueError:
            continue
        assert read(result).damage is None
        carried_so_far += 1
    assert carried_so_far > 5
