"""The page under a thousand requests of clients that are slow, broken, rude or many."""

import collections
import io
import random
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the serve extra is not installed")
pytest.importorskip("uvicorn", reason="the serve extra is not installed")

from dmcnn_jax.web import server, slow_clients
from dmcnn_jax.web.upload import Restored

REQUESTS, CLIENTS = 1_000, 16
KINDS = ("whole", "cut", "leaves", "junk", "half a header", "resets", "trickles")
PNG = b"\x89PNG" + bytes(1000)


def restore(data, choices, preview, progress):
    for _ in range(3):
        progress(1 / 3)
        time.sleep(0.002)
    return Restored(PNG, {"output": "a.png", "status": "restored"})


@pytest.mark.slow
def test_a_thousand_requests_leave_nothing_behind(monkeypatch, caplog):
    monkeypatch.setattr(slow_clients, "STALL_SECONDS", 2.0)
    page = server.Server(restore)
    thread = threading.Thread(target=page.run)
    thread.start()
    try:
        address = urlsplit(page.url)
        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = pool.map(lambda seed: ask(address, random.Random(seed)), range(REQUESTS))
            counts = collections.Counter(answers)
        print(*(f"{kind}: {answer}: {count}" for (kind, answer), count in sorted(counts.items())))
        # Every whole request has an answer: the picture, or that all places are taken.
        assert {answer for kind, answer in counts if kind == "whole"} <= {"200", "503"}
        assert counts["whole", "200"] > 0
        assert {answer for kind, answer in counts if kind == "junk"} <= {"400", "closed"}
        until = time.monotonic() + 20
        while ask(address, random.Random(), "whole") != ("whole", "200"):
            assert time.monotonic() < until
        time.sleep(3 * slow_clients.STALL_SECONDS)
        with socket.create_connection((address.hostname, address.port)) as last:
            last.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert last.recv(12) == b"HTTP/1.1 200"
    finally:
        page.stop()
        thread.join(20)
    assert not thread.is_alive()
    assert not [record for record in caplog.records if record.exc_info]


def ask(address, rng, kind=None):
    """Makes a request of a kind, a random one if none is given; returns kind and answer."""
    kind = kind or rng.choice(KINDS)
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG")
    body = file.getvalue()
    head = b"POST /restore HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    answer = b""
    try:
        with socket.create_connection((address.hostname, address.port), timeout=20) as client:
            if kind == "whole":
                client.sendall(head + body)
                while part := client.recv(65536):
                    answer += part
                assert b" 503 " in answer[:20] or PNG in answer  # in one chunk
            elif kind == "cut":
                client.sendall(head + body[: rng.randrange(len(body))])
            elif kind == "leaves":
                client.sendall(head + body)
                client.recv(10)
            elif kind == "junk":
                client.sendall(rng.randbytes(300) + b"\r\n\r\n")
                answer = client.recv(100)
            elif kind == "half a header":
                client.sendall(head[: rng.randrange(len(head) - 4)])
            elif kind == "resets":
                client.sendall(head + body)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                for place in range(0, 60, 6):
                    client.sendall(head[place : place + 6])
                    time.sleep(0.01)
    except ConnectionError:
        return kind, "closed"
    return kind, answer[9:12].decode(errors="replace") or "closed"
