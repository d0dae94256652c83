"""One client's connection, with a time limit on every phase."""

from __future__ import annotations

import asyncio
import time
from itertools import chain
from typing import Any

import httptools
import orjson
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from ..errors import BadRequest, HeadTooLarge, ServiceError, TooManyConnections, UnknownTransferCoding
from ..settings import Settings
from ..telemetry.metrics import Metrics
from .http import error_body

_MAPPED = "::ffff:"  # how a socket of both families writes an IPv4 address
MAX_HEAD_BYTES = 64 * 2**10
# Uvicorn's own methods that `Connection` overrides or calls. They are no public interface.
_HOOKS = ("_start_asgi_task", "_unset_keepalive_if_required", "on_response_complete", "pause_writing", "shutdown")


def check_uvicorn() -> None:
    """Check that uvicorn calls what :class:`Connection` overrides: without it, no limit on slow clients would hold.

    Raises:
        ImportError: it lacks one of the methods.
    """
    missing = [name for name in _HOOKS if not hasattr(HttpToolsProtocol, name)]
    if missing:
        raise ImportError(
            f"uvicorn {uvicorn.__version__} lacks {', '.join(missing)}, on which the limits on slow clients depend: "
            "install one from 0.45 on"
        )


class _Gathering:
    """A transport that sends an answer's head together with its body, in one system call."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._head = transport, b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Hold a head back until the body follows, which it does in the same turn of the loop or never."""
        if self._transport.is_closing():
            return
        if not self._head and data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._head = data
            asyncio.get_running_loop().call_soon(self._flush)
        else:
            head, self._head = self._head, b""
            self._transport.write(head + data)

    def close(self) -> None:
        """Send what is held back, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            self.write(b"")


class Connection(HttpToolsProtocol):
    """Uvicorn's protocol, with limits: alone it waits without end for a head, a body, or a client that does not read.

    One timer runs at a time: until the head is complete, from the connection or a request's first byte; then until the
    body is. Uvicorn's own closes a connection that is idle after an answer.
    """

    def __init__(self, settings: Settings, metrics: Metrics, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._settings, self._metrics = settings, metrics
        self._timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None
        self._timed: RequestResponseCycle | None = None
        self._left: asyncio.Future[None] | None = None
        self._moved, self._bytes = False, 0
        self._refused = False
        self._framing: list[tuple[bytes, bytes]] = []
        self._again = False

    def _within(self, seconds: float | None) -> None:
        if self._timer:
            self._timer.cancel()
        # Closes the connection, after the answer where one is under way. The 408 of a late body is the application's.
        self._timer = self.loop.call_later(seconds, self.shutdown) if seconds else None

    def shutdown(self) -> None:
        """Close now or after the answer under way."""
        super().shutdown()
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self.loop.call_later(1, self.transport.abort)  # TLS would wait longer for an idle client's close message

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """A new connection; 503 where too many are open."""
        transport.set_write_buffer_limits(HIGH_WATER_LIMIT)  # uvloop's own for TLS is eight times as high
        super().connection_made(_Gathering(transport))  # type: ignore[arg-type]
        if self.client and self.client[0].startswith(_MAPPED):  # one client, however the address is listened to
            self.client = self.client[0].removeprefix(_MAPPED), self.client[1]
        self._within(self._settings.head_seconds)
        if len(self.connections) > self._settings.connections:
            self._refuse(TooManyConnections("as many connections are open as may be"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The client disconnected. The answer under way is told too; uvicorn tells only the latest request."""
        if self._running:
            self._running.disconnected = True
            self._running.message_event.set()
        if self._left:
            self._left.set_result(None)
        super().connection_lost(exc)
        self._within(None)
        if self._send_timer:
            self._send_timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client; 431 once too many of them belong to no body but to a head or trailers."""
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
            if isinstance(error.__context__, ServiceError):  # from a callback
                self._refuse(error.__context__)
                return
            self.logger.warning(message := "Invalid HTTP request received.")
            self._refuse(BadRequest(message))
        else:
            if not self._timer and self.cycle and self.cycle.response_complete:
                self._within(self._settings.head_seconds)  # any byte stops uvicorn's, even an empty line's

    def _feed(self, data: bytes | memoryview) -> None:
        """Parse, also after a head that offers to switch protocols, where the parser stops with the body unread.

        The server may ignore the offer (RFC 9110 section 7.8): a new parser gets the headers that frame the body.
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
            self.scope["state"]["first_byte"] = time.perf_counter()
            self._within(self._settings.head_seconds)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._moved = True
        if not self._again:
            _limit(len(self.url) + _size(self.headers))
            _check(self.parser.get_http_version(), self.headers)
            if self.parser.should_upgrade():
                self._framing = [line for line in self.headers if line[0] in (b"content-length", b"transfer-encoding")]
            self._within(self._settings.body_seconds)
            super().on_headers_complete()
            if len(self.pipeline) == 1:
                self.flow.resume_reading()  # or a disconnect would go unnoticed
        self.headers = []  # the request has its own list: trailers bypass a proxy's checks, so they are left out

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        cycle.scope["state"]["left"] = self._left = self.loop.create_future()
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is complete."""
        self._moved = True
        if self._framing:
            return  # not yet: the parser stopped at the offer
        if self.headers:
            _limit(_size(self.headers))
        self._within(None)
        super().on_message_complete()
        if self.cycle is self._running:
            self.flow.resume_reading()  # which a large body has paused, or a disconnect would go unnoticed

    def pause_writing(self) -> None:
        """The client reads an answer more slowly than it is written."""
        super().pause_writing()
        self._time_answer()

    def on_response_complete(self) -> None:
        """An answer is written."""
        self._time_answer()
        super().on_response_complete()

    def _time_answer(self) -> None:
        """The client has as long to read an answer as it had to send the body."""
        if self._timed is self._running:
            return
        self._timed = self._running
        if self._send_timer:
            self._send_timer.cancel()
        self._send_timer = self.loop.call_later(self._settings.body_seconds, self._abandon)

    def _abandon(self) -> None:
        complete = self._timed is None or self._timed.response_complete
        if not complete or self.transport.get_write_buffer_size():
            self.transport.abort()

    def _refuse(self, error: ServiceError) -> None:
        """Answer and close. Where earlier requests wait for their answers, only close, after those."""
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
            self.flow.resume_reading()  # drop what still arrives: closing with unread bytes could lose the answers
            return
        if broken is None or not broken.response_started:
            body = orjson.dumps(error_body(str(error), error.code))
            framing = {"Content-Type": "application/json", "Content-Length": len(body), "Connection": "close"}
            headers = {**error.headers, **framing}
            head = "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items())
            self.transport.write(STATUS_LINE[error.status] + head.encode() + b"\r\n" + body)
        self.transport.close()


def _size(headers: list[tuple[bytes, bytes]]) -> int:
    """Their bytes as sent, with colons and line ends."""
    return sum(map(len, chain.from_iterable(headers))) + 4 * len(headers)


def _check(version: str, headers: list[tuple[bytes, bytes]]) -> None:
    """Raises what RFC 9112 asks for (sections 3.2 and 6.1); names are in lower case."""
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts > 1 or (not hosts and version == "1.1"):
        raise BadRequest(f"a request has one Host header, not {hosts or 'none'}")
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    if codings not in ([], [b"chunked"]):
        raise UnknownTransferCoding("a body is sent chunked, or in no transfer coding")


def _limit(size: int) -> None:
    """Raises ``HeadTooLarge`` for so many bytes of a head."""
    if size > MAX_HEAD_BYTES:
        raise HeadTooLarge(f"the head has more than the {MAX_HEAD_BYTES} bytes that are taken")
