"""The page that restores: what its server answers to whom, and what a browser makes of it."""

import contextlib
import http.client
import importlib.util
import io
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
from browsers import chromium, phone, pixels, preferring, unnamed, weakest_contrast
from PIL import Image

pytest.importorskip("starlette", reason="the serve extra is not installed")
pytest.importorskip("uvicorn", reason="the serve extra is not installed")

from dmcnn_jax import jpeg
from dmcnn_jax.jpeg import entropy
from dmcnn_jax.restoration.coefficient_check import CoefficientTally
from dmcnn_jax.web import server as serve
from dmcnn_jax.web import slow_clients, upload
from dmcnn_jax.web.upload import upload_restorer

LIMIT = 200_000


class Fake:
    """Restores by inverting, in four steps, when it is let."""

    def __init__(self):
        self.calls, self.running, self.most, self.given_up = 0, 0, 0, 0
        self.go = threading.Event()
        self.go.set()

    def __call__(self, data, progress):
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
            return inverted(data)
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
    status, headers, content = ask(server, "POST", "/restore", body, **options)
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
    assert lines[-1] == {"error": "not a JPEG file; expected one"} and png == b""


def test_a_crash_says_no_secrets_and_ends_nothing(server, caplog):
    _, _, lines, _ = post(server, b"crash")
    assert "KeyError" in lines[-1]["error"] and "secret" not in lines[-1]["error"]
    assert "secret" in caplog.text
    assert post(server, jpeg_bytes())[0] == 200


def test_one_at_a_time_in_order_and_no_more_than_may_wait(server, fake):
    fake.go.clear()
    answers = [connect(server) for _ in range(2)]
    for n, connection in enumerate(answers):
        connection.request("POST", "/restore", jpeg_bytes(50 + n))
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
        connection.request("POST", "/restore", jpeg_bytes())
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

    with running(lambda data, progress: (png, {}), waiting=0) as server:
        deaf = connect(server)
        deaf.request("POST", "/restore", b"")
        eventually(lambda: ask(server, "POST", "/restore", b"")[0] == 200)


def test_reading_ends_when_its_sender_goes(rng):
    """It went on for as long as it took: minutes for a file with hundreds of scans."""
    jpeg.read(jpeg_bytes())  # starts libjpeg's process
    os.kill(entropy.worker.process.pid, signal.SIGSTOP)  # it answers no more
    restored = SimpleNamespace(
        pixels=np.zeros((48, 64), np.uint8), models=(), quality=90, luma_tally=None, notes=()
    )
    restore = upload_restorer(lambda file, progress: restored)
    with running(restore, waiting=0) as server:
        gone = connect(server)
        gone.request("POST", "/restore", jpeg_bytes())
        gone.getresponse().readline()
        gone.close()
        gone.sock = None
        start = time.monotonic()
        eventually(lambda: post(server, jpeg_bytes())[0] == 200)
        assert time.monotonic() - start < entropy.TIME_LIMIT / 2


def test_a_restoration_has_a_time_limit(monkeypatch):
    monkeypatch.setattr(upload, "SECONDS", -1.0)
    restore = upload_restorer(lambda file, progress: progress(0.5), seconds_per_pixel=0)
    with pytest.raises(TimeoutError, match="not restored within -1 s, the limit of this page"):
        restore(jpeg_bytes(), lambda share: None)


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
        serve.Server(lambda data, progress: None, host)


def test_a_port_that_is_taken(server):
    with pytest.raises(OSError, match=r"can't listen on 127\.0\.0\.1"):
        serve.serve(lambda data, progress: None, port=urlsplit(server.url).port)


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    spec = importlib.util.find_spec("dmcnn_jax.web.server")
    with pytest.raises(ImportError, match=r"pip install \"dmcnn-jax\[serve\]\""):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_a_restorer_from_file_to_file(rng):
    restored = rng.integers(0, 256, (48, 64, 3), np.uint8)
    shares = []

    def restorer(file, progress):
        progress(1.0)
        return SimpleNamespace(
            pixels=restored,
            models=("tiny", "other", "other"),
            quality=90,
            luma_tally=CoefficientTally(1, 1, 64, 63),
            notes=("a", "b"),
        )

    restore = upload_restorer(restorer, max_pixels=48 * 64)
    png, info = restore(jpeg_bytes(orientation=6), shares.append)
    image = Image.open(io.BytesIO(png))
    np.testing.assert_array_equal(np.asarray(image), restored)
    assert image.getexif()[0x0112] == info["orientation"] == 6 and sum(shares) == 1.0
    assert (info["width"], info["height"]) == (64, 48)
    about = info["about"]
    assert (
        about["Model"] == "tiny, other"
        and about["Notes"] == "a; b"
        and "63 of the file's 64" in about["Kept"]
    )
    for data, reason in ((png, "PNG"), (jpeg_bytes(size=(49, 64)), "pixels"), (b"", "empty")):
        with pytest.raises(ValueError, match=reason):
            restore(data, shares.append)


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


def choose(driver, path, data):
    path.write_bytes(data)
    find(driver, "#file").send_keys(str(path))


def shown(driver):
    eventually(lambda: find(driver, "#result").is_displayed())
    picture = pixels(find(driver, ".stage")).astype(int)
    return picture[-4, 20].mean(), picture[-4, -7].mean()


def downloaded(driver):
    link = find(driver, "#download")
    content = driver.execute_async_script(
        "const done = arguments[1];"
        "const image = new Image();"
        "image.onload = () => done([image.naturalWidth, image.naturalHeight]);"
        "image.src = arguments[0].href;",
        link,
    )
    return link.get_attribute("download"), content


def test_a_file_that_is_chosen_is_shown_and_offered(opened, tmp_path):
    choose(opened, tmp_path / "my photo.v2.jpg", jpeg_bytes(level=40))
    left, right = shown(opened)
    assert left == pytest.approx(40, abs=2) or left == pytest.approx(90, abs=2)
    assert right == pytest.approx(215, abs=2)
    assert downloaded(opened) == ("my photo.v2-restored.png", [64, 48])
    # What the program says is text.
    assert "inverse <b>" in find(opened, "#info").text
    assert find(opened, "#name").text == "my photo.v2.jpg"
    assert unnamed(opened) == []
    assert weakest_contrast(opened) >= 4.5
    with preferring(opened, color_scheme="dark"):
        assert weakest_contrast(opened) >= 4.5


def test_a_file_that_is_dropped(opened):
    data = list(jpeg_bytes())
    opened.execute_script(
        "const transfer = new DataTransfer();"
        "transfer.items.add(new File([new Uint8Array(arguments[0])], 'd.jpg'));"
        "document.body.dispatchEvent("
        "new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}))",
        data,
    )
    shown(opened)
    assert find(opened, "#name").text == "d.jpg"


def test_both_pictures_are_turned_alike(opened, tmp_path):
    choose(opened, tmp_path / "turned.jpg", jpeg_bytes(orientation=6))
    shown(opened)
    sizes = opened.execute_script(
        "return [...document.querySelectorAll('img')].map((i) => [i.width, i.naturalWidth])"
    )
    assert sizes == [[48, 48], [48, 48]]
    assert not find(opened, "#unturned").is_displayed()


def test_what_went_wrong_is_said_once_and_the_next_file_goes(opened, tmp_path):
    problem = find(opened, "#problem")
    choose(opened, tmp_path / "x.jpg", b"no JPEG")
    eventually(problem.is_displayed)
    assert problem.text == "x.jpg: not a JPEG file; expected one"
    choose(opened, tmp_path / "large.jpg", bytes(LIMIT + 1))
    eventually(lambda: problem.text.startswith("large.jpg"))
    assert "expected up to 200 kB" in problem.text
    assert problem.get_attribute("role") == "alert"
    choose(opened, tmp_path / "y.jpg", jpeg_bytes())
    shown(opened)
    assert not problem.is_displayed()


def test_progress_is_shown_and_can_be_ended(opened, fake, tmp_path):
    fake.go.clear()
    choose(opened, tmp_path / "slow.jpg", jpeg_bytes())
    eventually(lambda: find(opened, "#state").text == "Restoring …")
    eventually(lambda: find(opened, "#progress").get_property("value") == 0.25)
    find(opened, "#cancel").click()
    eventually(lambda: fake.given_up == 1)
    assert not find(opened, "#working").is_displayed()
    assert opened.switch_to.active_element.get_attribute("id") == "file"
    assert not find(opened, "#problem").is_displayed()


def test_on_a_phone_it_fits(opened, tmp_path):
    with phone(opened):
        opened.refresh()
        choose(opened, tmp_path / "wide.jpg", jpeg_bytes(size=(64, 640)))
        shown(opened)
        assert opened.execute_script("return document.documentElement.scrollWidth") == 360
