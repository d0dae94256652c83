"""One connection of a client's, with an end to everything that it could draw out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from .errors import BadRequest, HeadTooLarge, ServiceError, TooManyConnections

if TYPE_CHECKING:
    from .app import Service

MAX_HEAD_BYTES = 64 * 2**10


class Door:
    """Lets in every client that waits at a listening socket, a turn of the event loop at a time.

    libuv takes one a turn. A turn under load has many requests' work in it, and a probe's new connection would wait
    behind all that stand in the kernel's queue, for seconds. Where no file handle is left, libuv turns clients away.
    """

    AT_ONCE = 64

    def __init__(self, listening: socket.socket, factory: Callable[[], asyncio.Protocol], **options: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._factory, self._options = factory, options
        self._socket = socket.socket(fileno=os.dup(listening.fileno()))
        self._entering: set[asyncio.Task[None]] = set()
        self._loop.add_reader(self._socket, self._admit)

    def close(self) -> None:
        """Let nobody in any more; those inside stay."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _admit(self) -> None:
        for _ in range(self.AT_ONCE):
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            task = self._loop.create_task(self._enter(client))
            self._entering.add(task)
            task.add_done_callback(self._entering.discard)

    async def _enter(self, client: socket.socket) -> None:
        client.setblocking(False)
        with contextlib.suppress(OSError):  # gone already, or no TLS
            await self._loop.connect_accepted_socket(self._factory, client, **self._options)


class _Gathering:
    """A transport that sends an answer's head with its body: one system call, and the client wakes once."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._head = transport, b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Keep a head until what follows it, which comes in the same turn of the loop or never."""
        if not self._head and data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._head = data
            asyncio.get_running_loop().call_soon(self._flush)
        else:
            head, self._head = self._head, b""
            self._transport.write(head + data)

    def close(self) -> None:
        """Send what is kept, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            self.write(b"")


class Connection(HttpToolsProtocol):
    """Uvicorn's protocol, which else waits for ever for a head, a body, or an answer to be taken.

    One clock runs at a time: to a whole head, from the connection or a request's first byte; then to its whole body.
    Uvicorn's own closes a connection that rests after an answer.
    """

    def __init__(self, service: Service, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._service = service
        self._clock: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._moved, self._bytes = False, 0

    def _within(self, seconds: float | None) -> None:
        if self._clock:
            self._clock.cancel()
        # Closes the connection, after the answer where one is under way; a body's own 408 is the application's.
        self._clock = self.loop.call_later(seconds, self.shutdown) if seconds else None

    def shutdown(self) -> None:
        """Close now or after the answer under way."""
        super().shutdown()
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self.loop.call_later(1, self.transport.abort)  # TLS would wait longer for an idle client's goodbye

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """A client; 503 where too many are here."""
        super().connection_made(_Gathering(transport))  # type: ignore[arg-type]
        self._within(self._service.settings.head_seconds)
        if len(self.connections) > self._service.settings.connections:
            self._refuse(TooManyConnections("as many connections are open as may be"))

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        self._within(None)
        if self._unread:
            self._unread.cancel()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client; 431 and the end once too many of them belong to no body: a head, trailers."""
        self._moved = False
        super().data_received(data)
        self._bytes = 0 if self._moved else self._bytes + len(data)
        if self._bytes > MAX_HEAD_BYTES:
            self._refuse(HeadTooLarge(f"the head has more than the {MAX_HEAD_BYTES} bytes that are taken"))
        if not self._clock and self.cycle and self.cycle.response_complete:
            self._within(self._service.settings.head_seconds)  # uvicorn's clock stops at any byte, an empty line's too

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._moved, self._bytes = False, 0
        self._within(self._service.settings.head_seconds)

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        self._moved = True
        self._within(self._service.settings.body_seconds)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is here."""
        self._moved = True
        self._within(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Its answer is written; the client has as long to take it as it had to send the body."""
        super().on_response_complete()
        if self._unread:
            self._unread.cancel()
        self._unread = self.loop.call_later(self._service.settings.body_seconds, self._abandon)

    def _abandon(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, refused in our form."""
        self._refuse(BadRequest(msg))

    def _refuse(self, error: ServiceError) -> None:
        """Answer, unless another answer is due first, and close."""
        self._service.metrics.rejected.labels(error.code).inc()
        cycle = self.cycle
        if cycle is None or cycle.response_complete or (cycle.more_body and not cycle.response_started):
            body = orjson.dumps({"error": str(error), "code": error.code})
            told = {**error.headers, "Content-Type": "application/json", "Content-Length": len(body)}
            head = "".join(f"{name.lower()}: {value}\r\n" for name, value in (told | {"Connection": "close"}).items())
            self.transport.write(STATUS_LINE[error.status] + head.encode() + b"\r\n" + body)
        self.transport.close()
