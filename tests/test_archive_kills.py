"""Archives whose processes are killed, whose storage is cut off, on processes, on Ray and on S3.

DMCNN_KILLS sets how many processes are killed, instead of 3.
"""

import io
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from commands import command
from PIL import Image

pytest.importorskip("pyarrow", reason='pip install "dmcnn-jax[archive]"')
pytest.importorskip("fsspec", reason='pip install "dmcnn-jax[archive]"')

import contextlib

from dmcnn_jax import jpeg
from dmcnn_jax.archives.plan import Archive
from dmcnn_jax.archives.reports import read_report
from dmcnn_jax.archives.storage import open_store
from dmcnn_jax.archives.verify import verify_archive
from dmcnn_jax.cli.archive import main
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.restorer import Restorer

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(CHECKOUT), "JAX_PLATFORMS": "cpu"}
KILLS = int(os.environ.get("DMCNN_KILLS", "3"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 240 small JPEG files, and what an undisturbed run makes of them."""
    source = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(240):
        path = source / f"{number % 4}" / f"{number:03}.jpg"
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (40, 24 + number % 50, 3), np.uint8)
        Image.fromarray(pixels).save(path, quality=30)
    calm = tmp_path_factory.mktemp("calm") / "out"
    plan(source, calm)
    assert main(["run", str(calm), "--driver", "processes", "--workers", "1", "-q"]) == 0
    assert verify_archive(Archive(str(calm)), 0).written == 240
    return source, contents(calm)


def plan(source, target, size=40):
    arguments = ["--strength", "0", "--engine", "jax", "--shard-size", str(size), "-q"]
    assert main(["plan", str(source), str(target), *arguments]) == 0


def contents(folder):
    """The files in a folder and their bytes, without what the archive keeps for itself."""
    found = (p for p in folder.rglob("*") if p.is_file() and "_archive" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def start(target, *arguments):
    words = [*command("dmcnn-archive"), "run", str(target), "-q", *arguments]
    return subprocess.Popen(words, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def descendants(pid):
    """Processes below a process, by their numbers, and their command lines."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = list(map(int, task.read_text().split()))
        except OSError:
            continue
        for child in children:
            try:
                found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            found |= descendants(child)
    return found


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_for(condition, process, seconds=240):
    """Waits until something holds or the process has ended; returns whether it holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    raise AssertionError("nothing happened")


def results(target):
    return sum(1 for _ in Path(target).glob("[0-9]/*.png"))


def check(target, calm):
    """Asserts that an archive is whole, has the bytes of an undisturbed run and nothing besides."""
    assert contents(target) == calm
    proof = verify_archive(Archive(str(target)), 0)
    assert proof.passed and proof.written == len(calm), proof.lines()
    left = [p.name for p in target.rglob("*") if p.suffix in (".partial", ".jsonl")]
    assert not left


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_killed_at_random_on_processes(pictures, tmp_path):
    source, calm = pictures
    target, rng = tmp_path / "out", random.Random(0)
    plan(source, target)
    kills, process = [], start(target, "--driver", "processes", "--workers", "2")
    while len(kills) < KILLS:
        goal = results(target) + rng.randint(1, max(1, 200 // KILLS))
        if not wait_for(lambda goal=goal: results(target) >= goal, process):
            if results(target) == len(calm):
                break
            process = start(target, "--driver", "processes", "--workers", "2")
            continue
        below = descendants(process.pid)
        kind = rng.choice(["driver", "worker", "libjpeg"])
        workers = [pid for pid, words in below.items() if "archives.worker" in words]
        others = [pid for pid, words in below.items() if "archives.worker" not in words]
        victims = {"driver": [process.pid], "worker": workers, "libjpeg": others}[kind]
        if not victims:
            continue
        victim = rng.choice(victims)
        kill(victim)
        kills.append(kind)
        if kind == "driver":
            process.communicate()
            process = start(target, "--driver", "processes", "--workers", "2")
    said = process.communicate(timeout=240)[1]
    last = start(target, "--driver", "processes", "--workers", "1", "--retry-failed")
    assert last.wait(240) == 0, said
    check(target, calm)
    print(f"{len(kills)} kills: {', '.join(kills)}")
    assert len(kills) >= min(KILLS, 6)


def test_one_worker_two_workers_and_shares_give_the_same_bytes(pictures, tmp_path):
    source, calm = pictures
    plan(source, tmp_path / "two")
    assert main(["run", str(tmp_path / "two"), "--driver", "processes", "--workers", "2"]) == 0
    check(tmp_path / "two", calm)
    plan(source, tmp_path / "half")
    assert main(["run", str(tmp_path / "half"), "--shard", "2/2"]) == 0
    assert 0 < results(tmp_path / "half") < len(calm)
    assert main(["run", str(tmp_path / "half"), "--driver", "processes", "--workers", "1"]) == 0
    check(tmp_path / "half", calm)


def test_a_file_that_kills_processes_is_recorded(pictures, tmp_path):
    source, calm = pictures
    target = tmp_path / "out"
    plan(source, target, 240)
    # A worker that reads this file kills itself, as a crash in a library would.
    poison = "1/001.jpg"
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(POISON.format(poison=poison))
    path = os.pathsep.join([str(tmp_path / "site"), str(CHECKOUT)])
    words = [*command("dmcnn-archive"), "run", str(target), "--shard", "1/1", "-q"]
    done = subprocess.run(words, env=ENVIRONMENT | {"PYTHONPATH": path}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert contents(target) == {name: calm[name] for name in calm if name != "1/001.png"}
    proof = verify_archive(Archive(str(target)), 0)
    assert (proof.passed, proof.written, proof.failed) == (True, 239, 1)
    # On a machine that the file doesn't kill, it can be had after all.
    assert main(["run", str(target), "--shard", "1/1", "--retry-failed", "-q"]) == 0
    check(target, calm)


POISON = """
import os, signal, sys
if sys.argv[0] == "-m":
    import threading, time
    def poison():
        while "dmcnn_jax.archives.pictures" not in sys.modules:
            time.sleep(0.001)
        time.sleep(0.2)
        from dmcnn_jax.archives.pictures import PictureRestorer
        read = PictureRestorer.read
        def deadly(self, row, data):
            if row.path == {poison!r}:
                os.kill(os.getpid(), signal.SIGSEGV)
            return read(self, row, data)
        PictureRestorer.read = deadly
    threading.Thread(target=poison, daemon=True).start()
"""


# Ray


def test_killed_on_ray(pictures, tmp_path):
    pytest.importorskip("ray", reason='Ray is not installed; pip install "dmcnn-jax[archive]"')
    source, calm = pictures
    target = tmp_path / "out"
    plan(source, target)
    arguments = ("--driver", "ray", "--workers", "2")
    process = start(target, *arguments)
    # A worker, the actor that keeps it, and what places actors on this machine.
    kinds = (r".*archives\.worker", "ray::_Actor", r"\S*raylet/raylet ")
    for number, kind in enumerate(kinds):
        process = run_until(20 + 40 * number, target, arguments, process)
        below = descendants(process.pid)
        victims = [pid for pid, words in below.items() if re.match(kind, words)]
        assert victims, sorted(below.values())
        kill(victims[0])
    said = process.communicate(timeout=240)[1]
    if process.returncode:
        assert "lost its last machine" in said or "raylet" in said.lower(), said
    process = start(target, "--driver", "processes", "--workers", "1", "--retry-failed")
    assert process.communicate(timeout=240) and process.returncode == 0
    check(target, calm)


def test_rays_control_service_is_killed(pictures, tmp_path):
    """Its GCS, and the actors, which nothing starts again then."""
    pytest.importorskip("ray", reason='Ray is not installed; pip install "dmcnn-jax[archive]"')
    source, calm = pictures
    target = tmp_path / "out"
    plan(source, target)
    arguments = ("--driver", "ray", "--workers", "2")
    process = run_until(20, target, arguments, start(target, *arguments))
    below = descendants(process.pid)
    victims = [p for p, words in below.items() if re.match(r"\S*gcs_server |ray::_Actor", words)]
    assert len(victims) == 3, sorted(below.values())
    for pid in victims:
        kill(pid)
    said = process.communicate(timeout=300)[1]
    assert process.returncode and "gcs" in said.lower(), said
    assert results(target) < 240
    wait_for_end([pid for pid, words in below.items() if "archives.worker" in words])
    process = start(target, *arguments)
    assert process.communicate(timeout=300) and process.returncode == 0
    check(target, calm)


def run_until(goal, target, arguments, process):
    """Waits for a number of results; where the run ends before, as on a busy machine, starts it."""
    while not wait_for(lambda: results(target) >= goal, process):
        process.communicate()
        process = start(target, *arguments)
    return process


def wait_for_end(pids, seconds=60):
    """Waits until processes have ended."""
    end = time.monotonic() + seconds
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, alive
        time.sleep(0.1)


# S3


class Proxy(threading.Thread):
    """Passes connections on to a server; cuts some off, and refuses all for a while.

    Attributes:
        cut: connections whose request is to be cut off after 2,000 bytes.
        away: whether new connections are closed at once.
    """

    def __init__(self, port):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self._server = self.listener.getsockname()[1], port
        self.cut = self.were_cut = self.were_refused = 0
        self.away = False

    def run(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.away:
                self.were_refused += 1
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._server))
            for pair in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, here, there, upwards):
        total = 0
        try:
            while data := here.recv(1000):
                if self.away:
                    break
                total += len(data)
                if upwards and self.cut > 0 and total > 2000:
                    self.cut -= 1
                    self.were_cut += 1
                    break
                there.sendall(data)
        except OSError:
            pass
        for each in (here, there):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def s3(monkeypatch):
    """A bucket, on a server behind a proxy."""
    pytest.importorskip("s3fs", reason="s3fs is not installed; pip install s3fs")
    server_module = pytest.importorskip(
        "moto.server", reason='moto is not installed; pip install "moto[server]"'
    )
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    # Servers of one process share their buckets.
    reset = f"http://127.0.0.1:{server.get_host_and_port()[1]}/moto-api/reset"
    urllib.request.urlopen(urllib.request.Request(reset, method="POST")).close()
    proxy = Proxy(server.get_host_and_port()[1])
    proxy.start()
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setitem(ENVIRONMENT, name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield proxy
    proxy.listener.close()
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_objects_on_s3_with_uploads_cut_off_workers_killed_and_the_network_away(
    pictures, s3, tmp_path
):
    source, calm = pictures
    inside = open_store("s3://bucket/in")
    names = sorted(calm)[:60]
    for name in names:
        path = name.replace(".png", ".jpg")
        inside.publish(path, (source / path).read_bytes())
    target = "s3://bucket/out"
    plan("s3://bucket/in", target, 20)
    s3.cut = 5
    process = start(target, "--driver", "processes", "--workers", "1")
    store = open_store(target)

    def done():
        return sum(len(store.names(folder)) for folder in "0123")

    assert wait_for(lambda: done() >= 15, process)
    s3.away = True
    time.sleep(3)
    s3.away = False
    assert wait_for(lambda: done() >= 30, process)
    workers = [p for p, words in descendants(process.pid).items() if "archives.worker" in words]
    kill(workers[0])
    said = process.communicate(timeout=240)[1]
    assert process.returncode == 0, said
    assert s3.were_cut == 5 and s3.were_refused > 0
    written = {f"{folder}/{name}" for folder in "0123" for name in store.names(folder)}
    assert written == set(names)
    assert all(store.read(name) == calm[name] for name in names)
    assert main(["verify", target]) == 0
    assert not store.system.find(f"{store.root}/_archive/journals")


def test_the_network_is_away_while_networks_run(s3, tmp_path):
    rng, sent, expected = np.random.default_rng(0), open_store("s3://bucket/in"), {}
    restorer = Restorer(None, RestoreOptions(engine="jax", size="fast", trial=False))
    for number in range(12):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 7, 3), np.uint8))
        buffer = io.BytesIO()
        picture = coarse.resize((120, 100 + number), Image.Resampling.BICUBIC)
        picture.save(buffer, "JPEG", quality=10)
        sent.publish(f"{number:02}.jpg", buffer.getvalue())
        expected[f"{number:02}.png"] = restorer(jpeg.read(buffer.getvalue())).pixels
    arguments = ["--engine", "jax", "--size", "fast", "--no-trial", "-q"]
    assert main(["plan", "s3://bucket/in", "s3://bucket/out", *arguments]) == 0
    process = start("s3://bucket/out", "--driver", "processes", "--workers", "1")
    store = open_store("s3://bucket/out")
    assert wait_for(lambda: len(store.names("")) >= 2, process)
    s3.away = True
    time.sleep(4)
    s3.away = False
    said = process.communicate(timeout=240)[1]
    assert process.returncode == 0, said
    assert s3.were_refused > 0
    assert sorted(store.names("")) == sorted(expected)
    for name, pixels in expected.items():
        result = np.asarray(Image.open(io.BytesIO(store.read(name))))
        np.testing.assert_array_equal(result, pixels)
    assert [record.status for record in read_report(store, 0)] == ["restored"] * 12
