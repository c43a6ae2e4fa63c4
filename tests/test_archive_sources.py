"""What an archive lists: no result leaves its target, replaces an input or shares a file."""

import dataclasses
import os
import tarfile
from pathlib import Path

import pytest
from small_archives import (
    DECODE,
    contents,
    finish,
    jpeg_bytes,
    plan,
    write_jpegs,
    write_tar,
)

from dmcnn_jax.archives import storage
from dmcnn_jax.archives.pictures import fetch
from dmcnn_jax.archives.reports import read_report
from dmcnn_jax.archives.sources import list_source
from dmcnn_jax.archives.verify import verify_archive
from dmcnn_jax.cli.archive import main
from dmcnn_jax.images.input_folders import Skipped

JPEG = dataclasses.replace(DECODE, extension=".jpg")
TRAVERSING = "its name has a part '.' or '..'; rename it"


def write_list(path, lines):
    path.write_text("\n".join(map(str, lines)) + "\n")
    return path


# Names


def test_members_of_tar_files_stay_in_the_target(tmp_path):
    names = ["../../outside.jpg", "a/../../b.jpg", "/etc/c.jpg", "./d.jpg", "e/../f.jpg", "d.jpg"]
    archive = plan(write_tar(tmp_path / "evil.tar", names), tmp_path / "deep/er/out", 9)
    finish(archive)
    assert sorted(contents(tmp_path)) == [
        "deep/er/out/evil/d.png",
        "deep/er/out/evil/etc/c.png",
        "deep/er/out/evil/f.png",
        "evil.tar",
    ]
    errors = [record.error for record in read_report(archive.target, 0)]
    assert errors == [TRAVERSING, TRAVERSING, "", "", "", "named before"]
    assert verify_archive(archive, None).passed


@pytest.mark.parametrize("address", ["{folder}", "memory://{name}"])
@pytest.mark.parametrize("path", ["../victim.jpg", "a/../../victim.jpg", "{folder}/victim.jpg"])
def test_a_store_writes_nothing_outside_itself(tmp_path, address, path):
    store = storage.open_store(address.format(folder=tmp_path / "in", name=f"{tmp_path.name}/in"))
    with pytest.raises(ValueError, match=r"victim\.jpg: expected a name inside the target"):
        store.publish(path.format(folder=tmp_path), b"x")
    assert not contents(tmp_path)


def test_objects_whose_names_lead_out_of_their_folder_are_refused(tmp_path):
    store = storage.open_store(f"memory://{tmp_path.name}-parts")
    for name in ("a.jpg", "../b.jpg", "./a.jpg"):
        store.system.pipe_file(f"{store.root}/d/{name}", jpeg_bytes(40))
    addresses = [f"{store.address}/d/{name}" for name in ("a.jpg", "../b.jpg", "./a.jpg")]
    archive = plan(write_list(tmp_path / "list.txt", addresses), tmp_path / "out")
    finish(archive)
    assert [r.error for r in read_report(archive.target, 0)] == ["", TRAVERSING, TRAVERSING]
    assert list(contents(tmp_path / "out")) == ["a.png"]


@pytest.mark.parametrize("source", ["./in", "in/../in/", "./in/one.tar", "in//one.tar"])
def test_a_source_may_be_named_in_any_way(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    write_tar(write_jpegs(tmp_path / "in", 2) / "one.tar", ["0/p000.jpg", "1/p001.jpg"])
    archive = plan(source, "out")
    finish(archive)
    folder = "out/one" if source.endswith("tar") else "out"
    assert sorted(contents(Path(folder))) == ["0/p000.png", "1/p001.png"]
    assert verify_archive(archive, None).written == 2


def test_a_single_picture_may_be_named_in_any_way(tmp_path, monkeypatch):
    monkeypatch.chdir(write_jpegs(tmp_path / "in", 1))
    finish(plan("./0/../0/p000.jpg", "../out"))
    assert list(contents(tmp_path / "out")) == ["p000.png"]


def test_the_names_of_a_list_are_normalised(tmp_path, monkeypatch):
    source = write_jpegs(tmp_path / "in", 3)
    lines = [f"{source}/0/p000.jpg", f"{source}/0/../1/p001.jpg", f"{source}/0/./p000.jpg"]
    monkeypatch.chdir(source / "2")
    archive = plan(write_list(tmp_path / "list.txt", [*lines, "../2//p002.jpg"]), tmp_path / "out")
    finish(archive)
    assert sorted(contents(tmp_path / "out")) == ["0/p000.png", "1/p001.png", "2/p002.png"]
    assert [r.error for r in read_report(archive.target, 0)] == ["", "", "named before", ""]


def test_files_of_a_list_may_have_only_the_root_in_common(tmp_path):
    source = write_jpegs(tmp_path / "in", 1)
    lines = [source / "0/p000.jpg", "/no-such-folder/x.jpg"]
    archive = plan(write_list(tmp_path / "list.txt", lines), tmp_path / "out")
    assert archive.plan.source == "/"
    assert fetch(archive, archive.rows(0)[0]) == jpeg_bytes(0)
    assert [row.path for row in archive.rows(0)] == [str(lines[0])[1:], lines[1][1:]]


def test_the_extension_of_a_tar_file_may_be_in_capitals(tmp_path):
    archive = plan(write_tar(tmp_path / "A.TAR", ["x.jpg", "sub/y.jpg"]), tmp_path / "out")
    finish(archive)
    assert sorted(contents(tmp_path / "out")) == ["A/sub/y.png", "A/x.png"]
    assert verify_archive(archive, None).written == 2


def test_a_pattern_may_match_folders_of_objects(tmp_path):
    store = storage.open_store(f"memory://{tmp_path.name}-shards")
    for folder in ("dir1", "dir2"):
        store.publish(f"{folder}/x.tar", write_tar(tmp_path / "x.tar", ["m.jpg"]).read_bytes())
    archive = plan(f"{store.address}/dir*/x.tar", tmp_path / "out")
    finish(archive)
    assert sorted(contents(tmp_path / "out")) == ["dir1/x/m.png", "dir2/x/m.png"]


# Inputs in the target


@pytest.mark.parametrize("target", ["in", "in/0", "link"])
def test_results_never_take_the_names_of_listed_files(tmp_path, target):
    source = write_jpegs(tmp_path / "in", 2)
    (tmp_path / "link").symlink_to(source)
    names = write_list(tmp_path / "list.txt", [source / "0/p000.jpg", source / "1/p001.jpg"])
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"0/p000\.jpg lies in the target, where a result"):
        plan(names, tmp_path / target, options=JPEG, overwrite=True)
    assert contents(tmp_path) == before and not (tmp_path / target / "_archive").exists()
    # PNG files take no JPEG file's name.
    finish(plan(names, tmp_path / target, overwrite=True))
    assert before.items() < contents(tmp_path).items()


def test_results_never_take_the_names_of_a_file_or_of_files_in_a_folder(tmp_path):
    source = write_jpegs(tmp_path / "in", 1)
    for named, target in ((source / "0/p000.jpg", source / "0"), (source, tmp_path)):
        with pytest.raises(ValueError, match="lies in the target"):
            plan(named, target, options=JPEG, overwrite=True)
    assert contents(source) == {"0/p000.jpg": jpeg_bytes(0)}


def test_objects_are_not_replaced_by_results(tmp_path):
    store = storage.open_store(f"memory://{tmp_path.name}-inputs")
    store.publish("d/x.jpg", jpeg_bytes(0))
    names = write_list(tmp_path / "list.txt", [f"{store.address}/d/x.jpg"])
    with pytest.raises(ValueError, match="lies in the target"):
        plan(names, f"{store.address}/d", options=JPEG, overwrite=True)


def test_results_of_a_tar_file_may_lie_beside_it(tmp_path):
    write_tar(tmp_path / "x.tar", ["m.jpg"])
    finish(plan(tmp_path / "x.tar", tmp_path, options=JPEG, overwrite=True))
    assert sorted(contents(tmp_path)) == ["x.tar", "x/m.jpg"]


def test_the_working_directory_may_be_planned_to_a_remote_target(tmp_path, monkeypatch):
    monkeypatch.chdir(write_jpegs(tmp_path / "in", 2))
    finish(plan(".", f"memory://{tmp_path.name}-results"))


# Damaged tar files


def test_a_damaged_tar_file_is_not_listed_as_far_as_it_is_whole(tmp_path):
    whole = write_tar(tmp_path / "whole.tar", ["a.jpg", "b.jpg", "c.jpg"])
    with tarfile.open(whole) as tar:
        headers = [member.offset for member in tar]
    data = whole.read_bytes()
    damaged = bytearray(data)
    damaged[headers[1] + 150] ^= 1  # in its checksum
    cases = {
        "damaged": (bytes(damaged), f"damaged at byte {headers[1]}"),
        "cut in a header": (data[: headers[2] + 100], f"damaged at byte {headers[2]}"),
        "cut in a member": (data[: headers[2] - 300], "unexpected end of data"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\.tar: .*{message}"):
            list(list_source(str(path), Skipped()))
    # Its end may be padded to any length, or missing.
    for end in (data, data[: headers[2] + 512 + 1024], data + bytes(10_000)):
        whole.write_bytes(end)
        assert len(list(list_source(str(whole), Skipped()))) == 3


# The command


def test_planning_offers_no_options_that_it_would_ignore(tmp_path, capsys):
    for option in (["--suffix", "_clean"], ["--decoded"]):
        with pytest.raises(SystemExit) as ended:
            main(["plan", str(tmp_path), str(tmp_path / "out"), *option])
        assert ended.value.code == 2
        assert f"unrecognized arguments: {' '.join(option)}" in capsys.readouterr().err
    assert not os.listdir(tmp_path)
