"""Answers `POST /restore` of the local page: a file in, a restored file out.

The query chooses how the file is restored (`dmcnn_jax.web.choices`) and the kind of answer:

- nothing: the restored file;
- report=json, or a header "Accept: application/json": the report of `dmcnn-restore --json`;
- report=progress: lines of JSON, {"waiting": pictures before it, "done": share} repeatedly, then
  {"error": …, "status": …}, or {"bytes": length, "preview": length, …} and the files themselves.

docs/http-interface.md describes the interface for callers.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from dmcnn_jax.web import slow_clients
from dmcnn_jax.web.choices import MEDIA_TYPES, Choices, parse_choices
from dmcnn_jax.web.restore_queue import Place, RestoreQueue
from dmcnn_jax.web.upload import Restore, Restored, UploadError, explain

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

RETRY_AFTER = 5
"""Value of Retry-After, in seconds, when all places are taken."""

_LOG = logging.getLogger(__name__)

# Seconds between progress lines.
_PROGRESS_INTERVAL = 0.2

# Size of the pieces in which files are sent, bytes.
_CHUNK = 2**18


class Endpoint:
    """The handler of `POST /restore`, as an ASGI application.

    Args:
        restore: restores an upload.
        max_bytes: size of the largest upload.
        waiting: how many pictures may be in transfer or waiting, besides the one being restored.
    """

    def __init__(self, restore: Restore, max_bytes: int, waiting: int) -> None:
        self._queue = RestoreQueue(restore, waiting + 1)
        self._max_bytes = max_bytes

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answers one request."""
        request = Request(scope, receive)
        with self._queue.place() as place:
            response: Response | None
            if place is None:
                text = f"{self._queue.places} pictures are waiting already; try again later"
                response = refuse(503, text, {"retry-after": str(RETRY_AFTER)})
            else:
                response = await self._answer(request, place)
            if response:
                await response(scope, receive, send)

    async def _answer(self, request: Request, place: Place) -> Response | None:
        """Receives the upload and returns the response; None if the client has gone."""
        try:
            choices, kind = _parse(request)
            data = await self._receive(request)
        except ClientDisconnect:
            return None
        except TimeoutError:
            return refuse(408, "the file arrived too slowly; try again")
        except UploadError as error:
            return refuse(error.status, str(error))
        work = asyncio.wrap_future(place.submit(data, choices, preview=kind == "progress"))
        del data
        if kind == "progress":
            lines = _lines(place, work, MEDIA_TYPES[choices.extension])
            return StreamingResponse(lines, media_type="application/octet-stream")
        if not await _finished(request, work):
            return None
        restored = _outcome(work)
        if isinstance(restored, UploadError):
            return refuse(restored.status, str(restored))
        if kind == "json":
            return JSONResponse(restored.report)
        return _file_response(restored, choices)

    async def _receive(self, request: Request) -> bytes:
        """Returns the upload; raises a TimeoutError if it is too slow."""
        too_large = UploadError(413, f"too large; expected up to {self._max_bytes / 1e6:.0f} MB")
        if int(request.headers.get("content-length", 0)) > self._max_bytes:
            raise too_large
        data = bytearray()
        async with asyncio.timeout(slow_clients.TRANSFER_SECONDS):
            chunks = request.stream()
            while chunk := await asyncio.wait_for(anext(chunks), slow_clients.STALL_SECONDS):
                data += chunk
                if len(data) > self._max_bytes:
                    raise too_large
        return bytes(data)


def refuse(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Returns an error as a response: {"error": text}.

    The connection is closed, so that the rest of an upload is not read.
    """
    closing = {"connection": "close", **(headers or {})}
    return JSONResponse({"error": text}, status, headers=closing)


def _parse(request: Request) -> tuple[Choices, str]:
    """Returns a request's choices and the kind of answer: "file", "json" or "progress".

    Raises:
        UploadError: if a parameter is unknown or invalid, or the body is a form.
    """
    if request.headers.get("content-type", "").lower().startswith("multipart/"):
        raise UploadError(
            415, "the body is a form; expected the file itself: curl --data-binary @photo.jpg"
        )
    query = dict(request.query_params)
    if len(query) < len(request.query_params.multi_items()):
        raise UploadError(400, "a parameter is given twice; expected each once")
    wants_json = "application/json" in request.headers.get("accept", "").lower()
    kind = query.pop("report", "json" if wants_json else "file")
    if kind not in ("json", "progress", "file"):
        raise UploadError(400, "report is not one of json, progress and file")
    try:
        return parse_choices(query), kind
    except ValueError as error:
        raise UploadError(400, str(error)) from None


async def _finished(request: Request, work: asyncio.Future[Restored]) -> bool:
    """Waits for a restoration; returns False if its client disconnects first."""
    # After the upload, the next message says that the client has disconnected.
    leaving = asyncio.ensure_future(request.receive())
    either: list[asyncio.Future[Any]] = [work, leaving]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return work.done()
    finally:
        leaving.cancel()
        # No effect unless the client has disconnected.
        work.cancel()


async def _lines(
    place: Place, work: asyncio.Future[Restored], media_type: str
) -> AsyncIterator[bytes]:
    """Yields lines of JSON while a picture waits and is restored, then the files."""
    try:
        while not work.done():
            yield _line({"waiting": place.before(), "done": round(place.done, 4)})
            await asyncio.wait([work], timeout=_PROGRESS_INTERVAL)
    finally:
        # No effect unless the client has disconnected.
        work.cancel()
    restored = _outcome(work)
    if isinstance(restored, UploadError):
        yield _line({"error": str(restored), "status": restored.status})
        return
    yield _line(
        {
            "bytes": len(restored.data),
            "preview": len(restored.preview),
            "name": restored.report["output"],
            "type": media_type,
            "info": restored.shown,
            "report": restored.report,
        }
    )
    for file in (restored.data, restored.preview):
        for start in range(0, len(file), _CHUNK):
            yield file[start : start + _CHUNK]


def _outcome(work: asyncio.Future[Restored]) -> Restored | UploadError:
    """Returns the result of a restoration that has ended."""
    try:
        return work.result()
    except UploadError as error:
        return UploadError(error.status, explain(error))
    except ValueError as error:
        return UploadError(400, explain(error))
    except OSError as error:  # no space for a copy, or libjpeg's process can't start
        return UploadError(503, explain(error))
    except MemoryError:
        return UploadError(413, "not enough memory for a picture of this size")
    except Exception as error:
        _LOG.error("restoring failed", exc_info=error)
        text = f"the program failed with {type(error).__name__}; see its terminal"
        return UploadError(500, text)


def _file_response(restored: Restored, choices: Choices) -> Response:
    """Returns a restored file as a response in pieces, so that slow readers are detected."""

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(restored.data), _CHUNK):
            yield restored.data[start : start + _CHUNK]

    plain = choices.result_name.encode("ascii", "replace").decode()
    plain = plain.replace('"', "_").replace("\\", "_").replace("?", "_")
    headers = {
        "content-length": str(len(restored.data)),
        # RFC 6266: the second name is for clients that support more than ASCII.
        "content-disposition": f'attachment; filename="{plain}"; '
        f"filename*=UTF-8''{quote(choices.result_name, safe='')}",
        "x-restoration": restored.report["status"],
    }
    return StreamingResponse(pieces(), media_type=MEDIA_TYPES[choices.extension], headers=headers)


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
