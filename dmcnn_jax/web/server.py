"""A page of one's own: drop a JPEG, compare, download. Loopback only, nothing kept.

    dmcnn-restore --serve

Starlette and uvicorn speak HTTP (`pip install "dmcnn-jax[serve]"`). An upload stays in memory, is
restored when it is its turn, and is forgotten with the answer, which comes in one response: lines
of JSON while it waits and works, then the PNG. So there are no jobs to keep, and a browser that
goes away takes its work with it.

Programs of other users and pages of other sites are kept out as far as loopback can: only loopback
addresses are listened on, only requests that name one as their host are answered (which DNS
rebinding can't), and those that a page of another origin makes are refused.
"""

import asyncio
import html
import io
import ipaddress
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dmcnn_jax import jpeg
from dmcnn_jax.images import formats
from dmcnn_jax.web import page

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
    from starlette.routing import Route
except ModuleNotFoundError as error:
    raise ImportError(
        f'--serve needs {error.name}, which is not installed: pip install "dmcnn-jax[serve]"'
    ) from error

if TYPE_CHECKING:
    from dmcnn_jax.restoration.restorer import Restorer

MAX_BYTES = 64_000_000
"""How large an upload may be by default."""

WAITING = 4
"""How many pictures may be sent or wait by default, besides the one that is restored."""

Restore = Callable[[bytes, Callable[[float], None]], tuple[bytes, Mapping[str, Any]]]
"""What a page restores with: a JPEG file's bytes, and a function to be told the share of the work
that was done since it was last told → a PNG file's bytes, and what there is to say:

- "width", "height": of the PNG, as stored, pixels
- "orientation": how to turn it, as EXIF says, 1 (not at all) to 8
- "about": {label: text}, shown below it

It runs in a thread, one call at a time. A ValueError or OSError is shown to who sent the file. An
exception out of the function that it tells means that nobody wants the picture any more.
"""


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
        restore: what to restore with; see `restoring`.
        host: a loopback address.
        port: where to listen; 0: any that is free.
        max_bytes: the largest upload.
        waiting: how many pictures may be sent or wait, besides the one that is restored.

    Raises:
        ValueError: if the host is no loopback address.
        OSError: if the port is taken.
    """
    server = Server(restore, host, port, max_bytes=max_bytes, waiting=waiting)
    about = "is the page, for this computer only; Ctrl-C ends it"
    print(f"dmcnn-restore: {server.url} {about}", flush=True)
    try:
        server.run()
    except KeyboardInterrupt:
        print("dmcnn-restore: the page has ended")


class Server:
    """The page's server; arguments and errors are those of `serve`.

    It holds its port, and so knows its address, from the start.

    Attributes:
        url: of the page.
    """

    def __init__(
        self,
        restore: Restore,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        max_bytes: int = MAX_BYTES,
        waiting: int = WAITING,
    ):
        address = _loopback(host)
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        self._socket = socket.socket(family)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((str(address), port))
            # From here on, the port is no one else's.
            self._socket.listen()
        except OSError as error:
            self._socket.close()
            raise OSError(f"can't listen on {host}, port {port}: {error.strerror}") from None
        name = f"[{address}]" if address.version == 6 else str(address)
        self.url = f"http://{name}:{self._socket.getsockname()[1]}/"
        config = uvicorn.Config(
            application(restore, max_bytes=max_bytes, waiting=waiting),
            http="h11",
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
        """Ends `run`."""
        self._server.should_exit = True


def application(
    restore: Restore, *, max_bytes: int = MAX_BYTES, waiting: int = WAITING
) -> "Starlette":
    """The page as an ASGI application; arguments as of `serve`."""
    limits = {"bytes": max_bytes}
    body = page.part("serve.html")
    for key, value in {
        "limit": f"{max_bytes / 1e6:.0f} MB",
        "limits": json.dumps(limits),
        "turned": _turned_png(),
    }.items():
        body = body.replace(f"{{{{{key}}}}}", html.escape(value))
    text, policy = page.page(
        "Restore a JPEG",
        body,
        ("base", "compare", "serve"),
        img_src="blob: data:",
        connect_src="'self'",
    )

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


def restoring(
    restorer: "Restorer", *, max_pixels: int = jpeg.MAX_PIXELS, allow_truncated: bool = False
) -> Restore:
    """What to `serve`: a `dmcnn_jax.restoration.restorer.Restorer` from file to file.

    Args:
        restorer: what restores.
        max_pixels: the largest picture.
        allow_truncated: whether damaged files are restored as far as they go.
    """

    def restore(data: bytes, progress: Callable[[float], None]) -> tuple[bytes, dict[str, Any]]:
        start = time.perf_counter()
        file = jpeg.read(data, max_pixels=max_pixels, allow_truncated=allow_truncated, name=_NAME)
        result = restorer(file, progress)
        buffer = io.BytesIO()
        bits = 16 if result.pixels.dtype == np.uint16 else 8
        style = formats.output_format(".png", bits=bits)
        remarks = formats.write(buffer, result.pixels, file.metadata, style)
        about = {
            "Size": f"{file.width} × {file.height} pixels",
            "Compressed": f"about as at quality {result.quality}",
            "Model": result.model or "none: as decoded",
        }
        if result.luma_tally is not None:
            kept, count = result.luma_tally.kept, result.luma_tally.coefficients
            about["Kept"] = f"{kept:,} of the file's {count:,} luma coefficients"
        if notes := [*result.notes, *remarks]:
            about["Notes"] = "; ".join(notes)
        about["Time"] = f"{time.perf_counter() - start:.1f} s"
        return buffer.getvalue(), {
            "width": file.width,
            "height": file.height,
            "orientation": file.metadata.orientation,
            "about": about,
        }

    return restore


_LOG = logging.getLogger(__name__)

# What files are called in messages, to be taken out again: the browser knows their names.
_NAME = "upload"

# Seconds between the lines that say how it goes.
_BEAT = 0.2

_CHUNK = 2**18


class _Endpoint:
    """POST a JPEG file: how it goes and what became of it, as ASGI.

    The answer is lines of JSON: {"waiting": pictures before it, "done": share} over and over, then
    {"error": …}, or {"bytes": length, "info": …} and the PNG file itself.
    """

    def __init__(self, restore: Restore, max_bytes: int, waiting: int):
        self._queue = _Queue(restore, waiting + 1)
        self._max_bytes = max_bytes

    async def __call__(self, scope, receive, send) -> None:
        request = Request(scope, receive)
        with self._queue.place() as place:
            if place is None:
                response = _refuse(
                    503, f"{self._queue.places} pictures are waiting already; try again in a while"
                )
            else:
                response = await self._answer(request, place)
            if response:
                await response(scope, receive, send)

    async def _answer(self, request: Request, place: "_Place"):
        data = bytearray()
        try:
            if int(request.headers.get("content-length", 0)) <= self._max_bytes:
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > self._max_bytes:
                        break
                else:
                    return StreamingResponse(
                        self._lines(place, bytes(data)), media_type="application/octet-stream"
                    )
        except ClientDisconnect:
            return None
        return _refuse(413, f"too large; expected up to {self._max_bytes / 1e6:.0f} MB")

    async def _lines(self, place: "_Place", data: bytes) -> AsyncIterator[bytes]:
        work = asyncio.wrap_future(place.begin(data))
        del data
        try:
            while not work.done():
                yield _line({"waiting": place.before(), "done": round(place.done, 4)})
                await asyncio.wait([work], timeout=_BEAT)
        finally:
            # Of no effect unless the browser has gone.
            work.cancel()
        try:
            png, info = work.result()
        except (ValueError, OSError) as error:
            yield _line({"error": _explain(error)})
        except MemoryError:
            yield _line({"error": "not enough memory for a picture of this size"})
        except Exception as error:
            _LOG.error("restoring failed", exc_info=error)
            text = f"the program failed with {type(error).__name__}; its terminal says more"
            yield _line({"error": text})
        else:
            yield _line({"bytes": len(png), "info": info})
            for start in range(0, len(png), _CHUNK):
                yield png[start : start + _CHUNK]


class _Queue:
    """One restoration at a time, in the order in which their uploads ended."""

    def __init__(self, restore: Restore, places: int):
        self.places = places
        self._restore = restore
        self._taken: list[_Place] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="restore")

    @contextmanager
    def place(self) -> Iterator["_Place | None"]:
        """A place, given back in the end whatever has become of it; None if all are taken."""
        if len(self._taken) >= self.places:
            yield None
            return
        place = _Place(self)
        self._taken.append(place)
        try:
            yield place
        finally:
            self._taken.remove(place)
            place.leave()

    def submit(self, place: "_Place", data: bytes) -> Future:
        # Behind those whose uploads have ended.
        self._taken.remove(place)
        self._taken.insert(sum(other.begun for other in self._taken), place)
        return self._thread.submit(self._restore, data, place.progress)

    def before(self, place: "_Place") -> int:
        return self._taken.index(place)


class _Place:
    """In the queue, of one request."""

    def __init__(self, queue: _Queue):
        self.done = 0.0
        self._queue = queue
        self._future: Future | None = None
        self._left = False

    @property
    def begun(self) -> bool:
        return self._future is not None

    def begin(self, data: bytes) -> Future:
        self._future = self._queue.submit(self, data)
        return self._future

    def before(self) -> int:
        return self._queue.before(self)

    def progress(self, share: float) -> None:
        if self._left:
            raise CancelledError("nobody waits for this picture any more")
        self.done = min(1.0, self.done + share)

    def leave(self) -> None:
        # What has begun ends at the next tile, when it tells its progress.
        self._left = True
        if self._future:
            self._future.cancel()


class _Guard:
    """Refuses what is not from this computer's own page, and says what browsers may do with it."""

    def __init__(self, app, policy: str):
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

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_with_headers(message):
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
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise ValueError(
            f"host is {host!r}; expected a loopback address such as 127.0.0.1 (from elsewhere, "
            "reach it through ssh -L)"
        )
    return address


def _is_loopback(host: str) -> bool:
    """Whether a Host header names this computer, at any port: there may be a tunnel."""
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
    # The rest of an upload is not wanted.
    return JSONResponse({"error": text}, status, headers={"connection": "close"})


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _explain(error: Exception) -> str:
    text = " ".join(str(error).split()).removeprefix(f"{_NAME}: ") or type(error).__name__
    return text.replace("allow_truncated=True", "starting with --allow-truncated")


def _turned_png() -> str:
    """Two pixels side by side whose EXIF says to turn them, for the page to try its browser."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # orientation
    Image.new("L", (2, 1)).save(buffer, "PNG", exif=exif)
    return page.data_uri("png", buffer.getvalue())
