"""Closes connections whose client sends or reads too slowly, so that they can't take all places.

uvicorn waits forever for the rest of a request's headers, and for a client to read its answer.
Uploads are limited where they are read (`dmcnn_jax.web.endpoint`), since their senders get an
answer.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

STALL_SECONDS = 10.0
"""How long a connection may have no request with complete headers, and an upload no new byte."""

TRANSFER_SECONDS = 120.0
"""How long an upload may take in total, and a client to read the next part of its answer."""


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol with limits on the time that a client may take."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts watching a connection; uvicorn narrows the type of transports too."""
        super().connection_made(transport)
        now = self.loop.time()
        self._idle_since = self._read_since = now
        self._check()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops watching."""
        self._timer.cancel()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """Notes that the client has read: the buffer has room for the next part of the answer."""
        self._read_since = self.loop.time()
        super().resume_writing()

    def _check(self) -> None:
        """Aborts the connection if its client was too slow; otherwise schedules the next check."""
        now = self.loop.time()
        cycle: Any = self.cycle  # the last request whose headers are complete, or None
        # An answer that the application has completed may still wait for its client.
        waits = self.transport.get_write_buffer_size() > 0
        if waits or (cycle is not None and not cycle.response_complete):
            self._idle_since = now
        if not waits:
            self._read_since = now
        if now - self._idle_since > STALL_SECONDS or now - self._read_since > TRANSFER_SECONDS:
            self.transport.abort()
            return
        interval = min(1.0, STALL_SECONDS / 4)
        self._timer = self.loop.call_later(interval, self._check)
