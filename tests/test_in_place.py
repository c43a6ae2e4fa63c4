"""`--in-place` and `--undo`: there is always the old file, or the new one and the original."""

import errno
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import carried_files
import numpy as np
import pytest
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.cli import in_place, originals
from dmcnn_jax.cli.restore import main
from dmcnn_jax.jpeg.carrying import replace_picture
from dmcnn_jax.jpeg.certificate import make_segment
from dmcnn_jax.jpeg.coefficient_writer import write_coefficients
from dmcnn_jax.jpeg.markers import parse
from dmcnn_jax.jpeg.recoverable import replace_recoverably
from dmcnn_jax.restoration.restorer import Restorer
from dmcnn_jax.restoration.results import JpegRestoration, Planes
from dmcnn_jax.system import atomic_write

SKIPPED_NOTE = "pixel art; left as decoded"


def picture(level=128):
    """A gray JPEG file with a comment, different for each level."""
    ramp = np.add.outer(np.arange(16), np.arange(24)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(ramp + np.uint8(level)).save(file, "JPEG", quality=20, comment=b"mine")
    return file.getvalue()


A, B, ART = picture(10), picture(120), picture(200)


@functools.cache
def restored(data, recoverable=False):
    """The same picture, with a certificate and perhaps its original; None if it can't hold that."""
    file = jpeg.read(data)
    picture = write_coefficients(file.components, file.height, file.width, progressive=True)
    plain = parse(picture, "picture", 10**6).plain
    segment = make_segment(["test"], [file.components[0].table], plain, data)
    replace = replace_recoverably if recoverable else replace_picture
    carried = replace(data, picture, added=[segment])
    return carried and carried.data


@pytest.fixture(autouse=True)
def restorer(request, monkeypatch):
    """A restorer without networks, which restores all but ART."""
    if "slow" in request.keywords:
        return
    restore_planes, render_jpeg = Restorer.restore_planes, Restorer.render_jpeg

    def restore(self, file, progress=None):
        if file.certificate is not None:
            return restore_planes(self, file, progress)
        model = None if file.data == ART else "test"
        return Planes(file, (model,), (), (), () if model else (SKIPPED_NOTE,))

    def render(self, planes, *options):
        if planes.models == (None,):
            return render_jpeg(self, planes, *options)
        recoverable = restored(planes.file.data, True) if options[0].recoverable else None
        return JpegRestoration(
            data=recoverable or restored(planes.file.data),
            models=planes.models,
            quality=20,
            recoverable=bool(recoverable),
        )

    monkeypatch.setattr(Restorer, "restore_planes", restore)
    monkeypatch.setattr(Restorer, "render_jpeg", render)


def write(path, data=A):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def tree(folder):
    """Files below a folder and what they hold: "A", "B", "art", "A+" for A restored, or bytes."""
    names = {A: "A", B: "B", ART: "art"}

    def describe(data):
        file = jpeg.read(data) if data.startswith(b"\xff\xd8") and data not in names else None
        if file is None or file.certificate is None:
            return names.get(data, data)
        return "".join(name + "+" for each, name in names.items() if file.certificate.is_of(each))

    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): describe(path.read_bytes()) for path in found}


def identity(path):
    """What tells whether a file, or a link, was replaced or written."""
    state = path.lstat()
    return state.st_ino, state.st_mode, state.st_size, state.st_mtime_ns, state.st_nlink


def run(*arguments):
    return main(["--in-place", *map(str, arguments)])


def undo(*arguments):
    return main(["--undo", *map(str, arguments)])


def only_line(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    return line


def failing(name, number, only=lambda *paths: True):
    """A function of `os` that fails on the calls that `only` says."""
    function = getattr(os, name)

    def fail(*arguments, **options):
        if only(*map(str, arguments)):
            raise OSError(number, os.strerror(number), *map(str, arguments[:1]))
        return function(*arguments, **options)

    return fail


# What is replaced


def test_a_folder_is_replaced_and_its_originals_kept_beside(tmp_path, capsys):
    write(tmp_path / "a.jpg"), write(tmp_path / "b/B.JPEG", B), write(tmp_path / "art.jpg", ART)
    write(tmp_path / "note.txt", b"text")
    assert run(tmp_path, "--json", "-") == 0
    expected = {"a.jpg": "A+", "a.jpg_original": "A", "art.jpg": "art", "note.txt": b"text"}
    expected |= {"b/B.JPEG": "B+", "b/B.JPEG_original": "B"}
    assert tree(tmp_path) == expected
    said = capsys.readouterr()
    assert f"art.jpg: skipped: {SKIPPED_NOTE}\n" in said.err and "2 restored, 1 skipped" in said.err
    first, second, _ = json.loads(said.out)["files"]
    assert first["output"] == first["input"] and first["status"] == "restored"
    assert first["original"] == f"{tmp_path / 'a.jpg'}_original" and "original" not in second
    # The very bytes of the original: its first name, before.
    assert (tmp_path / "a.jpg_original").read_bytes() == A


def test_a_second_run_does_nothing(tmp_path, capsys):
    write(tmp_path / "a.jpg"), write(tmp_path / "art.jpg", ART)
    assert run(tmp_path) == 0
    before = {path: identity(path) for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert run(tmp_path) == run(*tmp_path.iterdir()) == 0
    assert {path: identity(path) for path in tmp_path.iterdir()} == before
    said = capsys.readouterr().err
    assert "a.jpg: skipped: dmcnn_jax restored it before; left as it is\n" in said
    assert "a.jpg_original: skipped: an original kept by --in-place\n" in said


def test_the_restored_file_has_the_originals_mode_and_attributes(tmp_path):
    path = write(tmp_path / "a.jpg")
    path.chmod(0o640)
    os.utime(path, ns=(10**18, 10**18))
    attributes = hasattr(os, "setxattr")
    if attributes:
        try:
            os.setxattr(path, "user.rating", b"5")
        except OSError:
            attributes = False  # the file system has none
    assert run(path, "--preserve-times") == 0
    assert tree(tmp_path)["a.jpg"] == "A+"
    assert path.stat().st_mode & 0o777 == 0o640 and path.stat().st_mtime_ns == 10**18
    if attributes:
        assert os.getxattr(path, "user.rating") == b"5"
    assert undo(path) == run(path) == 0
    assert path.stat().st_mtime_ns > 10**18


def test_a_private_file_is_never_open_to_others(tmp_path, monkeypatch):
    path, modes = write(tmp_path / "a.jpg"), []
    path.chmod(0o600)
    chmod, replace = os.chmod, os.replace

    def record(path, mode, **options):
        modes.append(mode & 0o777)
        chmod(path, mode, **options)

    def replace_private(old, new):
        modes.append(os.stat(old).st_mode & 0o777)
        replace(old, new)

    monkeypatch.setattr(atomic_write.os, "chmod", record)
    monkeypatch.setattr(atomic_write.os, "replace", replace_private)
    assert run(path) == 0 and tree(tmp_path)["a.jpg"] == "A+"
    assert modes == [0o600, 0o600]


def test_a_link_stays_and_its_file_is_replaced_once(tmp_path, capsys):
    write(tmp_path / "disk/a.jpg")
    (tmp_path / "in").mkdir()
    for name in ("one.jpg", "two.jpg"):
        (tmp_path / "in" / name).symlink_to("../disk/a.jpg")
    assert run(tmp_path / "in", tmp_path / "disk") == 0
    assert tree(tmp_path / "disk") == {"a.jpg": "A+", "a.jpg_original": "A"}
    assert all(path.is_symlink() for path in (tmp_path / "in").iterdir())
    said = capsys.readouterr().err
    assert said.count(f"skipped: it was named before, as {tmp_path / 'in/one.jpg'}\n") == 2
    assert undo(tmp_path / "in/two.jpg") == 0
    assert tree(tmp_path / "disk") == {"a.jpg": "A"} and (tmp_path / "in/two.jpg").is_symlink()


@pytest.mark.parametrize("links", [True, False])
def test_a_folder_of_originals_mirrors_the_one_around_it(tmp_path, monkeypatch, links):
    """With hard links, and on another disk. However files are named, originals are found."""
    if not links:
        monkeypatch.setattr(originals.os, "link", failing("link", errno.EXDEV))
        away = failing("replace", errno.EXDEV, lambda old, _: not old.endswith(".partial"))
        monkeypatch.setattr(originals.os, "replace", away)
    write(tmp_path / "in/may/a.jpg"), write(tmp_path / "in/june/a.jpg", B)
    kept = ["--originals", tmp_path / "in/kept"]
    monkeypatch.chdir(tmp_path / "in")
    assert run("may", *kept) == run(".", *kept) == 0
    expected = {"may/a.jpg": "A+", "june/a.jpg": "B+"}
    assert tree(Path()) == expected | {"kept/may/a.jpg": "A", "kept/june/a.jpg": "B"}
    assert undo("june/a.jpg", *kept) == 0
    assert undo(tmp_path, *kept) == 0
    assert tree(Path()) == {"may/a.jpg": "A", "june/a.jpg": "B"}


def test_files_from_elsewhere_have_their_full_path_in_a_folder_of_originals(tmp_path):
    path = write(tmp_path / "disk/a.jpg")
    assert run(path, "--originals", tmp_path / "other/kept") == 0
    assert (tmp_path / "other/kept/kept" / str(path.resolve()).lstrip("/")).read_bytes() == A
    assert tree(tmp_path / "disk") == {"a.jpg": "A+"}


def test_a_file_and_its_backup_have_originals_of_their_own(tmp_path):
    path = write(tmp_path.resolve() / "a.jpg")
    copy = write(path.parent / "backup" / str(path).lstrip("/"))
    kept = ["--originals", tmp_path / "backup/kept"]
    assert run(path, *kept) == run(copy, *kept) == 0
    originals = list((tmp_path / "backup/kept").rglob("*.jpg"))
    assert [each.read_bytes() for each in originals] == [A, A]
    assert undo(path, copy, *kept) == 0
    assert path.read_bytes() == copy.read_bytes() == A


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_what_follows_a_picture_is_kept_even_in_large_files(tmp_path, where):
    """For other results, only 16 MiB of it are read."""
    path, size = write(tmp_path / "a.jpg"), 40_000_000
    os.truncate(path, size)  # zeros that take no space on the disk
    data = path.read_bytes()
    assert run(path, "--originals", where) == 0
    assert path.read_bytes()[-size + len(A) :] == bytes(size - len(A))
    assert jpeg.read(path).certificate.is_of(data)
    assert undo(path, "--originals", where) == 0
    assert path.read_bytes() == data


def test_a_folder_of_originals_that_is_named_is_left_out(tmp_path, capsys):
    write(tmp_path / "a.jpg"), write(tmp_path / "kept/b.jpg", B)
    assert run(tmp_path / "a.jpg", tmp_path / "kept", "--originals", tmp_path / "kept") == 0
    assert tree(tmp_path) == {"a.jpg": "A+", "kept/a.jpg": "A", "kept/b.jpg": "B"}
    assert "kept is left out, since originals are kept there" in capsys.readouterr().err


# Interruptions, full disks and protected files


KILLED = """
import os, signal, sys
from pathlib import Path
from dmcnn_jax.cli.originals import replace_keeping_original

path, moment, step = Path(sys.argv[1]), *sys.argv[2:]
function = getattr(os, step)

def kill(*arguments, **options):
    if moment == "after":
        function(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(os, step, kill)
original = path.with_name(path.name + "_original")
replace_keeping_original(path, original, path.read_bytes(), b"restored")
"""


@pytest.mark.parametrize(
    ("moment", "step", "left"),
    [
        ("before", "fsync", {"a.jpg": "A"}),
        ("before", "link", {"a.jpg": "A"}),
        ("after", "link", {"a.jpg": "A", "a.jpg_original": "A"}),
        ("before", "replace", {"a.jpg": "A", "a.jpg_original": "A"}),
        ("after", "replace", {"a.jpg": b"restored", "a.jpg_original": "A"}),
    ],
)
def test_a_killed_run_leaves_the_old_file_or_both_and_the_next_goes_on(
    tmp_path, moment, step, left
):
    path = write(tmp_path / "a.jpg")
    command = [sys.executable, "-c", KILLED, path, moment, step]  # without JAX
    checkout = str(Path(__file__).parents[1])
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": checkout})
    assert killed.returncode == -signal.SIGKILL
    for unfinished in tmp_path.glob(".dmcnn-*.partial"):
        unfinished.unlink()
    assert tree(tmp_path) == left
    if left["a.jpg"] == "A":
        assert run(tmp_path) == 0
        assert tree(tmp_path) == {"a.jpg": "A+", "a.jpg_original": "A"}


@pytest.mark.parametrize("leftover", ["link", "copy", "begun"])
def test_what_an_interrupted_run_left_is_accepted_and_undone(tmp_path, leftover):
    path, kept = write(tmp_path / "a.jpg"), tmp_path / "a.jpg_original"
    os.link(path, kept) if leftover == "link" else kept.write_bytes(A * (leftover == "copy"))
    if leftover != "begun":
        assert undo(path) == 0 and tree(tmp_path) == {"a.jpg": "A"}
        kept.write_bytes(A)
    assert run(path) == 0
    assert tree(tmp_path) == {"a.jpg": "A+", "a.jpg_original": "A"}


@pytest.mark.parametrize("what", ["another", "link to the file", "link to nothing", "folder"])
def test_another_original_is_never_replaced(tmp_path, capsys, what):
    path, kept = write(tmp_path / "a.jpg"), tmp_path / "a.jpg_original"
    if what == "another":
        kept.write_bytes(B)
    elif what == "folder":
        kept.mkdir()
    else:  # such a link would lead to the restored file
        kept.symlink_to("a.jpg" if what == "link to the file" else "nothing")
    before = identity(kept)
    assert run(path) == 1
    assert f"a.jpg: {kept} exists and is not this file's original; move" in only_line(capsys)
    assert path.read_bytes() == A and identity(kept) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_is_changed_meanwhile_stays(tmp_path, monkeypatch, capsys):
    path, keep = write(tmp_path / "a.jpg"), originals.keep_original

    def keep_late(*arguments):
        made = keep(*arguments)
        write(tmp_path / "new", B).replace(path)
        return made

    monkeypatch.setattr(originals, "keep_original", keep_late)
    assert run(path) == 1
    assert "the file was changed while it was being restored" in only_line(capsys)
    assert tree(tmp_path)["a.jpg"] == "B"
    with pytest.raises(ValueError, match="changed"):
        originals.replace_keeping_original(path, tmp_path / "x", A, b"new")
    assert tree(tmp_path)["a.jpg"] == "B" and not (tmp_path / "x").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_what_fails_costs_a_line_and_nothing_else(tmp_path, monkeypatch, capsys, number, step):
    path = write(tmp_path / "a.jpg")
    monkeypatch.setattr(atomic_write.os, step, failing(step, number))
    assert run(path) == 1
    line = only_line(capsys)
    assert line.startswith(f"dmcnn-restore: {path}: ") and os.strerror(number) in line
    assert ".partial" not in line and tree(tmp_path) == {"a.jpg": "A"}


def test_a_disk_that_is_full_of_originals_loses_nothing(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "in/a.jpg")
    fsync, synced = os.fsync, []

    def full(handle):
        synced.append(handle)
        if len(synced) > 1:  # the restored file was written, its original's copy was not
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(originals.os, "link", failing("link", errno.EXDEV))
    monkeypatch.setattr(atomic_write.os, "fsync", full)
    assert run(path, "--originals", tmp_path / "kept") == 1
    assert "No space left on device" in only_line(capsys)
    assert tree(tmp_path) == {"in/a.jpg": "A"}


def test_protected_files_are_a_line_each(tmp_path, monkeypatch, capsys):
    path, other = write(tmp_path / "a.jpg"), write(tmp_path / "locked/b.jpg", B)
    path.chmod(0o444)
    access = os.access

    def refuse(path, mode):
        # The tests may run as root, who may write everything.
        return not (str(path).endswith("locked") and mode & os.W_OK) and access(path, mode)

    monkeypatch.setattr(in_place.os, "access", refuse)
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
    assert run(path, other, tmp_path / "pipe.jpg", tmp_path / "none.jpg") == 1
    said = capsys.readouterr().err
    assert "a.jpg: read-only; make it writable" in said
    assert "b.jpg: its folder is read-only" in said
    assert "pipe.jpg: not a regular file\n" in said and "none.jpg: No such file" in said
    assert tree(tmp_path) == {"a.jpg": "A", "locked/b.jpg": "B"}


def test_a_file_in_the_place_of_a_folder_of_originals_is_a_failure(tmp_path, capsys):
    path, blocked = write(tmp_path / "may/a.jpg"), write(tmp_path / "kept/may", b"mine")
    assert run(path, "--originals", tmp_path / "kept") == 1
    assert only_line(capsys).endswith(f"{blocked}: a file; expected a folder")
    assert tree(tmp_path) == {"may/a.jpg": "A", "kept/may": b"mine"}


def test_names_that_are_impossible_cost_only_themselves(tmp_path, capsys):
    path, name = write(tmp_path / "a.jpg"), "i" * 300
    inputs = tmp_path / f"{name}.jpg", tmp_path / f"{name}.jpg_original", path
    assert run(*inputs) == 1
    assert tree(tmp_path) == {"a.jpg": "A+", "a.jpg_original": "A"}
    assert undo(*inputs) == 1
    assert tree(tmp_path) == {"a.jpg": "A"}
    assert capsys.readouterr().err.count("File name too long\n") == 2


# Undoing


@pytest.mark.parametrize("where", ["beside", "kept", "../kept", "../elsewhere/kept"])
def test_originals_of_missing_files_are_named(tmp_path, monkeypatch, capsys, where):
    folder = tmp_path.resolve() / "in"
    for name, data in {"a.jpg": A, "sub/gone.jpg": A, "sub/moved.jpg": B}.items():
        write(folder / name, data)
    monkeypatch.chdir(folder)
    kept = ["--originals", where]
    assert run(".", *kept) == 0
    write(folder.parent / "others.jpg"), run("../others.jpg", *kept)
    for name in ("sub/gone.jpg", "sub/moved.jpg"):
        (folder / name).unlink()
    capsys.readouterr()
    assert undo(".", "sub/gone.jpg", *kept) == 1
    first, second, third, last = capsys.readouterr().err.splitlines()
    assert "a.jpg: put back from" in first and "1 put back, 1 skipped, 1 failed" in last
    assert "sub/gone.jpg: it is missing; its original is" in second
    assert "sub/moved.jpg: skipped: it is missing; its original is " in third
    original = third.removesuffix(": rename it to put it back").split(" is ")[-1]
    assert Path(original).read_bytes() == B
    (folder / "a.jpg").unlink()
    for around in (folder, folder.parent):
        assert undo(around, *kept) == 0 and capsys.readouterr().err.count("it is missing") == 2


@pytest.mark.slow
def test_a_picture_restored_by_networks_is_undone(tmp_path):
    """Colour, and segments whose offsets change: what is rebuilt has to be the very file."""
    names = sorted(carried_files.files())
    for name in names:
        write(tmp_path / f"{name}.jpg", carried_files.files()[name])
    assert run(tmp_path, "--size", "fast", "--no-trial") == 0
    kept = sorted(path.stem for path in tmp_path.glob("*_original"))
    assert kept == names
    assert undo(tmp_path) == 0 and not list(tmp_path.glob("*_original"))
    for name in names:
        assert (tmp_path / f"{name}.jpg").read_bytes() == carried_files.files()[name]


def test_undo_puts_everything_back(tmp_path, capsys):
    write(tmp_path / "a.jpg"), write(tmp_path / "b/b.jpg", B), write(tmp_path / "art.jpg", ART)
    write(tmp_path / "bad.jpg", b"no JPEG")
    before = tree(tmp_path), (tmp_path / "a.jpg").stat().st_mtime_ns
    assert run(tmp_path) == 1
    capsys.readouterr()
    assert undo(tmp_path, "--json", "-") == 0
    assert (tree(tmp_path), (tmp_path / "a.jpg").stat().st_mtime_ns) == before
    said = capsys.readouterr()
    assert "2 put back, 2 skipped" in said.err and "a.jpg_original\n" in said.err
    summary = json.loads(said.out)["summary"]
    assert summary.pop("seconds") >= 0
    assert summary == {"undone": 2, "skipped": 2, "failed": 0}
    assert undo(tmp_path) == 0 and (tree(tmp_path), before[1]) == before


def edit_picture(path):
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_180).save(path, "JPEG")


def edit_comment(path):
    path.write_bytes(path.read_bytes().replace(b"mine", b"ours"))


def exchange_original(path):
    path.with_name(path.name + "_original").write_bytes(B)


def lose_original(path):
    path.with_name(path.name + "_original").unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit_picture, "its picture was changed since, or never restored; to lose"),
        (edit_comment, "its metadata were changed since it was restored; to lose"),
        (exchange_original, "is not the file that it was restored from"),
        (lose_original, "no original to put back: "),
    ],
)
def test_undo_is_refused_if_something_would_be_lost(tmp_path, capsys, change, words):
    path = write(tmp_path / "a.jpg")
    assert run(path, "-q") == 0
    change(path)
    before = tree(tmp_path)
    assert undo(path) == 1
    assert words in only_line(capsys) and tree(tmp_path) == before


# Originals inside


INSIDE = ("--originals", "inside")


def test_an_original_inside_takes_no_second_file_and_comes_back(tmp_path, capsys):
    write(tmp_path / "a.jpg"), write(tmp_path / "b/B.jpg", B)
    (tmp_path / "a.jpg").chmod(0o640)
    assert run(tmp_path, *INSIDE, "--json", "-") == 0
    assert tree(tmp_path) == {"a.jpg": "A+", "b/B.jpg": "B+"}
    records = json.loads(capsys.readouterr().out)["files"]
    assert [record["original"] for record in records] == ["inside"] * 2
    assert run(tmp_path, *INSIDE) == 0 and "2 skipped" in capsys.readouterr().err
    assert undo(tmp_path, *INSIDE) == 0 and "a.jpg: put back from inside" in capsys.readouterr().err
    assert tree(tmp_path) == {"a.jpg": "A", "b/B.jpg": "B"}
    assert (tmp_path / "a.jpg").stat().st_mode & 0o777 == 0o640
    assert undo(tmp_path, *INSIDE) == 0 and "2 skipped" in capsys.readouterr().err


def test_an_original_that_can_not_be_inside_is_kept_beside(tmp_path, capsys):
    with Image.open(io.BytesIO(A)) as image:
        file = io.BytesIO()
        image.save(file, "JPEG", progressive=True)
    write(tmp_path / "a.jpg", file.getvalue())
    assert run(tmp_path, *INSIDE) == 0
    assert (tmp_path / "a.jpg_original").read_bytes() == file.getvalue()
    assert undo(tmp_path, *INSIDE) == 0
    assert tree(tmp_path) == {"a.jpg": file.getvalue()}


@pytest.mark.parametrize("change", ["comment", "recipe"])
def test_an_original_inside_a_changed_file_stays_inside(tmp_path, capsys, change):
    path = write(tmp_path / "a.jpg")
    assert run(path, *INSIDE) == 0
    data = path.read_bytes()
    if change == "comment":
        data = data.replace(b"mine", b"ours")
    else:
        at = data.index(b"dmcnn_jax original") + 30
        data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    path.write_bytes(data)
    capsys.readouterr()
    assert undo(path, *INSIDE) == 1
    assert "changed" in only_line(capsys) and path.read_bytes() == data


def test_exiftool_puts_an_original_back(tmp_path):
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    path = write(tmp_path / "a.jpg")
    assert run(path) == 0
    subprocess.run(["exiftool", "-q", "-restore_original", path], check=True)
    assert tree(tmp_path) == {"a.jpg": "A"}


def test_an_original_on_a_full_disk_is_put_back_or_stays(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "a.jpg")
    assert run(path, "-q") == 0
    monkeypatch.setattr(originals.os, "replace", failing("replace", errno.ENOSPC))
    assert undo(path) == 1
    assert "No space left" in only_line(capsys)
    assert tree(tmp_path) == {"a.jpg": "A+", "a.jpg_original": "A"}


# Usage


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "x.jpg"],
        ["--format", "png"],
        ["--quality", "90"],
        ["--upright"],
        ["--bits", "16"],
        ["--overwrite"],
        ["--suffix", "_clean"],
        ["--serve"],
        ["-"],
        ["--originals", ""],
        ["--originals", __file__],
    ],
)
@pytest.mark.parametrize("mode", ["--in-place", "--undo"])
def test_options_that_do_not_fit_are_usage_errors(tmp_path, capsys, mode, arguments):
    path = write(tmp_path / "a.jpg")
    try:
        status = main([mode, str(path), *arguments])
    except SystemExit as stop:
        status = stop.code
    assert status == 2 and tree(tmp_path) == {"a.jpg": "A"}
    assert arguments[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("arguments", [["--originals", "x"], ["--in-place", "--undo"]])
def test_modes_and_places_go_together(tmp_path, capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        main([str(write(tmp_path / "a.jpg")), *arguments])
    assert "--" in capsys.readouterr().err.splitlines()[-1]


def test_a_report_never_replaces_an_original(tmp_path, capsys):
    path = write(tmp_path / "a.jpg")
    assert run(path, "--json", tmp_path / "a.jpg_original") == 2
    assert "would overwrite a picture" in only_line(capsys)
