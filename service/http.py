"""What the routes need of HTTP beyond Starlette: bounded bodies, clients that hang up, and the outermost middleware."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .errors import BodyTooLarge, BrokenBody, ClientGone
from .log import REQUEST_ID, access
from .metrics import Metrics

MAX_HEAD_BYTES = 64 * 2**10
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_QUIET = ("/metrics", "/health/live", "/health/ready")


async def read_body(request: Request, max_bytes: int) -> bytearray:
    """The whole body.

    Raises:
        BodyTooLarge: more than ``max_bytes``, declared or sent.
        ClientGone: the client hung up in the middle.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise BodyTooLarge(f"the body has {declared} bytes; {max_bytes} are taken")
    body = bytearray()  # writable, so that arrays over it are, as torch asks
    try:
        async for chunk in request.stream():
            if len(body) + len(chunk) > max_bytes:
                raise BodyTooLarge(f"the body has more than the {max_bytes} bytes that are taken")
            body += chunk
    except ClientDisconnect as error:
        raise ClientGone("the client hung up while sending its body") from error
    return body


@asynccontextmanager
async def stopping_when_client_leaves(request: Request) -> AsyncIterator[None]:
    """Cancel what is awaited inside when the client hangs up. The body must have been read before.

    Raises:
        ClientGone: it did.
    """
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone and not task.uncancel():
            raise ClientGone("the client hung up before its answer was ready") from None
        raise
    finally:
        watcher.cancel()


class _InMemoryParser(MultiPartParser):
    # The body is in memory already and bounded; rolling parts over to disk would only block the event loop.
    spool_max_size = 2**62


async def read_multipart(content_type: str, body: bytearray, max_files: int) -> list[tuple[str, bytes]]:
    """File name and bytes of every file of a ``multipart/form-data`` body; other fields are ignored.

    Raises:
        BrokenBody: malformed, or without a file, or with more than ``max_files``.
    """

    async def stream() -> AsyncGenerator[bytes, None]:
        yield bytes(body)

    parser = _InMemoryParser(Headers({"content-type": content_type}), stream(), max_files=max_files, max_fields=100)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        message = getattr(error, "message", "") or "no boundary, or parts that contradict it"
        raise BrokenBody(f"not a multipart/form-data body: {message}") from error
    parts = [value for _, value in form.multi_items() if not isinstance(value, str)]
    files = [(part.filename or "image", await part.read()) for part in parts]
    await form.close()
    if not files:
        raise BrokenBody("the multipart body has no file")
    return files


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


class BoundedHead(HttpToolsProtocol):
    """Uvicorn's protocol with an end to a request's head, which else takes memory for as long as a client sends."""

    _in_head = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(_Gathering(transport))  # type: ignore[arg-type]

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client; 431 and the end of the connection once they are too many for a head."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
                self.transport.close()


class RequestContext:
    """Outermost, pure ASGI: takes or makes the request id, records and logs every answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        REQUEST_ID.set(request_id)
        status = 500
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            # The template, never the path: a scanner must not be able to make new series.
            route = getattr(scope.get("route"), "path", "unmatched")
            self.metrics.requests.labels(route, status).inc()
            level = logging.DEBUG if route in _QUIET else logging.INFO
            access(level, request_id, scope["method"], route, status, time.perf_counter() - started)
