"""One connection of a client's, with an end to everything that it could draw out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from itertools import chain
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from ..errors import BadRequest, HeadTooLarge, ServiceError, TooManyConnections
from ..settings import Settings
from ..telemetry.metrics import Metrics
from .http import error_body

MAX_HEAD_BYTES = 64 * 2**10


class Acceptor:
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
        if self._transport.is_closing():
            return
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

    def __init__(self, settings: Settings, metrics: Metrics, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._settings, self._metrics = settings, metrics
        self._clock: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None
        self._timed: RequestResponseCycle | None = None
        self._moved, self._bytes = False, 0
        self._refused = False
        self._framing: list[tuple[bytes, bytes]] = []
        self._again = False

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
        transport.set_write_buffer_limits(HIGH_WATER_LIMIT)  # uvloop's own for TLS is eight times as much
        super().connection_made(_Gathering(transport))  # type: ignore[arg-type]
        self._within(self._settings.head_seconds)
        if len(self.connections) > self._settings.connections:
            self._refuse(TooManyConnections("as many connections are open as may be"))

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone, for the answer under way too; uvicorn tells only the last request that came."""
        if self._running:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)
        self._within(None)
        if self._unread:
            self._unread.cancel()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client; 431 and the end once too many of them belong to no body: a head, trailers."""
        if self._refused:
            return
        self._unset_keepalive_if_required()
        self._moved = False
        try:
            self._feed(data)
            self._bytes = 0 if self._moved else self._bytes + len(data)
            if self._bytes:
                _limit(self._bytes)
        except HeadTooLarge as error:
            self._refuse(error)
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, HeadTooLarge):  # from a callback
                self._refuse(error.__context__)
                return
            self.logger.warning(message := "Invalid HTTP request received.")
            self._refuse(BadRequest(message))
        else:
            if not self._clock and self.cycle and self.cycle.response_complete:
                self._within(self._settings.head_seconds)  # uvicorn's stops at any byte, an empty line's too

    def _feed(self, data: bytes | memoryview) -> None:
        """Parse, also behind a head that offers another protocol, where the parser stops with the body unread.

        We speak no other and may ignore the offer (RFC 9110 section 7.8): a new parser is told how the body is framed.
        """
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as stopped:
                data = memoryview(data)[stopped.args[0] :]
            if self._framing:
                lines = [b"POST / HTTP/1.1", *map(b": ".join, self._framing)]
                if not self.cycle.keep_alive:
                    lines.append(b"Connection: close")
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
                self._framing, self._again = [], True
                self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))
                self._again = False

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        if not self._again:
            super().on_message_begin()
            self._within(self._settings.head_seconds)

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        self._moved = True
        if not self._again:
            _limit(len(self.url) + _size(self.headers))
            if self.parser.should_upgrade():
                self._framing = [line for line in self.headers if line[0] in (b"content-length", b"transfer-encoding")]
            self._within(self._settings.body_seconds)
            super().on_headers_complete()
            if len(self.pipeline) == 1:
                self.flow.resume_reading()  # or nobody would notice that the client hangs up
        self.headers = []  # the request keeps its own: trailers pass by a proxy's checks, so they are no part of it

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is here."""
        self._moved = True
        if self._framing:
            return  # not yet, whatever the parser says
        if self.headers:
            _limit(_size(self.headers))
        self._within(None)
        super().on_message_complete()

    def pause_writing(self) -> None:
        """More of an answer waits to be taken than is written at once."""
        super().pause_writing()
        self._time_answer()

    def on_response_complete(self) -> None:
        """An answer is written."""
        self._time_answer()
        super().on_response_complete()

    def _time_answer(self) -> None:
        """The client has as long to take an answer as it had to send the body."""
        if self._timed is self._running:
            return
        self._timed = self._running
        if self._unread:
            self._unread.cancel()
        self._unread = self.loop.call_later(self._settings.body_seconds, self._abandon)

    def _abandon(self) -> None:
        taken = self._timed is None or self._timed.response_complete
        if not taken or self.transport.get_write_buffer_size():
            self.transport.abort()

    def _refuse(self, error: ServiceError) -> None:
        """Answer and close; where others wait for their answers before, only close, after them."""
        self._metrics.rejected.labels(error.code).inc()
        self._refused = True
        due = [cycle for cycle, _ in self.pipeline]  # the newest first
        if self._running and not self._running.response_complete:
            due.append(self._running)
        broken = due.pop(0) if due and due[0].more_body else None
        if due:
            if broken:
                self.pipeline.popleft()
            due[0].keep_alive = False
            self.flow.resume_reading()  # what still comes is dropped: closed over it, the answers could be lost
            return
        if broken is None or not broken.response_started:
            body = orjson.dumps(error_body(str(error), error.code))
            told = {**error.headers, "Content-Type": "application/json", "Content-Length": len(body)}
            head = "".join(f"{name.lower()}: {value}\r\n" for name, value in (told | {"Connection": "close"}).items())
            self.transport.write(STATUS_LINE[error.status] + head.encode() + b"\r\n" + body)
        self.transport.close()


def _size(headers: list[tuple[bytes, bytes]]) -> int:
    """As they are sent, with colons and line ends."""
    return sum(map(len, chain.from_iterable(headers))) + 4 * len(headers)


def _limit(size: int) -> None:
    """Raises ``HeadTooLarge`` for so many bytes of a head."""
    if size > MAX_HEAD_BYTES:
        raise HeadTooLarge(f"the head has more than the {MAX_HEAD_BYTES} bytes that are taken")
