"""Folders and batches of `dmcnn-restore`: what is found, what results are called, what is said."""

import concurrent.futures
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from dmcnn_jax.cli import record_spool
from dmcnn_jax.cli.real_paths import RealPaths
from dmcnn_jax.cli.restore import main
from dmcnn_jax.cli.restore_planning import plan
from dmcnn_jax.images import input_folders
from dmcnn_jax.system import atomic_write


def write_jpeg(path, level=128):
    """Writes a small JPEG file of one level of gray."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 16), level, np.uint8)).save(path, "JPEG")
    return path


def tree(folder):
    """The files in a folder and below it."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def decode(*arguments):
    """Runs the command without networks."""
    return main([*map(str, arguments), "--strength", "0"])


def planned(output, *inputs):
    """For each file where its result goes, below the output folder."""
    tasks = plan([str(each) for each in inputs], str(output), ".png").tasks
    return {str(t.source): str(t.target.relative_to(output)) for t in tasks if t.target}


def level(path):
    """The mean level of a picture."""
    return round(np.asarray(Image.open(path)).mean())


# What is found


def test_files_of_macos_metadata_are_skipped_and_counted(tmp_path, capsys):
    write_jpeg(tmp_path / "in/IMG_1.jpg")
    for name in ("._IMG_1.jpg", "sub/._IMG_2.JPG"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(bytes.fromhex("00051607") + bytes(60))
    assert decode(tmp_path / "in", "-o", tmp_path / "out") == 0
    said = capsys.readouterr().err.splitlines()
    assert sum("skipped 2 files named ._*" in line for line in said) == 1
    assert tree(tmp_path / "out") == ["IMG_1.png"] and len(said) == 2


def test_linked_folders_are_followed_once(tmp_path, capsys):
    write_jpeg(tmp_path / "in/z/a.jpg")
    write_jpeg(tmp_path / "disk/b.jpg")
    (tmp_path / "in/again").symlink_to(tmp_path / "in/z")
    (tmp_path / "in/z/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/out-of-it").symlink_to(tmp_path)
    (tmp_path / "in/disk").symlink_to(tmp_path / "disk")
    (tmp_path / "in/disk2").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/back").symlink_to(tmp_path / "in")
    (tmp_path / "in/self").symlink_to("self")
    assert decode(tmp_path / "in", "-o", tmp_path / "out") == 0
    assert tree(tmp_path / "out") == ["disk/b.png", "z/a.png"]
    assert "skipped 5 linked folders" in capsys.readouterr().err


def test_a_linked_folder_may_be_the_input(tmp_path):
    write_jpeg(tmp_path / "in/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    assert planned(tmp_path / "out", tmp_path / "link") == {str(tmp_path / "link/a.jpg"): "a.png"}


def test_unreadable_folders_are_a_line_each_and_count(tmp_path, monkeypatch, capsys):
    write_jpeg(tmp_path / "in/a.jpg")
    write_jpeg(tmp_path / "in/private/b.jpg")
    scandir = os.scandir

    def refuse(path):
        # The tests may run as root, who may read everything.
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(input_folders.os, "scandir", refuse)
    arguments = [tmp_path / "in", "-o", tmp_path / "out", "--json", tmp_path / "report.json"]
    assert decode(*arguments) == 1
    said = capsys.readouterr().err
    assert "in/private: this folder can't be read: Permission denied\n" in said
    assert "1 left as decoded, 1 failed" in said and tree(tmp_path / "out") == ["a.png"]
    failed = json.loads((tmp_path / "report.json").read_text())["files"][1]
    assert failed["status"] == "failed" and failed["output"] is None


def test_names_of_no_files_are_a_line_each(tmp_path, capsys):
    write_jpeg(tmp_path / "in/a.jpg")
    (tmp_path / "in/gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "in/pipe.jpg")  # reading it would wait for ever
    assert decode(tmp_path / "in", "-o", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "gone.jpg: a link to nothing\n" in said and "pipe.jpg: not a regular file\n" in said
    assert "1 left as decoded, 2 failed" in said


def test_pipes_among_named_files_are_refused(tmp_path, capsys):
    os.mkfifo(tmp_path / "b.jpg")
    paths = [write_jpeg(tmp_path / "a.jpg"), tmp_path / "b.jpg", write_jpeg(tmp_path / "c.jpg")]
    assert decode(*paths, "-o", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "b.jpg: not a regular file; name it alone, or pipe it in by -\n" in said
    assert tree(tmp_path / "out") == ["a.png", "c.png"]


def test_a_pipe_that_is_named_alone_is_read(tmp_path):
    content = write_jpeg(tmp_path / "a.jpg").read_bytes()
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[content])
    writer.start()
    assert decode(tmp_path / "pipe", "-o", tmp_path / "b.png") == 0
    writer.join()
    assert Image.open(tmp_path / "b.png").size == (16, 8)


def open_when_read(pipe):
    """Opens a pipe for writing as soon as it is open for reading."""
    for _ in range(1000):
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.01)
    raise AssertionError("nobody reads the pipe")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_run_that_waits_for_a_pipe(tmp_path, capsys, number):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    before = signal.getsignal(number)
    ended, in_time = threading.Event(), []

    def interrupt():
        writer = open_when_read(pipe)
        os.kill(os.getpid(), number)
        in_time.append(ended.wait(5))
        os.close(writer)  # else the command would wait for ever

    thread = threading.Thread(target=interrupt)
    thread.start()
    status = decode(pipe, "-o", tmp_path / "b.png")
    ended.set()
    thread.join()
    assert status == 130 and in_time == [True] and signal.getsignal(number) == before
    assert capsys.readouterr().err.startswith("dmcnn-restore: interrupted; ")


def test_a_file_in_the_place_of_a_folder_is_a_failure(tmp_path, capsys):
    write_jpeg(tmp_path / "in/sub/a.jpg")
    write_jpeg(tmp_path / "in/b.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").write_bytes(b"mine")
    assert decode(tmp_path / "in", "-o", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "out/sub: a file; expected a folder\n" in said
    assert "1 left as decoded, 1 failed" in said and tree(tmp_path / "out") == ["b.png", "sub"]


@pytest.mark.parametrize(
    "arguments",
    [["{}/"], ["{}/none.jpg"], ["{}/a.jpg", "--weights", "{}"], ["-{}"], ["--verify", "{}", "{}"]],
)
def test_names_in_errors_of_the_whole_run_are_escaped_too(tmp_path, capsys, arguments):
    name = tmp_path / "es\x1b[31mcape\u202e\n"
    name.mkdir()
    with contextlib.suppress(SystemExit):
        decode(*(each.format(name) for each in arguments), "-o", tmp_path / "out")
    (last,) = capsys.readouterr().err.splitlines()[-1:]
    assert last.startswith("dmcnn-restore: ") and last.isprintable()
    assert "es\\x1b[31mcape\\u202e" in last


def test_a_name_too_long_costs_only_itself(tmp_path, capsys):
    """251 letters are a name, but not with .png after them; 300 are none."""
    long, good = write_jpeg(tmp_path / f"{'l' * 251}.jpg"), write_jpeg(tmp_path / "a.jpg")
    impossible = tmp_path / f"{'i' * 300}.jpg"
    assert decode(impossible, long, good, "-o", tmp_path / "out", "--format", "webp") == 1
    said = capsys.readouterr().err
    assert said.count("File name too long") == 2 and "1 left as decoded, 2 failed" in said
    assert tree(tmp_path / "out") == ["a.webp"]


def test_a_picture_of_another_size_is_not_decoded_to_verify_it(tmp_path, monkeypatch, capsys):
    """A file of some kilobytes can hold gigabytes of pixels."""
    from dmcnn_jax.images import formats

    path = write_jpeg(tmp_path / "a.jpg")
    for extension in ("png", "tif"):
        Image.new("1", (3000, 5000)).save(tmp_path / f"large.{extension}")
        monkeypatch.setattr(formats, "read", None)
        assert main(["--verify", str(path), f"{tmp_path}/large.{extension}"]) == 1
        assert "3000 x 5000 pixels; expected 16 x 8" in capsys.readouterr().err


# What results are called


def test_files_that_differ_by_extension_get_results_of_their_own(tmp_path, capsys):
    for name, gray in (("IMG.jpg", 40), ("IMG.jpeg", 120), ("IMG.JPG", 200), ("x/b.jpg", 90)):
        write_jpeg(tmp_path / "in" / name, gray)
    arguments = [tmp_path / "in", "-o", tmp_path / "out"]
    assert decode(*arguments) == 0
    assert "the results of 3 files would have the name of another" in capsys.readouterr().err
    # Results whose names differ by case only would be one file on Windows and macOS.
    names = tree(tmp_path / "out")
    assert len(names) == 4 == len({name.lower() for name in names})
    assert "IMG.jpeg-2.png" in names and "x/b.png" in names
    assert sorted(level(tmp_path / "out" / name) for name in names) == [40, 90, 120, 200]
    # A second run finds them.
    assert decode(*arguments) == 0
    assert "4 skipped" in capsys.readouterr().err and tree(tmp_path / "out") == names


def test_two_extensions_are_told_apart_by_them(tmp_path):
    one, other = write_jpeg(tmp_path / "IMG.jpg"), write_jpeg(tmp_path / "IMG.jpeg")
    expected = {str(one): "IMG.jpg.png", str(other): "IMG.jpeg.png"}
    assert planned(tmp_path / "out", tmp_path) == expected
    assert planned(tmp_path / "out", other, one) == expected
    beside = plan([str(one), str(other)], None, ".png").tasks
    assert [t.target.name for t in beside] == ["IMG.jpg-restored.png", "IMG.jpeg-restored.png"]


def test_a_name_that_another_file_has_is_not_taken(tmp_path):
    for name in ("a.jpg", "a.jpeg", "a.jpg.jpg"):
        write_jpeg(tmp_path / name)
    names = planned(tmp_path / "out", tmp_path)
    assert names.pop(str(tmp_path / "a.jpg.jpg")) == "a.jpg.png"
    assert len({*names.values(), "a.jpg.png"}) == 3


def test_files_of_one_name_from_two_folders_are_told_apart_by_these(tmp_path):
    paths = [write_jpeg(tmp_path / f"{name}/x.jpg") for name in ("may", "june")]
    expected = dict(zip(map(str, paths), ("may-x.png", "june-x.png"), strict=True))
    assert planned(tmp_path / "out", *paths) == expected
    assert planned(tmp_path / "out", *paths[::-1]) == expected
    years = [write_jpeg(tmp_path / f"{year}/may/x.jpg") for year in (2023, 2024)]
    assert list(planned(tmp_path / "out", *years).values()) == ["2023-may-x.png", "2024-may-x.png"]


def test_a_suffix_of_ones_own_follows_each_name(tmp_path, capsys):
    photo = write_jpeg(tmp_path / "photo.v2.jpg")
    for name in ("may/a.jpg", "may/sub/b.jpg", "may/sub/b.jpeg"):
        write_jpeg(tmp_path / name)
    before = tree(tmp_path)
    assert decode(photo, tmp_path / "may", "--suffix", "_clean", "--format", "jpg") == 0
    assert set(tree(tmp_path)) - set(before) == {
        "photo.v2_clean.jpg",
        "may_clean/a_clean.jpg",
        *("may_clean/sub/b.jpg_clean.jpg", "may_clean/sub/b.jpeg_clean.jpg"),
    }
    assert decode(photo, tmp_path / "may", "--suffix", "_x", "-o", tmp_path / "out") == 0
    expected = ["a_x.png", "photo.v2_x.png", "sub/b.jpeg_x.png", "sub/b.jpg_x.png"]
    assert tree(tmp_path / "out") == expected
    # An empty one names results like their inputs, which they never replace.
    assert decode(photo, "--suffix", "") == 0 and (tmp_path / "photo.v2.png").exists()
    data = photo.read_bytes()
    assert decode(photo, "--suffix", "", "--format", "jpg", "--overwrite") == 1
    assert "would overwrite the input" in capsys.readouterr().err and photo.read_bytes() == data


def test_a_file_that_is_named_twice_is_restored_once(tmp_path, capsys):
    path = write_jpeg(tmp_path / "a.jpg")
    assert decode(path, tmp_path, path, "-o", tmp_path / "out") == 0
    assert tree(tmp_path / "out") == ["a.png"]
    said = capsys.readouterr().err
    assert said.count("skipped: it was named before") == 2 and "2 skipped" in said


# What is written


def test_pillows_warnings_are_not_printed(tmp_path, recwarn, capfd):
    hostile = b"MM\0*\0\0\0\x08" + struct.pack(">HHHII", 1, 0x10F, 2, 9000, 9000) + bytes(4)
    Image.new("L", (16, 8)).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + hostile)
    assert decode(tmp_path / "a.jpg", "-o", tmp_path / "a.tif") == 0
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert not [each for each in recwarn if "PIL" in each.filename]


def test_the_report_has_an_entry_for_each_file_in_their_order(tmp_path, capsys):
    for name in ("b.jpg", "a.jpg", "c.jpg", "é\udcff.jpg"):
        write_jpeg(tmp_path / "in" / name)
    (tmp_path / "in/b.jpg").write_bytes(b"no JPEG")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").touch()
    assert decode(tmp_path / "in", "-o", tmp_path / "out", "--json", "-") == 1
    text = capsys.readouterr().out
    content = json.loads(text)
    assert text == json.dumps(content, indent=2) + "\n"
    assert [os.path.basename(each["input"]) for each in content["files"]] == [
        *("a.jpg", "b.jpg", "c.jpg", "é\udcff.jpg")
    ]
    statuses = [each["status"] for each in content["files"]]
    assert statuses == ["skipped", "failed", "decoded", "decoded"]
    assert content["summary"].pop("seconds") > 0
    assert content["summary"] == {"restored": 0, "decoded": 2, "skipped": 1, "failed": 1}


def test_records_of_many_threads_are_all_kept():
    spool = record_spool.RecordSpool(4000, keep=True)

    def add(first):
        for index in range(first, 4000, 4):
            spool.add(index, {"input": f"{index}" * 50, "output": None, "status": "failed"})

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    assert spool.counts == {"failed": 4000}
    assert [json.loads(text)["input"] for text in spool.texts()] == [
        f"{index}" * 50 for index in range(4000)
    ]


@pytest.mark.parametrize(
    "path", ["a/x.jpg", "a/../b/x.jpg", "link/x.jpg", "b/leads", "a/..", ".", "none/x", "a/loop"]
)
def test_real_paths_are_those_of_the_standard_library(tmp_path, monkeypatch, path):
    for name in ("a/x.jpg", "b/x.jpg"):
        write_jpeg(tmp_path / name)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "b/leads").symlink_to("../link/x.jpg")
    (tmp_path / "a/loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    real_path = RealPaths()
    for each in (path, tmp_path / path, path):
        assert real_path(each) == os.path.realpath(each)


def test_a_file_that_appears_during_the_run_is_not_replaced(tmp_path, monkeypatch, capsys):
    from dmcnn_jax.restoration.restorer import Restorer

    path, target = write_jpeg(tmp_path / "a.jpg"), tmp_path / "a.png"
    render = Restorer.render

    def render_late(self, planes):
        target.write_bytes(b"mine")
        return render(self, planes)

    monkeypatch.setattr(Restorer, "render", render_late)
    assert decode(path, "-o", target) == 0
    assert target.read_bytes() == b"mine" and tree(tmp_path) == ["a.jpg", "a.png"]
    assert "skipped: " in capsys.readouterr().err
    target.unlink()
    assert decode(path, "-o", target, "--overwrite") == 0
    assert Image.open(target).size == (16, 8)


def test_a_result_of_another_process_is_not_computed_again(tmp_path, monkeypatch, capsys):
    from dmcnn_jax.restoration.restorer import Restorer

    first, second = (write_jpeg(tmp_path / name) for name in ("a.jpg", "b.jpg"))
    restore_planes, restored = Restorer.restore_planes, []

    def restore(self, file, *rest):
        restored.append(file.name)
        (tmp_path / "b-restored.png").write_bytes(b"another's")
        return restore_planes(self, file, *rest)

    monkeypatch.setattr(Restorer, "restore_planes", restore)
    assert decode(first, second) == 0
    assert restored == [str(first)] and "1 skipped" in capsys.readouterr().err
    assert (tmp_path / "b-restored.png").read_bytes() == b"another's"


@pytest.mark.parametrize("links", [True, False])
def test_only_one_of_many_writers_gets_a_name(tmp_path, monkeypatch, links):
    """On file systems with hard links and without."""
    if not links:

        def refuse(*_):
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(atomic_write.os, "link", refuse)
    path = tmp_path / "a"
    with atomic_write.replacing(path, overwrite=False) as file:
        file.write(b"first")
        with atomic_write.replacing(path, overwrite=False) as other:
            other.write(b"second")
        assert path.read_bytes() == b"second"
        with pytest.raises(FileExistsError), atomic_write.replacing(path, overwrite=False):
            pass
        path.unlink()
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["a"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_a_name_stays_free_if_renaming_fails(tmp_path, monkeypatch):
    """On file systems without hard links, where an empty file reserves the name."""

    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(atomic_write.os, "link", refuse)
    monkeypatch.setattr(atomic_write.os, "replace", refuse)
    renaming = pytest.raises(OSError, match="not permitted")
    with renaming, atomic_write.replacing(tmp_path / "a", overwrite=False) as file:
        file.write(b"first")
    assert os.listdir(tmp_path) == []


def _umask():
    code = "import os; print(os.umask(0))"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True).stdout)
