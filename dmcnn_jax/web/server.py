"""The local page: drop a JPEG file, compare, download. Loopback only, nothing is stored.

    dmcnn-restore --serve

Starlette and uvicorn speak HTTP (`pip install "dmcnn-jax[serve]"`). An upload stays in memory, is
restored when its turn comes, and is discarded after the answer. The answer is one response: lines
of JSON while the upload waits and is restored, then the PNG file. So there are no jobs to store,
and when a browser goes away, its work is cancelled. One that sends or reads too slowly is sent away
(`dmcnn_jax.web.slow_clients`).

Other users' programs and other sites' pages are kept out as far as loopback allows: the server
listens on loopback addresses only, answers only requests whose Host header names one (which DNS
rebinding can't forge), and refuses those that a page of another origin makes.
"""

import asyncio
import html
import io
import ipaddress
import json
import logging
import socket
from collections.abc import AsyncIterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from PIL import Image

from dmcnn_jax.web import page
from dmcnn_jax.web.restore_queue import Place, RestoreQueue
from dmcnn_jax.web.upload import Restore, explain

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
    from starlette.routing import Route

    from dmcnn_jax.web import slow_clients
except ModuleNotFoundError as error:
    raise ImportError(
        f'--serve needs {error.name}, which is not installed: pip install "dmcnn-jax[serve]"'
    ) from error

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BYTES = 64_000_000
"""Default size of the largest upload, bytes."""

WAITING = 4
"""Default number of pictures that may be sent or wait besides the one that is restored."""

_LOG = logging.getLogger(__name__)

# Seconds between lines on the progress.
_PROGRESS_INTERVAL = 0.2

# The PNG file is sent in pieces of this size, bytes.
_CHUNK = 2**18


def serve(
    restore: Restore,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    max_bytes: int = MAX_BYTES,
    waiting: int = WAITING,
) -> None:
    """Serves the page until it is interrupted.

    Args:
        restore: restores an upload; see `dmcnn_jax.web.upload.upload_restorer`.
        host: a loopback address.
        port: TCP port; 0 takes any free one.
        max_bytes: size of the largest upload.
        waiting: how many pictures may be sent or wait besides the one that is restored.

    Raises:
        ValueError: if the host is not a loopback address.
        OSError: if the port is taken.
    """
    server = Server(restore, host, port, max_bytes=max_bytes, waiting=waiting)
    print(
        f"dmcnn-restore: open {server.url} in a browser on this computer; Ctrl-C stops the server",
        flush=True,
    )
    try:
        server.run()
    except KeyboardInterrupt:
        print("dmcnn-restore: the server has stopped")


class Server:
    """The page's server; arguments and errors are those of `serve`.

    It takes its port when it is made, so that its address is known from then on.

    Attributes:
        url: address of the page.
    """

    def __init__(
        self,
        restore: Restore,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        max_bytes: int = MAX_BYTES,
        waiting: int = WAITING,
    ) -> None:
        address = _loopback(host)
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        self._socket = socket.socket(family)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((str(address), port))
            self._socket.listen()
        except OSError as error:
            self._socket.close()
            raise OSError(f"can't listen on {host}, port {port}: {error.strerror}") from None
        name = f"[{address}]" if address.version == 6 else str(address)
        self.url = f"http://{name}:{self._socket.getsockname()[1]}/"
        config = uvicorn.Config(
            application(restore, max_bytes=max_bytes, waiting=waiting),
            http=slow_clients.LimitedProtocol,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=64,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)

    def run(self) -> None:
        """Serves until it is interrupted, or stopped from another thread."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Makes `run` return."""
        self._server.should_exit = True


def application(
    restore: Restore, *, max_bytes: int = MAX_BYTES, waiting: int = WAITING
) -> "Starlette":
    """Returns the page as an ASGI application; arguments are those of `serve`."""
    text, policy = _page(max_bytes)

    async def show(_: Request) -> HTMLResponse:
        return HTMLResponse(text)

    app = Starlette(
        routes=[
            Route("/", show),
            Route("/restore", _Endpoint(restore, max_bytes, waiting), methods=["POST"]),
        ]
    )
    app.add_middleware(_Guard, policy=f"{policy}; frame-ancestors 'none'")
    return app


def _page(max_bytes: int) -> tuple[str, str]:
    """Returns the page's HTML, and its Content-Security-Policy."""
    body = page.part("serve.html")
    for key, value in {
        "limit": f"{max_bytes / 1e6:.0f} MB",
        "limits": json.dumps({"bytes": max_bytes}),
        "turned": _turned_png(),
    }.items():
        body = body.replace(f"{{{{{key}}}}}", html.escape(value))
    return page.page(
        "Restore a JPEG",
        body,
        ("base", "compare", "serve"),
        img_src="blob: data:",
        connect_src="'self'",
    )


def _turned_png() -> str:
    """Returns a picture of 2 × 1 pixels that its EXIF data turn, to test what the browser does."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # orientation
    Image.new("L", (2, 1)).save(buffer, "PNG", exif=exif)
    return page.data_uri("png", buffer.getvalue())


class _Endpoint:
    """POST a JPEG file, as an ASGI application.

    The answer is lines of JSON: {"waiting": pictures before it, "done": share} repeatedly, then
    {"error": …}, or {"bytes": length, "info": …} and the PNG file itself.
    """

    def __init__(self, restore: Restore, max_bytes: int, waiting: int) -> None:
        self._queue = RestoreQueue(restore, waiting + 1)
        self._max_bytes = max_bytes

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        request = Request(scope, receive)
        with self._queue.place() as place:
            response: Response | None
            if place is None:
                response = _refuse(
                    503, f"{self._queue.places} pictures are waiting already; try again later"
                )
            else:
                response = await self._answer(request, place)
            if response:
                await response(scope, receive, send)

    async def _answer(self, request: Request, place: Place) -> "Response | None":
        """Receives the upload and returns the response; None if the browser has gone."""
        try:
            data = await self._receive(request)
        except ClientDisconnect:
            return None
        except TimeoutError:
            return _refuse(408, "the file arrived too slowly; try again")
        if data is None:
            return _refuse(413, f"too large; expected up to {self._max_bytes / 1e6:.0f} MB")
        return StreamingResponse(self._lines(place, data), media_type="application/octet-stream")

    async def _receive(self, request: Request) -> bytes | None:
        """Returns the upload, None if it is too large; raises a TimeoutError if it is too slow."""
        if int(request.headers.get("content-length", 0)) > self._max_bytes:
            return None
        data = bytearray()
        async with asyncio.timeout(slow_clients.TRANSFER_SECONDS):
            chunks = request.stream()
            while chunk := await asyncio.wait_for(anext(chunks), slow_clients.STALL_SECONDS):
                data += chunk
                if len(data) > self._max_bytes:
                    return None
        return bytes(data)

    async def _lines(self, place: Place, data: bytes) -> AsyncIterator[bytes]:
        work = asyncio.wrap_future(place.submit(data))
        del data
        try:
            while not work.done():
                yield _line({"waiting": place.before(), "done": round(place.done, 4)})
                await asyncio.wait([work], timeout=_PROGRESS_INTERVAL)
        finally:
            # Has no effect unless the browser has gone.
            work.cancel()
        try:
            png, info = work.result()
        except (ValueError, OSError) as error:
            yield _line({"error": explain(error)})
        except MemoryError:
            yield _line({"error": "not enough memory for a picture of this size"})
        except Exception as error:
            _LOG.error("restoring failed", exc_info=error)
            text = f"the program failed with {type(error).__name__}; see its terminal"
            yield _line({"error": text})
        else:
            yield _line({"bytes": len(png), "info": info})
            for start in range(0, len(png), _CHUNK):
                yield png[start : start + _CHUNK]


class _Guard:
    """Middleware: refuses requests that don't come from the page itself, and sets headers."""

    def __init__(self, app: "ASGIApp", policy: str) -> None:
        self._app = app
        self._headers = {
            "content-security-policy": policy,
            "cache-control": "no-store",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
        }

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    *((key.encode(), value.encode()) for key, value in self._headers.items()),
                ]
            await send(message)

        refusal = self._refusal(Request(scope))
        app = PlainTextResponse(refusal + "\n", 403) if refusal else self._app
        await app(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> str:
        """Returns why a request is refused; "" if it isn't."""
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not _is_loopback(hosts[0]):
            return "this page is for its own computer: expected a loopback address as the host"
        origin = request.headers.get("origin")
        site = request.headers.get("sec-fetch-site", "none")
        foreign = origin not in (None, f"http://{hosts[0]}") or (
            site not in ("none", "same-origin") and request.method != "GET"
        )
        return "this page takes no requests from pages of other origins" if foreign else ""


def _loopback(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Parses a host as a loopback address; raises a ValueError if it is something else."""
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise ValueError(
            f"host is {host!r}; expected a loopback address such as 127.0.0.1 (to reach the page "
            "from another computer, use ssh -L)"
        )
    return address


def _is_loopback(host: str) -> bool:
    """Returns whether a Host header names loopback, at any port: tunnels change the port."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, ""
    if not (port.isascii() and port.isdigit()) and port:
        return False
    try:
        _loopback(name[1:-1] if name.startswith("[") and name.endswith("]") else name.lower())
    except ValueError:
        return False
    return True


def _refuse(status: int, text: str) -> JSONResponse:
    # The connection is closed, so that the rest of the upload is not read.
    return JSONResponse({"error": text}, status, headers={"connection": "close"})


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
