"""The server of the local page, which restores uploads; on loopback only, storing nothing.

    dmcnn-restore --serve

Starlette and uvicorn speak HTTP (`pip install "dmcnn-jax[serve]"`). An upload stays in memory, is
restored in turn, and is discarded after the answer (`dmcnn_jax.web.endpoint`). Request and answer
are one exchange, so there are no jobs to store, and when a client disconnects, its work is
cancelled. Connections that send or read too slowly are closed (`dmcnn_jax.web.slow_clients`).

Other users' programs and other sites' pages are kept out as far as loopback allows: the server
listens on loopback addresses only, answers only requests whose Host header names one (which DNS
rebinding can't forge), and refuses those that a page of another origin makes.
"""

import html
import io
import ipaddress
import json
import socket
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from PIL import Image

from dmcnn_jax.web import page
from dmcnn_jax.web.choices import Choices
from dmcnn_jax.web.upload import Restore

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, Response
    from starlette.routing import Route

    from dmcnn_jax.web import slow_clients
    from dmcnn_jax.web.endpoint import Endpoint, refuse
except ModuleNotFoundError as error:
    raise ImportError(
        f'--serve needs {error.name}, which is not installed: pip install "dmcnn-jax[serve]"'
    ) from error

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BYTES = 64_000_000
"""Default size limit of an upload, bytes."""

WAITING = 4
"""Default number of pictures in transfer or waiting, besides the one being restored."""


def serve(
    restore: Restore,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    max_bytes: int = MAX_BYTES,
    waiting: int = WAITING,
    defaults: Choices = Choices(),  # noqa: B008 - frozen, so it can be shared
) -> None:
    """Serves the page until it is interrupted.

    Args:
        restore: restores an upload; see `dmcnn_jax.web.upload.upload_restorer`.
        host: a loopback address.
        port: TCP port; 0 takes any free one.
        max_bytes: size limit of an upload.
        waiting: how many pictures may be in transfer or waiting, besides the one being restored.
        defaults: initial values of the page's controls.

    Raises:
        ValueError: if the host is not a loopback address.
        OSError: if the port is taken.
    """
    server = Server(restore, host, port, max_bytes=max_bytes, waiting=waiting, defaults=defaults)
    print(
        f"dmcnn-restore: open {server.url} in a browser on this computer; Ctrl-C stops the server",
        flush=True,
    )
    try:
        server.run()
    except KeyboardInterrupt:
        print("dmcnn-restore: the server has stopped")


class Server:
    """The page's server; arguments and errors as in `serve`.

    The constructor binds the port, so that the address is known before `run`.

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
        defaults: Choices = Choices(),  # noqa: B008
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
            application(restore, max_bytes=max_bytes, waiting=waiting, defaults=defaults),
            http=slow_clients.LimitedProtocol,
            ws="none",
            lifespan="off",
            # At lower levels, uvicorn prints a line for each request that is not HTTP.
            log_level="error",
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
    restore: Restore,
    *,
    max_bytes: int = MAX_BYTES,
    waiting: int = WAITING,
    defaults: Choices = Choices(),  # noqa: B008
) -> "Starlette":
    """Returns the page as an ASGI application; arguments as in `serve`."""
    text, policy = _page(max_bytes, defaults)

    async def show(_: Request) -> HTMLResponse:
        return HTMLResponse(text)

    async def explain(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # unknown address or method
        text = _WRONG.get(error.status_code, error.detail)
        return refuse(error.status_code, text, error.headers)

    app = Starlette(
        routes=[
            Route("/", show),
            Route("/restore", Endpoint(restore, max_bytes, waiting), methods=["POST"]),
        ],
        exception_handlers={HTTPException: explain},
    )
    app.add_middleware(_Guard, policy=f"{policy}; frame-ancestors 'none'")
    return app


_WRONG = {
    404: "no such address; expected / (the page) or POST /restore",
    405: "expected GET / (the page) or POST /restore with a JPEG file as the body",
}


def _page(max_bytes: int, defaults: Choices) -> tuple[str, str]:
    """Returns the page's HTML, and its Content-Security-Policy."""
    strength = defaults.strength
    body = page.part("serve.html")
    for key, value in {
        "limit": f"{max_bytes / 1e6:.0f} MB",
        "limits": json.dumps({"bytes": max_bytes}),
        "turned": json.dumps({f"image/{kind}": _turned(kind) for kind in ("png", "webp")}),
        "defaults": json.dumps(
            {
                "strength": 100.0 if strength is None else round(100 * strength, 2),
                "bits": defaults.bits or 8,
            }
        ),
    }.items():
        body = body.replace(f"{{{{{key}}}}}", html.escape(value))
    return page.page(
        "Restore JPEGs",
        body,
        ("base", "compare", "serve"),
        img_src="blob: data:",
        connect_src="'self'",
    )


def _turned(kind: str) -> str:
    """Returns a 2 × 1 picture with an EXIF orientation, to test whether the browser applies it."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # orientation
    Image.new("RGB", (2, 1)).save(buffer, kind, exif=exif)
    return page.data_uri(kind, buffer.getvalue())


class _Guard:
    """Middleware that refuses requests from other sites' pages and hosts, and sets headers."""

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
        app = refuse(403, refusal) if refusal else self._app
        await app(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> str:
        """Returns why a request is refused, or ""."""
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not _is_loopback(hosts[0]):
            return "this page serves its own computer only; expected a loopback address as the host"
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
    """Returns whether a Host header names loopback, at any port, since tunnels change it."""
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
