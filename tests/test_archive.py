"""Archives: each file once, whatever ends the work in between; in process, without networks."""

import dataclasses
import errno
import io
import itertools
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image
from small_archives import (
    DECODE,
    alone,
    contents,
    finish,
    jpeg_bytes,
    no_isolation,
    plan,
    write_jpegs,
)

pytest.importorskip("pyarrow", reason='pip install "dmcnn-jax[archive]"')

import pyarrow.parquet as pq

from dmcnn_jax.archives import storage
from dmcnn_jax.archives.driver import pending_shards, share_of_shards
from dmcnn_jax.archives.errors import StorageUnavailableError
from dmcnn_jax.archives.journal import open_journal
from dmcnn_jax.archives.options import ArchiveOptions, resolve
from dmcnn_jax.archives.pictures import PictureRestorer
from dmcnn_jax.archives.plan import Archive
from dmcnn_jax.archives.reports import Record, read_report, write_report
from dmcnn_jax.archives.shard import BusyError, run_shard
from dmcnn_jax.archives.sources import list_source
from dmcnn_jax.archives.status import read_status
from dmcnn_jax.archives.verify import verify_archive
from dmcnn_jax.cli.archive import main
from dmcnn_jax.cli.restore import main as restore_main
from dmcnn_jax.images.input_folders import Skipped
from dmcnn_jax.system.bundled import BUNDLED


def dying(function, after):
    """The function, which dies instead of being called once more than `after` times."""
    calls = itertools.count()

    def call(*arguments, **options):
        if next(calls) >= after:
            raise Killed
        return function(*arguments, **options)

    return call


class Killed(BaseException):
    """Stands for the death of a process: no `except Exception` sees it."""


# Plans


def test_a_folder_gets_the_results_that_the_plain_command_writes(tmp_path, capsys):
    source = write_jpegs(tmp_path / "in", 7)
    (source / "0/p000.jpeg").write_bytes(jpeg_bytes(200))
    (source / "1/p001.jpg.jpg").write_bytes(jpeg_bytes(210))
    (source / "1/p001.jpeg").write_bytes(jpeg_bytes(220))
    (source / "note.txt").write_text("no picture")
    ink = io.BytesIO()
    Image.new("CMYK", (16, 8), (10, 20, 30, 40)).save(ink, "JPEG")
    (source / "ink.jpg").write_bytes(ink.getvalue())
    assert restore_main([str(source), "-o", str(tmp_path / "plain"), "--strength", "0", "-q"]) == 0
    finish(plan(source, tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")
    assert len(contents(tmp_path / "out")) == 11


@pytest.mark.parametrize("extension", [".tif", ".webp", ".jpg"])
def test_other_formats_have_the_bytes_of_the_plain_command(tmp_path, extension):
    source = write_jpegs(tmp_path / "in", 2)
    arguments = ["-o", str(tmp_path / "plain"), "--format", extension[1:], "--strength", "0", "-q"]
    assert restore_main([str(source), *arguments]) == 0
    finish(plan(source, tmp_path / "out", 4, dataclasses.replace(DECODE, extension=extension)))
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")


def test_a_manifest_is_a_parquet_file_of_paths_sizes_and_shards(tmp_path):
    source = write_jpegs(tmp_path / "in", 10)
    archive = plan(source, tmp_path / "out")
    table = pq.read_table(tmp_path / "out/_archive/manifest/part-00000.parquet")
    paths = sorted(str(p.relative_to(source)) for p in source.rglob("*.jpg"))
    assert table.column("path").to_pylist() == paths
    sizes = [(source / path).stat().st_size for path in paths]
    assert table.column("size").to_pylist() == sizes and archive.plan.bytes == sum(sizes)
    assert table.column("shard").to_pylist() == [0] * 4 + [1] * 4 + [2] * 2
    options = json.loads(table.schema.metadata[b"options"])
    assert ArchiveOptions.from_json(options) == DECODE == archive.plan.options
    assert [row.path for row in archive.rows(2)] == paths[8:]


def test_members_of_tar_files_are_restored(tmp_path):
    for name in ("train-0", "train-1"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for member in ("a.jpg", "a.cls", "sub/b.jpg"):
                data = jpeg_bytes(len(name + member) * 9)
                about = tarfile.TarInfo(member)
                about.size = len(data)
                tar.addfile(about, io.BytesIO(data))
    archive = plan(tmp_path / "train-*.tar", tmp_path / "out")
    finish(archive)
    found = contents(tmp_path / "out")
    assert sorted(found) == [f"train-{i}/{p}.png" for i in (0, 1) for p in ("a", "sub/b")]
    expected = np.asarray(Image.open(io.BytesIO(jpeg_bytes(len("train-0a.jpg") * 9))))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/train-0/a.png")), expected)
    assert verify_archive(archive, None).passed


def test_a_list_names_files_of_several_folders_once(tmp_path):
    source = write_jpegs(tmp_path / "in", 4)
    lines = [str(source / "0/p000.jpg"), str(source / "1/p001.jpg"), str(source / "0/p000.jpg")]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n\n")
    archive = plan(tmp_path / "list.txt", tmp_path / "out")
    finish(archive)
    assert sorted(contents(tmp_path / "out")) == ["0/p000.png", "1/p001.png"]
    assert [r.error for r in read_report(archive.target, 0)] == ["", "", "named before"]


def test_a_compressed_tar_file_is_refused(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(ValueError, match=r"a\.tar: not an uncompressed tar file"):
        list(list_source(str(tmp_path / "a.tar"), Skipped()))


def test_planning_refuses_what_would_lose_something(tmp_path, capsys):
    source = write_jpegs(tmp_path / "in", 2)
    (tmp_path / "used").mkdir()
    (tmp_path / "used/mine.txt").write_text("mine")
    assert main(["plan", str(source), str(tmp_path / "used")]) == 1
    assert "used is not empty" in capsys.readouterr().err
    assert main(["plan", str(source), str(source / "out")]) == 1
    assert "lies in the source" in capsys.readouterr().err
    assert main(["plan", str(tmp_path / "gone"), str(tmp_path / "out")]) == 1
    assert f"{tmp_path / 'gone'}: No such file" in capsys.readouterr().err
    assert (
        main(["plan", str(source), str(tmp_path / "out"), "--bits", "16", "--format", "jpg"]) == 2
    )
    assert "bits is 16" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    plan(source, tmp_path / "out")
    assert main(["plan", str(source), str(tmp_path / "out")]) == 1
    assert "has a plan already" in capsys.readouterr().err


def test_another_installation_with_other_weights_is_refused(tmp_path):
    plan(write_jpegs(tmp_path / "in", 2), tmp_path / "out")
    path = tmp_path / "out/_archive/plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": "0" * 64}))
    with pytest.raises(ValueError, match=r"weights here .* are not those"):
        PictureRestorer(Archive(str(tmp_path / "out")))


def test_a_plan_fixes_the_weights_of_a_training_run(tmp_path, monkeypatch):
    first, second = sorted(BUNDLED.glob("*.safetensors"))[:2]
    weights = tmp_path / "run" / "best.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(first.read_bytes())
    monkeypatch.chdir(tmp_path)
    options = resolve(dataclasses.replace(DECODE, weights="run"))
    assert options.weights == str(weights)
    archive = plan(write_jpegs(tmp_path / "in", 1), tmp_path / "out", 1, options)
    monkeypatch.chdir(tmp_path / "in")
    archive.check_weights()
    weights.write_bytes(second.read_bytes())
    with pytest.raises(ValueError, match=r"weights here .* are not those"):
        archive.check_weights()
    assert resolve(dataclasses.replace(DECODE, weights=first.stem)).weights == first.stem
    with pytest.raises(FileNotFoundError, match="no weights 'gone'"):
        resolve(dataclasses.replace(DECODE, weights="gone"))


# Shards


def test_bad_files_are_rows_and_no_end(tmp_path, capsys):
    source = write_jpegs(tmp_path / "in", 3)
    (source / "0/bad.jpg").write_bytes(b"no picture")
    (source / "0/cut.jpg").write_bytes(jpeg_bytes(7)[:-20])
    (source / "0/gone.jpg").symlink_to("nowhere.jpg")
    archive = plan(source, tmp_path / "out", 10)
    finish(archive)
    failed = {r.path: r.error for r in read_report(archive.target, 0) if r.status == "failed"}
    assert sorted(failed) == ["0/bad.jpg", "0/cut.jpg", "0/gone.jpg"]
    assert failed["0/gone.jpg"] == "a link to nothing" and "past the end" in failed["0/cut.jpg"]
    assert main(["status", str(tmp_path / "out"), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (
        status["counts"] == {"decoded": 3, "failed": 3} and status["reasons"]["a link to nothing"]
    )
    assert main(["verify", str(tmp_path / "out"), "--all"]) == 0
    # Mended, only that file is restored.
    (source / "0/bad.jpg").write_bytes(jpeg_bytes(99))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.png")}
    restorer = PictureRestorer(archive)
    assert list(pending_shards(archive)) == []
    assert list(pending_shards(archive, retry_failed=True)) == [0]
    summary = run_shard(restorer, 0, no_isolation, retry_failed=True)
    assert summary.counts == {"decoded": 4, "failed": 2}
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.parametrize("address", ["{folder}/out", "memory://{name}"])
@pytest.mark.parametrize("stage", ["read", "restore", "write", "publish", "report"])
def test_death_at_any_stage_leaves_what_an_undisturbed_run_gives(
    tmp_path, monkeypatch, address, stage
):
    source = write_jpegs(tmp_path / "in", 5)
    finish(plan(source, tmp_path / "calm"))
    calm = contents(tmp_path / "calm")
    archive = plan(source, address.format(folder=tmp_path, name=f"{tmp_path.name}-death"), 5)
    store, restorer = archive.target, PictureRestorer(archive)
    with monkeypatch.context() as patch:
        if stage == "report":
            patch.setattr("dmcnn_jax.archives.shard.write_report", dying(write_report, 0))
        else:
            owner = type(store) if stage == "publish" else restorer
            patch.setattr(owner, stage, dying(getattr(owner, stage), 2))
        with pytest.raises(Killed):
            run_shard(restorer, 0, no_isolation)
    assert not store.exists("_archive/reports/part-00000/shard-00000000.parquet")
    finish(archive, alone(PictureRestorer(archive)))
    assert {name: store.read(name) for name in calm} == calm
    proof = verify_archive(archive, None)
    assert proof.passed and proof.written == 5 and not list(pending_shards(archive))
    if isinstance(store, storage.LocalStore):
        assert contents(store.folder) == calm and not list(store.folder.rglob("*.partial"))
        assert not list(store.folder.rglob("*.jsonl"))


def test_a_file_that_ends_its_processes_twice_is_recorded_and_the_shard_goes_on(
    tmp_path, monkeypatch
):
    source = write_jpegs(tmp_path / "in", 6)
    archive = plan(source, tmp_path / "out", 6)
    poison = "1/p001.jpg"
    restorer = PictureRestorer(archive)
    read = restorer.read

    def kill(row, data):
        if row.path == poison:
            raise Killed
        return read(row, data)

    monkeypatch.setattr(restorer, "read", kill)
    with pytest.raises(Killed):
        run_shard(restorer, 0, no_isolation)
    asked = []

    def isolate(shard, index):
        row = archive.rows(shard)[index]
        asked.append(row.path)
        return "killed by signal 11, SIGSEGV" if row.path == poison else restorer.run(row)

    run_shard(restorer, 0, isolate)
    records = {record.path: record for record in read_report(archive.target, 0)}
    assert asked.count(poison) == 2 and len(records) == 6
    assert records[poison].status == "failed"
    assert records[poison].error == (
        "it ended 2 processes that restored it alone (killed by signal 11, SIGSEGV)"
    )
    assert sum(record.status == "decoded" for record in records.values()) == 5


def test_a_shard_has_one_process_at_a_time(tmp_path):
    archive = plan(write_jpegs(tmp_path / "in", 2), tmp_path / "out")
    restorer = PictureRestorer(archive)
    with open_journal(archive.target, 0), pytest.raises(BusyError):
        run_shard(restorer, 0, no_isolation)
    run_shard(restorer, 0, no_isolation)


def test_a_shard_that_was_finished_in_the_meantime_is_not_restored_again(tmp_path, monkeypatch):
    archive = plan(write_jpegs(tmp_path / "in", 2), tmp_path / "out")
    restorer = PictureRestorer(archive)

    def late(store, shard):
        monkeypatch.undo()
        run_shard(restorer, shard, no_isolation)
        return open_journal(store, shard)

    monkeypatch.setattr("dmcnn_jax.archives.shard.open_journal", late)
    files = []
    summary = run_shard(restorer, 0, no_isolation, progress=files.append)
    assert summary.files == 2 and not files


def test_a_half_written_line_of_a_journal_counts_as_none(tmp_path):
    archive = plan(write_jpegs(tmp_path / "in", 2), tmp_path / "out")
    with open_journal(archive.target, 0) as journal:
        journal.start(0)
        journal.finish(Record(index=0, path="a", output="b", status="decoded"))
        journal.start(1)
    path = next((tmp_path / "out").rglob("*.jsonl"))
    with open(path, "ab") as file:
        file.write(b'{"done": {"index": 1, "pa')
    with open_journal(archive.target, 0) as journal:
        assert set(journal.finished) == {0} and journal.suspects == {1}
        journal.finish(Record(index=1, path="c", output="d", status="decoded"))
    with open_journal(archive.target, 0) as journal:
        assert set(journal.finished) == {0, 1} and not journal.suspects


def test_shares_of_jobs_make_up_the_whole():
    shards = [s for part in range(7) for s in share_of_shards(part, 7, 100)]
    assert sorted(shards) == list(range(100))


# Storage


def test_storage_that_is_away_for_a_while_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "PATIENCE", (0.0, 0.0, 0.0))
    source = write_jpegs(tmp_path / "in", 4)
    archive = plan(source, f"memory://{tmp_path.name}-away")
    system = archive.target.system
    pipe, failures = system.pipe_file, 3

    def flaky(path, data, **options):
        nonlocal failures
        if "png" in path and failures:
            failures -= 1
            raise ConnectionError("network is unreachable")
        return pipe(path, data, **options)

    monkeypatch.setattr(system, "pipe_file", flaky)
    finish(archive)
    assert failures == 0 and verify_archive(archive, None).passed


def test_storage_that_stays_away_is_no_fault_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "PATIENCE", (0.0,))
    archive = plan(write_jpegs(tmp_path / "in", 4), f"memory://{tmp_path.name}-gone")
    with monkeypatch.context() as patch:

        def refuse(path, data, **options):
            raise ConnectionError("network is unreachable")

        patch.setattr(archive.target.system, "pipe_file", refuse)
        with pytest.raises(StorageUnavailableError, match="can't be reached: network is"):
            finish(archive)
    finish(archive, alone(PictureRestorer(archive)))
    assert verify_archive(archive, None).written == 4


def test_a_full_disk_is_no_fault_of_a_file(tmp_path, monkeypatch):
    archive = plan(write_jpegs(tmp_path / "in", 4), tmp_path / "out")
    with monkeypatch.context() as patch:

        def fill(handle):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, "fsync", fill)
        with pytest.raises(StorageUnavailableError, match="No space left on device"):
            finish(archive)
    assert list(pending_shards(archive)) == [0]
    finish(archive, alone(PictureRestorer(archive)))
    assert verify_archive(archive, None).written == 4


@pytest.mark.parametrize(
    "number, fault", [(errno.ESTALE, StorageUnavailableError), (errno.EIO, OSError)]
)
def test_a_file_system_that_is_away_is_told_from_a_file_that_is_damaged(
    tmp_path, monkeypatch, number, fault
):
    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    store = storage.open_store(str(tmp_path))
    monkeypatch.setattr("dmcnn_jax.archives.storage.open", fail, raising=False)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        store.read("x.jpg")
    assert type(caught.value) is fault


def test_reasons_of_failures_name_no_files(tmp_path):
    source = write_jpegs(tmp_path / "in", 6)
    archive = plan(source, tmp_path / "out", 6)
    for number in (0, 1):
        (tmp_path / f"out/{number}/p00{number}.png").mkdir(parents=True)
        (source / f"{number}/p00{number + 3}.jpg").unlink()
    summary = run_shard(PictureRestorer(archive), 0, no_isolation)
    assert summary.reasons == {
        "its result can't be written (Is a directory)": 2,
        "No such file or directory": 2,
    }


def test_a_source_of_objects_is_listed_folder_by_folder(tmp_path):
    store = storage.open_store(f"memory://{tmp_path.name}-objects")
    for name in ("b/2.jpg", "a.JPEG", "b/c/3.jpg", "b/note.txt"):
        store.publish(name, jpeg_bytes(40))
    found = list(list_source(store.address, Skipped()))
    assert [f.path.removeprefix(f"{store.address}/") for f in found] == [
        "a.JPEG",
        "b/2.jpg",
        "b/c/3.jpg",
    ]
    archive = plan(store.address, tmp_path / "out")
    finish(archive)
    assert sorted(contents(tmp_path / "out")) == ["a.png", "b/2.png", "b/c/3.png"]


# Status and proof


def test_verify_finds_what_is_missing_and_what_was_changed(tmp_path, capsys):
    archive = plan(write_jpegs(tmp_path / "in", 9), tmp_path / "out", 3)
    assert main(["verify", str(tmp_path / "out")]) == 1
    assert "shard 0: no report yet" in capsys.readouterr().out
    finish(archive)
    assert main(["verify", str(tmp_path / "out")]) == 0
    (tmp_path / "out/0/p000.png").unlink()
    with open(tmp_path / "out/1/p001.png", "ab") as file:
        file.write(b"x")
    (tmp_path / "in/2/p002.jpg").write_bytes(jpeg_bytes(1))
    assert main(["verify", str(tmp_path / "out"), "--all"]) == 1
    said = capsys.readouterr().out
    assert "0/p000.png: missing" in said and "1/p001.png: other bytes" in said
    assert "2/p002.jpg is not the file that was restored" in said
    assert "FAILED: 6 of 9 files" in said


def test_verify_goes_on_after_files_that_it_cannot_read(tmp_path, capsys):
    finish(plan(write_jpegs(tmp_path / "in", 4), tmp_path / "out"))
    (tmp_path / "in/0/p000.jpg").unlink()
    (tmp_path / "out/1/p001.png").unlink()
    (tmp_path / "out/1/p001.png").mkdir()
    assert main(["verify", str(tmp_path / "out"), "--all", "--json"]) == 1
    proof = json.loads(capsys.readouterr().out)
    assert (proof["written"], proof["problems"], proof["counted"]) == (2, 2, 2)
    assert [line.partition(": ")[0] for line in proof["examples"]] == ["0/p000.png", "1/p001.png"]
    assert "0/p000.jpg: No such file" in proof["examples"][0]
    assert "Is a directory" in proof["examples"][1]


def test_verify_ends_if_the_storage_is_away(tmp_path, monkeypatch):
    archive = plan(write_jpegs(tmp_path / "in", 1), tmp_path / "out")
    finish(archive)
    read = archive.target.read

    def refuse(path, *part):
        if path.endswith(".png"):
            raise StorageUnavailableError("away")
        return read(path, *part)

    monkeypatch.setattr(archive.target, "read", refuse)
    with pytest.raises(StorageUnavailableError):
        verify_archive(archive)


def test_status_counts_files_and_tells_the_rate_and_the_time_left(tmp_path):
    archive = plan(write_jpegs(tmp_path / "in", 10), tmp_path / "out", 2)
    for shard in range(3):
        records = [
            Record(index=i, path="", output="", status="restored", width=1000, height=500)
            for i in range(2)
        ]
        write_report(
            archive.target, archive.plan.id, shard, records, 100 + 10 * shard, 110 + 10 * shard
        )
    with open_journal(archive.target, 3) as journal:
        journal.finish(Record(index=0, path="", output="", status="decoded"))
    status = read_status(archive, now=1000.0)
    assert status.done_shards == 3 and status.counts == {"restored": 6} and status.begun_files == 1
    assert status.files_per_second == pytest.approx(6 / 30)
    assert status.pixels_per_second == pytest.approx(6 * 500_000 / 30)
    assert status.seconds_left == pytest.approx(3 / (6 / 30))
    assert "left: 15 s" in status.lines()


def test_another_plans_report_is_refused(tmp_path):
    first = plan(write_jpegs(tmp_path / "in", 2), tmp_path / "out")
    finish(first)
    path = tmp_path / "out/_archive/plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id": "0" * 16}))
    with pytest.raises(ValueError, match="belongs to another plan"):
        read_status(Archive(str(tmp_path / "out")))


def test_arguments_that_contradict_each_other_are_a_line(tmp_path, capsys):
    target = str(tmp_path)
    for arguments in (["--shard", "0/4"], ["--shard", "5/4"], ["--shard", "x"]):
        with pytest.raises(SystemExit) as ended:
            main(["run", target, *arguments])
        assert ended.value.code == 2
    assert main(["run", target, "--shard", "1/2", "--address", "auto"]) == 2
    assert main(["run", target, "--driver", "processes", "--gpus-per-worker", "1"]) == 2
    assert main(["status", target]) == 1
    assert "holds no plan" in capsys.readouterr().err
    assert not os.listdir(tmp_path)
