"""The page that restores: what its server answers to whom, and what a browser makes of it."""

import contextlib
import html
import http.client
import importlib.util
import io
import json
import logging
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from urllib.parse import quote, unquote, urlsplit

import numpy as np
import pytest
from browsers import chromium, phone, pixels, preferring, unnamed, weakest_contrast
from PIL import Image
from test_decoded_pictures import compressed, decoded, photograph, stored

pytest.importorskip("starlette", reason="the serve extra is not installed")
pytest.importorskip("uvicorn", reason="the serve extra is not installed")

from dmcnn_jax import jpeg
from dmcnn_jax.jpeg import entropy
from dmcnn_jax.restoration.coefficient_check import CoefficientTally
from dmcnn_jax.restoration.options import RestoreOptions
from dmcnn_jax.restoration.results import Planes, Restoration
from dmcnn_jax.web import endpoint, slow_clients, upload
from dmcnn_jax.web import server as serve
from dmcnn_jax.web.choices import Choices, parse_choices
from dmcnn_jax.web.upload import Restored, UploadError, upload_restorer

LIMIT = 200_000


class Fake:
    """Restores by inverting, in four steps, when it is let."""

    def __init__(self):
        self.calls, self.running, self.most, self.given_up = 0, 0, 0, 0
        self.previews = False
        self.go = threading.Event()
        self.go.set()

    def __call__(self, data, choices, preview, progress):
        self.choices = choices
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if data == b"crash":
                raise KeyError("secret")
            if not data.startswith(b"\xff\xd8"):
                raise ValueError("upload: not a JPEG file;\nexpected one")
            for _ in range(4):
                progress(0.25)
                while not self.go.wait(0.02):
                    progress(0)
            png, info = inverted(data)
            report = {"input": choices.name, "output": choices.result_name, "status": "restored"}
            return Restored(png, report, info, png if preview and self.previews else b"")
        except BaseException as error:
            self.given_up += not isinstance(error, ValueError | KeyError)
            raise
        finally:
            self.running -= 1


def inverted(data):
    image = Image.open(io.BytesIO(data))
    exif, file = image.getexif(), io.BytesIO()
    Image.fromarray(255 - np.asarray(image)).save(file, "PNG", exif=exif)
    return file.getvalue(), {
        "width": image.width,
        "height": image.height,
        "orientation": exif.get(0x0112, 1),
        "about": {"Model": "inverse <b>", "Size": "small"},
    }


def jpeg_bytes(level=40, orientation=1, size=(48, 64)):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    pixels = np.full((*size, 3), level, np.uint8)
    pixels[:, : size[1] // 4] = 90
    Image.fromarray(pixels).save(file, "JPEG", quality=90, exif=exif)
    return file.getvalue()


@pytest.fixture
def fake():
    return Fake()


@pytest.fixture
def server(fake):
    with running(fake, max_bytes=LIMIT, waiting=1) as server:
        yield server
        fake.go.set()


@contextlib.contextmanager
def running(restore, **options):
    server = serve.Server(restore, **options)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(20)
    assert not thread.is_alive()


def connect(server):
    return http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)


def ask(server, method="GET", path="/", body=None, headers=(), host=None):
    """Status, headers and content of an answer, with the Host header given, or none at all."""
    connection = connect(server)
    connection.putrequest(method, path, skip_host=True)
    for name in [host] if isinstance(host, str) else (host or [urlsplit(server.url).netloc]):
        connection.putheader("Host", name)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    for key, value in dict(headers).items():
        connection.putheader(key, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, content


def messages(content):
    """Lines of an answer, and what follows them."""
    found = []
    while content:
        line, content = content.split(b"\n", 1)
        found.append(json.loads(line))
        if "bytes" in found[-1]:
            assert found[-1]["bytes"] == len(content)
            return found, content
    return found, b""


def post(server, body, **options):
    status, headers, content = ask(server, "POST", "/restore?report=progress", body, **options)
    return status, headers, *(messages(content) if status == 200 else ([json.loads(content)], b""))


def eventually(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_file_is_restored_and_told_of(server):
    data = jpeg_bytes()
    status, headers, lines, png = post(server, data)
    expected, info = inverted(data)
    assert status == 200 and png == expected
    assert lines[-1]["info"] == info
    assert "access-control-allow-origin" not in headers and headers["cache-control"] == "no-store"


def test_the_page_allows_itself_and_nothing_else(server):
    status, headers, content = ask(server)
    assert status == 200
    rules = dict(r.split(" ", 1) for r in headers["content-security-policy"].split("; "))
    assert rules["default-src"] == "'none'" and rules["frame-ancestors"] == "'none'"
    assert rules["connect-src"] == "'self'" and "unsafe" not in str(rules)
    assert headers["cache-control"] == "no-store" and headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert b"{{" not in content and b"http://" not in content and b"https://" not in content


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "0.0.0.0",
     "127.0.0.1@evil.example", "[::1].evil.example", "localhost:80:80", "192.168.0.1:8080",
     ["127.0.0.1", "evil.example"]],
)  # fmt: skip
def test_other_hosts_are_refused(server, fake, host):
    # As DNS rebinding sends them: to this address, by another name.
    assert ask(server, host=host)[0] in (400, 403)
    # Whoever sends two names is hung up on, perhaps before the answer has been read.
    with contextlib.suppress(*([ConnectionResetError] if isinstance(host, list) else [])):
        assert ask(server, "POST", "/restore", jpeg_bytes(), host=host)[0] in (400, 403)
    assert fake.calls == 0


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:1234", "127.0.0.1:80", "[::1]:5", "[::1]"]
)
def test_loopback_by_any_of_its_names_is_answered(server, host):
    assert ask(server, host=host)[0] == 200


def test_pages_of_other_origins_are_refused(server, fake):
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": server.url.rstrip("/").replace("http:", "https:")},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert ask(server, "POST", "/restore", jpeg_bytes(), headers)[0] == 403, headers
    status, headers, _ = ask(server, "OPTIONS", "/restore", headers={"Origin": "http://a.example"})
    assert status == 403 and not any("access-control" in name for name in headers)
    assert fake.calls == 0
    own = {"Origin": server.url.rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert post(server, jpeg_bytes(), headers=own)[0] == 200


def test_too_large_is_refused_before_it_is_restored(server, fake):
    for headers, body in (
        ({}, b"\xff\xd8" + bytes(LIMIT)),
        ({"Content-Length": str(10**12)}, None),
    ):
        status, _, (message,), _ = post(server, body, headers=headers)
        assert status == 413 and message == {"error": "too large; expected up to 0 MB"}
    connection = connect(server)
    connection.request("POST", "/restore", iter([bytes(LIMIT), b"x"]), encode_chunked=True,
                       headers={"Transfer-Encoding": "chunked"})  # fmt: skip
    assert connection.getresponse().status == 413
    connection.close()
    assert fake.calls == 0 and post(server, jpeg_bytes())[0] == 200


def test_what_it_cannot_read_is_one_clear_line(server):
    _, _, lines, png = post(server, b"\x89PNG")
    assert lines[-1] == {"error": "not a JPEG file; expected one", "status": 400} and png == b""


def test_a_crash_says_no_secrets_and_ends_nothing(server, caplog):
    _, _, lines, _ = post(server, b"crash")
    assert "KeyError" in lines[-1]["error"] and "secret" not in lines[-1]["error"]
    assert "secret" in caplog.text
    assert post(server, jpeg_bytes())[0] == 200


def test_one_at_a_time_in_order_and_no_more_than_may_wait(server, fake):
    fake.go.clear()
    answers = [connect(server) for _ in range(2)]
    for n, connection in enumerate(answers):
        connection.request("POST", "/restore?report=progress", jpeg_bytes(50 + n))
        # The first line comes at once.
        answer = connection.getresponse()
        assert json.loads(answer.readline())["waiting"] == n
        answers[n] = answer
    status, _, (message,), _ = post(server, jpeg_bytes())
    assert status == 503 and "try again" in message["error"]
    assert fake.calls == 1
    fake.go.set()
    for n, answer in enumerate(answers):
        lines, png = messages(answer.read())
        assert png == inverted(jpeg_bytes(50 + n))[0]
        done = [line["done"] for line in lines[:-1]]
        assert done == sorted(done)
    assert fake.most == 1 and fake.calls == 2


def test_who_goes_away_is_not_waited_for(server, fake):
    fake.go.clear()
    first, second = connect(server), connect(server)
    for connection in (first, second):
        connection.request("POST", "/restore?report=progress", jpeg_bytes())
        connection.getresponse().readline()
    second.sock.shutdown(socket.SHUT_RDWR)
    first.sock.shutdown(socket.SHUT_RDWR)
    eventually(lambda: fake.given_up == 1 and fake.running == 0)
    # The second was never begun; places are free again.
    fake.go.set()
    assert post(server, jpeg_bytes())[0] == 200
    assert fake.calls == 2


def test_an_upload_that_breaks_off_gives_its_place_back(server, fake):
    for _ in range(5):
        connection = connect(server)
        connection.putrequest("POST", "/restore")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"\xff\xd8")
        # The server may have refused it and closed already: the places before it are still taken.
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
    eventually(lambda: post(server, jpeg_bytes())[0] == 200)
    assert fake.calls == 1


def test_an_upload_that_stands_still_gives_its_place_back(server, fake, monkeypatch):
    monkeypatch.setattr(slow_clients, "STALL_SECONDS", 0.2)
    begun = [begin_upload(server) for _ in range(2)]
    for connection in begun:
        answer = connection.getresponse()
        assert answer.status == 408 and b"too slowly" in answer.read()
    assert post(server, jpeg_bytes())[0] == 200 and fake.calls == 1


def test_an_upload_that_trickles_is_ended(server, monkeypatch):
    monkeypatch.setattr(slow_clients, "TRANSFER_SECONDS", 0.3)
    connection = begin_upload(server)
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            connection.sock.sendall(b"x")
            time.sleep(0.01)
            if select.select([connection.sock], [], [], 0)[0]:
                break
    assert connection.getresponse().status == 408


def begin_upload(server):
    connection = connect(server)
    connection.putrequest("POST", "/restore")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"\xff\xd8")
    return connection


def test_unfinished_headers_are_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(slow_clients, "STALL_SECONDS", 0.2)
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as half:
        half.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        with contextlib.suppress(ConnectionError):
            assert half.recv(100) == b""


def test_who_does_not_read_gives_the_place_back(monkeypatch):
    monkeypatch.setattr(slow_clients, "TRANSFER_SECONDS", 0.2)
    monkeypatch.setattr(slow_clients, "STALL_SECONDS", 0.2)  # watches more often
    png = bytes(32 * 2**20)  # more than the buffers of a connection hold

    def restore(data, choices, preview, progress):
        return Restored(png, {"output": "a.png", "status": "restored"})

    with running(restore, waiting=0) as server:
        for path in ("/restore", "/restore?report=progress"):
            deaf = connect(server)
            deaf.request("POST", path, b"")
            eventually(lambda path=path: ask(server, "POST", path, b"")[0] == 200)


def test_who_reads_slowly_has_the_whole_answer(monkeypatch):
    """Its buffer, which was refilled before it was empty, was taken for one that nobody reads."""
    monkeypatch.setattr(slow_clients, "TRANSFER_SECONDS", 3.0)
    monkeypatch.setattr(slow_clients, "STALL_SECONDS", 0.2)  # watches more often
    png = bytes(48 * 2**20)

    def restore(data, choices, preview, progress):
        return Restored(png, {"output": "a.png", "status": "restored"})

    with running(restore) as server:
        slow = connect(server)
        slow.request("POST", "/restore", b"")
        answer, start, size = slow.getresponse(), time.monotonic(), 0
        while piece := answer.read(2**18):
            size += len(piece)
            time.sleep(0.025)
        assert size == len(png) and time.monotonic() - start > 4


def test_reading_ends_when_its_sender_goes(rng):
    """It went on for as long as it took: minutes for a file with hundreds of scans."""
    jpeg.read(jpeg_bytes())  # starts libjpeg's process
    os.kill(entropy.worker.process.pid, signal.SIGSTOP)  # it answers no more
    restore = upload_restorer(FakeRestorer(np.zeros((48, 64), np.uint8)))
    with running(restore, waiting=0) as server:
        gone = connect(server)
        gone.request("POST", "/restore?report=progress", jpeg_bytes())
        gone.getresponse().readline()
        gone.close()
        gone.sock = None
        start = time.monotonic()
        eventually(lambda: post(server, jpeg_bytes())[0] == 200)
        assert time.monotonic() - start < entropy.TIME_LIMIT / 2


def test_a_restoration_has_a_time_limit(monkeypatch):
    monkeypatch.setattr(upload, "SECONDS", -1.0)
    slow = FakeRestorer(np.zeros((48, 64), np.uint8))
    restore = upload_restorer(slow, seconds_per_pixel=0)
    with pytest.raises(UploadError, match="not restored within -1 s, the limit of this page"):
        restore(jpeg_bytes(), Choices(), False, lambda share: None)


def test_nothing_is_kept(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", None)
    with running(fake, max_bytes=10**7) as server:
        # Above what servers are wont to spool to disk.
        assert post(server, jpeg_bytes() + bytes(5 * 10**6))[0] == 200
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", ""])
def test_only_loopback_is_listened_on(host):
    with pytest.raises(ValueError, match="expected a loopback address"):
        serve.Server(lambda *arguments: None, host)


def test_a_port_that_is_taken(server):
    with pytest.raises(OSError, match=r"can't listen on 127\.0\.0\.1"):
        serve.serve(lambda *arguments: None, port=urlsplit(server.url).port)


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    spec = importlib.util.find_spec("dmcnn_jax.web.server")
    with pytest.raises(ImportError, match=r"pip install \"dmcnn-jax\[serve\]\""):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


class FakeRestorer:
    """A `Restorer` that makes one picture of all files."""

    def __init__(self, pixels):
        self.pixels, self.options = pixels, RestoreOptions()

    def with_options(self, options):
        self.options = options
        return self

    def restore_planes(self, file, progress):
        progress(1.0)
        models = ("tiny", "other", "other")[: len(file.components)]
        return Planes(file, models, (), (), ("a", "b"))

    def render(self, planes):
        pixels = self.pixels
        return Restoration(
            pixels=pixels if self.options.bits == 8 else pixels * np.uint16(257),
            models=planes.models,
            quality=90,
            luma_tally=CoefficientTally(1, 1, 64, 63),
            notes=planes.notes,
        )

    def render_jpeg(self, planes, options):
        raise ValueError(f"upload: {options.size} bytes are too few")


def test_a_restorer_from_file_to_file(rng):
    restored = rng.integers(0, 256, (48, 64, 3), np.uint8)
    shares = []
    restore = upload_restorer(FakeRestorer(restored), max_pixels=48 * 64)
    answer = restore(jpeg_bytes(orientation=6), Choices(name="a.jpg"), True, shares.append)
    image, info = Image.open(io.BytesIO(answer.data)), answer.shown
    np.testing.assert_array_equal(np.asarray(image), restored)
    assert image.getexif()[0x0112] == info["orientation"] == 6 and sum(shares) == 1.0
    assert (info["width"], info["height"]) == (64, 48) and answer.preview == b""
    about = info["about"]
    assert (
        about["Model"] == "tiny, other"
        and about["Notes"] == "a; b"
        and "63 of the file's 64" in about["Kept"]
    )
    report = answer.report
    assert (report["input"], report["output"]) == ("a.jpg", "a-restored.png")
    assert report["status"] == "restored" and report["luma_kept"]["kept"] == 63
    for data, status, reason in (
        (answer.data, 415, "PNG"),
        (jpeg_bytes(size=(49, 64)), 413, "pixels.*--max-pixels"),
        (b"", 400, "empty"),
        (jpeg_bytes()[:400], 400, "past the end of the file"),
    ):
        with pytest.raises(UploadError, match=reason) as raised:
            restore(data, Choices(), False, shares.append)
        assert raised.value.status == status


def test_a_png_copy_of_a_jpeg_goes_in_and_is_told_of_at_its_own_size():
    pixels = decoded(compressed(photograph(size=96).convert("L"), quality=30))[5:, 3:]
    # The blocks that cropping has cut are whole in what was recovered.
    restore = upload_restorer(FakeRestorer(np.zeros((96, 96), np.uint8)))
    answer = restore(stored(pixels), Choices(name="a.png"), False, lambda share: None)
    assert Image.open(io.BytesIO(answer.data)).size == (93, 91)
    assert (answer.shown["width"], answer.shown["height"]) == (93, 91)
    assert (answer.report["width"], answer.report["height"]) == (93, 91)
    assert answer.report["output"] == "a-restored.png"
    assert "93 × 91" in answer.shown["about"]["Size"]
    with pytest.raises(UploadError, match=r"not a JPEG file, so .*; choose PNG, TIFF or") as raised:
        restore(stored(pixels), parse_choices({"format": "jpeg"}), False, lambda share: None)
    assert raised.value.status == 422
    chosen = parse_choices({"format": "jpeg", "quality": "90"})
    written = restore(stored(pixels), chosen, False, lambda share: None)
    assert Image.open(io.BytesIO(written.data)).size == (93, 91)


def test_copies_are_limited_and_given_up(monkeypatch):
    restore = upload_restorer(FakeRestorer(np.zeros((96, 96), np.uint8)))
    data = stored(decoded(compressed(photograph(size=96).convert("L"), quality=30)))

    def leave(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(data, Choices(), False, leave)
    monkeypatch.setattr(upload, "MAX_COPY_PIXELS", 96 * 96 - 1)
    with pytest.raises(UploadError, match=r"at most 9215 in a picture that isn't a JPEG") as raised:
        restore(data, Choices(), False, lambda share: None)
    assert raised.value.status == 413


@pytest.mark.parametrize(
    ("mode", "size", "query", "message"),
    [
        ("CMYK", (64, 48), "format=png", "a CMYK file (four inks), which PNG can't hold"),
        ("CMYK", (64, 48), "format=webp", "a CMYK file (four inks), which WEBP can't hold"),
        ("RGB", (2**14, 16), "format=webp", "WEBP can't hold the picture: "),
        ("RGB", (2**14, 16), "format=webp&quality=90", "limit of 16383 pixels"),
    ],
)
def test_pictures_that_the_format_cannot_hold(mode, size, query, message):
    file = io.BytesIO()
    Image.new(mode, size).save(file, "JPEG")
    restorer = FakeRestorer(np.zeros((size[1], size[0], 3), np.uint8))
    with running(upload_restorer(restorer)) as server:
        status, _, content = ask(server, "POST", f"/restore?{query}", file.getvalue())
    assert status == 422 and message in json.loads(content)["error"]


def test_choices_of_a_request_are_kept(rng):
    pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
    restorer = FakeRestorer(pixels)
    restore = upload_restorer(restorer)

    def answer(preview=False, **query):
        answer = restore(jpeg_bytes(orientation=6), parse_choices(query), preview, lambda _: None)
        return answer, Image.open(io.BytesIO(answer.data))

    upright, image = answer(upright="1", strength="70%", format="webp", quality="90")
    assert restorer.options.strength == 0.7 and image.format == "WEBP" and image.size == (48, 64)
    assert (upright.shown["width"], upright.shown["height"]) == (48, 64)
    assert upright.shown["orientation"] == 1 and image.getexif().get(0x0112, 1) == 1
    tiff, image = answer(preview=True, format="tif", bits="16")
    assert restorer.options.bits == 16 and image.format == "TIFF"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(tiff.preview))), pixels)
    # What the server was started with is used where it can be.
    restorer.options = RestoreOptions(bits=16, strength=0.5)
    assert answer(format="webp")[1].format == "WEBP" and restorer.options.bits == 8
    assert restorer.options.strength == 0.5
    with pytest.raises(UploadError, match=r"^9 bytes are too few") as raised:
        answer(format="jpg", budget="9B")
    assert raised.value.status == 422


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"strenght": "1"}, "there is no parameter 'strenght'; did you mean strength?"),
        ({"strength": "1.5"}, "strength is '1.5'; expected a number from 0"),
        ({"strength": "nan"}, "strength is 'nan'; expected"),
        ({"bits": "12"}, "bits is '12'; expected 8 or 16"),
        ({"bits": "16", "format": "jpeg"}, "bits is 16, but JPEG files have 8 bits"),
        ({"format": "gif"}, "format is 'gif'; expected one of: png, jpeg, tiff, webp"),
        ({"quality": "0", "format": "webp"}, "quality is '0'; expected a number from 1"),
        ({"quality": "90"}, "a quality for PNG has no effect"),
        ({"budget": "1 cup", "format": "jpeg"}, "budget is '1 cup'; expected decibels"),
        ({"budget": "1MB"}, "expected format=jpeg without a quality"),
        ({"upright": "1", "format": "jpeg"}, "upright turns pixels"),
        ({"upright": "yes"}, "upright is 'yes'; expected 0 or 1"),
        ({"name": "a\nb"}, r"name is 'a\\nb'; expected the name"),
        ({"name": "a\u2028b"}, r"name is 'a\\u2028b'; expected the name"),
        ({"name": "a\x7f\ud800"}, r"name is 'a\\x7f\\ud800'; expected the name"),
    ],
)
def test_choices_that_make_no_sense(query, message):
    with pytest.raises(ValueError, match=r"^.{1,300}$") as raised:
        parse_choices(query)
    assert message.replace("\\\\", "\\") in str(raised.value)


# Programs


def test_a_file_goes_in_and_a_file_comes_out(server, fake):
    data = jpeg_bytes()
    path = "/restore?strength=0.7&bits=16&name=%C3%84%20%22photo%22.jpg"
    status, headers, content = ask(server, "POST", path, data)
    assert (status, content) == (200, inverted(data)[0])
    assert headers["content-type"] == "image/png" and headers["x-restoration"] == "restored"
    assert int(headers["content-length"]) == len(content)
    plain, full = headers["content-disposition"].split("; ")[1:]
    assert plain == 'filename="_ _photo_-restored.png"'
    assert unquote(full.removeprefix("filename*=UTF-8''")) == 'Ä "photo"-restored.png'
    assert (fake.choices.strength, fake.choices.bits) == (0.7, 16)


@pytest.mark.parametrize(
    "name",
    [
        "9.41.00\u202fAM",
        "写真\u30001",
        "a\u00a0b",
        "\U0001f468\u200d\U0001f469",
        "soft\u00adhyphen",
    ],
)
def test_names_may_have_spaces_and_joiners_of_any_script(server, name):
    path = f"/restore?name={quote(name)}.jpg"
    status, headers, _ = ask(server, "POST", path, jpeg_bytes())
    assert status == 200
    full = headers["content-disposition"].rpartition("filename*=UTF-8''")[2]
    assert unquote(full, errors="strict") == f"{name}-restored.png"
    report = json.loads(ask(server, "POST", f"{path}&report=json", jpeg_bytes())[2])
    assert (report["input"], report["output"]) == (f"{name}.jpg", f"{name}-restored.png")


@pytest.mark.parametrize("headers", [{}, {"Accept": "text/html, application/json;q=0.9"}])
def test_a_report_comes_out_on_demand(server, headers):
    path = "/restore" if headers else "/restore?report=json"
    status, answered, content = ask(server, "POST", path, jpeg_bytes(), headers)
    assert status == 200 and answered["content-type"] == "application/json"
    assert json.loads(content)["output"] == "restored.png"


@pytest.mark.parametrize(
    ("path", "headers", "body", "status", "message"),
    [
        ("/restore?bits=9", {}, b"\xff\xd8", 400, "bits is '9'; expected 8 or 16"),
        ("/restore?bits=8&bits=16", {}, b"\xff\xd8", 400, "a parameter is given twice"),
        ("/restore?report=xml", {}, b"\xff\xd8", 400, "report is not one of"),
        ("/restore", {"Content-Type": "multipart/form-data; boundary=x"}, b"--x", 415, "a form"),
        ("/restore", {}, b"no JPEG", 400, "not a JPEG file; expected one"),
        ("/restore", {}, b"crash", 500, "the program failed with KeyError"),
        ("/nothing", {}, b"", 404, "no such address"),
        ("/", {}, b"", 405, "POST /restore"),
    ],
)
def test_errors_are_a_status_and_one_line_of_json(server, path, headers, body, status, message):
    found, answered, content = ask(server, "POST", path, body, headers)
    assert found == status and answered["content-type"] == "application/json"
    (text,) = json.loads(content).values()
    assert message in text and "\n" not in text


def test_a_program_that_goes_away_is_not_waited_for(server, fake):
    fake.go.clear()
    gone = connect(server)
    gone.request("POST", "/restore", jpeg_bytes())
    eventually(lambda: fake.running == 1)
    gone.sock.shutdown(socket.SHUT_RDWR)
    eventually(lambda: fake.given_up == 1 and fake.running == 0)
    fake.go.set()
    assert ask(server, "POST", "/restore", jpeg_bytes())[0] == 200


def test_broken_requests_print_nothing(server, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "handlers", [caplog.handler])
    address = urlsplit(server.url)
    for request in (b"\x16\x03\x01\x1b[31m\r\n\r\n", b"GET / HTTP/1.1\r\nHost\r\n\r\n"):
        with socket.create_connection((address.hostname, address.port), timeout=20) as client:
            client.sendall(request)
            assert client.recv(100).startswith(b"HTTP/1.1 400")
    assert ask(server)[0] == 200
    assert caplog.records == []


# In a browser.


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def opened(browser, server):
    browser.get_log("browser")
    browser.get(server.url)
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def find(driver, css):
    return driver.find_element("css selector", css)


def choose(driver, *files):
    """Chooses files of given paths and contents, all at once."""
    for path, data in files:
        path.write_bytes(data)
    find(driver, "#file").send_keys("\n".join(str(path) for path, _ in files))


def shown(driver, css=".picture"):
    """The mean levels at the bottom left and right of the picture that is open."""
    eventually(lambda: driver.find_elements("css selector", f"{css} .stage"))
    picture = pixels(find(driver, f"{css} .stage")).astype(int)
    return picture[-4, 20].mean(), picture[-4, -7].mean()


def downloaded(driver):
    link = find(driver, ".download")
    content = driver.execute_async_script(
        "const done = arguments[1];"
        "const image = new Image();"
        "image.onload = () => done([image.naturalWidth, image.naturalHeight]);"
        "image.src = arguments[0].href;",
        link,
    )
    return link.get_attribute("download"), content


def states(driver):
    return [each.text for each in driver.find_elements("css selector", ".picture .state")]


def test_a_file_that_is_chosen_is_shown_and_offered(opened, tmp_path):
    choose(opened, (tmp_path / "my photo.v2.jpg", jpeg_bytes(level=40)))
    left, right = shown(opened)
    assert left == pytest.approx(40, abs=2) or left == pytest.approx(90, abs=2)
    assert right == pytest.approx(215, abs=2)
    assert downloaded(opened) == ("my photo.v2-restored.png", [64, 48])
    # What the program says is text.
    assert "inverse <b>" in find(opened, ".picture dl").text
    assert find(opened, ".picture h2").text == "my photo.v2.jpg"
    assert unnamed(opened) == []
    assert weakest_contrast(opened) >= 4.5
    with preferring(opened, color_scheme="dark"):
        assert weakest_contrast(opened) >= 4.5


def test_settings_are_sent_and_fit_the_file_type(opened, fake, tmp_path):
    set_value = (
        "arguments[0].value = arguments[1];"
        "arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
    )

    def settle(name, value):
        opened.execute_script(set_value, find(opened, f"#{name}"), value)

    settle("strength", "70")
    assert find(opened, "#percent").text == "70 %"
    settle("bits", "16")
    find(opened, "#upright").click()
    choose(opened, (tmp_path / "a.jpg", jpeg_bytes()))
    shown(opened)
    chosen = fake.choices
    assert (chosen.strength, chosen.bits, chosen.upright, chosen.name) == (0.7, 16, True, "a.jpg")
    settle("format", "jpeg")
    assert not find(opened, "#bits").is_enabled() and not find(opened, "#upright").is_enabled()
    find(opened, ".again").click()
    eventually(lambda: fake.choices.extension == ".jpg")
    assert (fake.choices.bits, fake.choices.upright) == (None, False)
    shown(opened)
    assert downloaded(opened)[0] == "a-restored.jpg"


@pytest.mark.parametrize(
    ("strength", "percent"), [(None, "100"), (0.55, "55"), (0.29, "29"), (0.123, "12.3")]
)
def test_the_strength_of_the_command_line_is_the_pages(browser, fake, tmp_path, strength, percent):
    with running(fake, defaults=Choices(strength=strength)) as server:
        defaults = re.search(rb'data-defaults="(.*?)"', ask(server)[2])[1].decode()
        assert str(json.loads(html.unescape(defaults))["strength"]).removesuffix(".0") == percent
        browser.get(server.url)
        assert find(browser, "#percent").text == f"{percent} %"
        choose(browser, (tmp_path / "a.jpg", jpeg_bytes()))
        shown(browser)
        assert fake.choices.strength == pytest.approx(float(percent) / 100, abs=1e-9)


def test_tiff_files_are_shown_by_their_preview(opened, fake, tmp_path):
    fake.previews = True
    opened.execute_script("document.getElementById('format').value = 'tiff'")
    choose(opened, (tmp_path / "a.jpg", jpeg_bytes(level=40)))
    assert shown(opened)[1] == pytest.approx(215, abs=2)
    assert find(opened, ".download").text.startswith("Download TIFF")


def test_files_that_are_dropped(opened):
    opened.execute_script(
        "const transfer = new DataTransfer();"
        "for (const name of ['d.jpg', 'e.jpg'])"
        "  transfer.items.add(new File([new Uint8Array(arguments[0])], name));"
        "document.body.dispatchEvent("
        "new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}))",
        list(jpeg_bytes()),
    )
    eventually(lambda: find(opened, "#count").text == "2 of 2 done")
    names = [each.text for each in opened.find_elements("css selector", ".picture h2")]
    assert names == ["d.jpg", "e.jpg"]


def test_both_pictures_are_turned_alike(opened, tmp_path):
    choose(opened, (tmp_path / "turned.jpg", jpeg_bytes(orientation=6)))
    shown(opened)
    sizes = opened.execute_script(
        "return [...document.querySelectorAll('img')].map((i) => [i.width, i.naturalWidth])"
    )
    assert sizes == [[48, 48], [48, 48]]
    assert not find(opened, ".unturned").is_displayed()


def test_each_of_several_files_has_its_own_result(opened, fake, tmp_path):
    fake.go.clear()
    files = [(tmp_path / f"{name}.jpg", jpeg_bytes()) for name in "ac"]
    bad = (tmp_path / "b.jpg", b"no JPEG")
    large = (tmp_path / "large.jpg", bytes(LIMIT + 1))
    choose(opened, files[0], bad, files[1], large)
    problem = find(opened, "#problem")
    assert problem.text == "large.jpg: 201 kB; expected up to 200 kB."
    assert problem.get_attribute("role") == "alert"
    eventually(lambda: states(opened)[0] == "Restoring: 25 %")
    assert states(opened)[1:] == ["Waits for its turn"] * 2 and fake.most == 1
    assert find(opened, ".picture progress").get_property("value") == 0.25
    fake.go.set()
    eventually(lambda: find(opened, "#count").text == "2 of 3 done, 1 not restored")
    cards = opened.find_elements("css selector", ".picture")
    assert [bool(card.find_elements("css selector", ".stage")) for card in cards] == [
        *(True, False, False)
    ]
    assert find(cards[1], ".problem").text == "not a JPEG file; expected one"
    # A second one is looked at, and closed again.
    for is_open in (True, False):
        find(cards[2], ".compare").click()
        eventually(lambda open=is_open: open == bool(
            cards[2].find_elements("css selector", ".stage")
        ))  # fmt: skip
        assert find(cards[2], ".compare").get_attribute("aria-expanded") == str(is_open).lower()
    assert unnamed(opened) == []
    find(cards[1], ".remove").click()
    assert find(opened, "#count").text == "2 of 2 done"
    find(opened, "#remove-all").click()
    assert not opened.find_elements("css selector", ".picture")


def test_progress_is_shown_and_can_be_ended(opened, fake, tmp_path):
    fake.go.clear()
    choose(opened, (tmp_path / "slow.jpg", jpeg_bytes()))
    eventually(lambda: states(opened) == ["Restoring: 25 %"])
    find(opened, ".cancel").click()
    eventually(lambda: fake.given_up == 1)
    assert states(opened) == ["Cancelled"]
    assert not find(opened, "progress").is_displayed()
    assert "again" in opened.switch_to.active_element.get_attribute("class")
    fake.go.set()
    find(opened, ".again").click()
    shown(opened)


def test_a_busy_program_is_asked_again(opened, fake, server, tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "RETRY_AFTER", 1)
    fake.go.clear()
    others = [connect(server) for _ in range(2)]
    for other in others:
        other.request("POST", "/restore", jpeg_bytes())
    eventually(lambda: ask(server, "POST", "/restore", b"")[0] == 503)
    choose(opened, (tmp_path / "a.jpg", jpeg_bytes()))
    eventually(lambda: states(opened) == ["Waits: the program is busy"])
    fake.go.set()
    shown(opened)
    opened.get_log("browser")  # Chromium notes each answer of 503


def test_on_a_phone_it_fits(opened, tmp_path):
    with phone(opened):
        opened.refresh()
        wide = jpeg_bytes(size=(64, 640))
        choose(opened, (tmp_path / "wide.jpg", wide), (tmp_path / f"{'long' * 30}.jpg", wide))
        shown(opened)
        eventually(lambda: find(opened, "#count").text == "2 of 2 done")
        assert opened.execute_script("return document.documentElement.scrollWidth") == 360
