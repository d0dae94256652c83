"""HTTP beyond Starlette: bounded bodies, clients that disconnect, error answers, the outermost middleware."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, MutableHeaders
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import BodyTooLarge, BrokenBody, ClientGone, Draining, ServiceError, TooManyImages
from ..telemetry import log, tracing
from ..telemetry.log import REQUEST_ID, access
from ..telemetry.metrics import Metrics
from .inflate import check_coding, inflate

# An answer has the type that it declares, and belongs to one client: no sniffing, no caches.
_SAFE = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
_BOUNDARY = re.compile(rb"[\w'()+,./:=? -]{1,256}", re.ASCII)  # RFC 2046, section 5.1.1, which has them shorter
_PIECE = 2**16  # bytes of a form, which at worst take some ten milliseconds
QUIET = ("/metrics", "/health/live", "/health/ready", "/ping", "/v2/health/live", "/v2/health/ready")


async def read_body(request: Request, max_bytes: int) -> bytearray:
    """The whole body.

    Raises:
        BodyTooLarge: more than ``max_bytes``, declared or sent.
        ClientGone: the client disconnected in the middle.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise BodyTooLarge(f"the body has {declared} bytes; {max_bytes} are taken")
    body = bytearray()  # writable, so that arrays over it are, as torch wants them
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client hung up while sending its body")
        chunk = message.get("body", b"")
        if len(body) + len(chunk) > max_bytes:
            raise BodyTooLarge(f"the body has more than the {max_bytes} bytes that are taken")
        body += chunk
        more = message.get("more_body", False)
    return body


class Interruption:
    """Once called, cancels what is awaited in its ``with`` block, which then raises ``error`` instead."""

    def __init__(self, error: ServiceError) -> None:
        self._error, self._task = error, asyncio.current_task()
        self._called = False

    def __call__(self, *_: object) -> None:
        """Interrupt; without effect once the block has ended."""
        if self._task:
            self._called = True
            self._task.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        task, self._task = self._task, None
        if self._called and kind is asyncio.CancelledError and task and not task.uncancel():
            raise self._error from None


@contextmanager
def stopping_when_client_leaves(request: Request) -> Iterator[None]:
    """Cancel what is awaited inside when the client disconnects. The body must have been read before.

    ``scope["state"]["left"]`` is a future that is done then, where the server gives one; otherwise a task waits for it.

    Raises:
        ClientGone: the client disconnected.
    """

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    left: asyncio.Future[None] | None = request.scope["state"].get("left")
    watcher = None
    if left is None:
        left = watcher = asyncio.create_task(watch())
    with Interruption(ClientGone("the client hung up before its answer was ready")) as interrupt:
        left.add_done_callback(interrupt)
        try:
            yield
        finally:
            left.remove_done_callback(interrupt)
            if watcher:
                watcher.cancel()


class _InMemoryParser(MultiPartParser):
    # The body is in memory already and bounded; writing parts to disk would only block the event loop.
    spool_max_size = 2**62


async def read_decoded_body(request: Request, max_bytes: int) -> bytes | bytearray:
    """The whole body, its content coding (gzip or deflate) undone; what it grows to is reserved.

    Raises:
        UnsupportedMedia: another coding, before a byte is read.
        BodyTooLarge, ClientGone: as :func:`read_body` says; also where it grows beyond ``max_bytes``.
        BrokenBody: it cannot be decoded.
        BodiesFull: there is no memory for what it grows to.
    """
    coding = check_coding(request.headers.get("content-encoding", ""))
    body = await read_body(request, max_bytes)
    if not coding:
        return body
    decoded = await asyncio.to_thread(inflate, body, coding, max_bytes)
    request.scope["state"]["memory"].add(len(decoded))
    return decoded


Form = tuple[list[tuple[str, bytes]], list[tuple[str, str]]]
"""Name and bytes of every file of a form; name and value of every other field."""


async def read_multipart(content_type: str, body: bytes | bytearray, max_files: int) -> Form:
    """The files and the fields of a ``multipart/form-data`` body; an empty file without a name is no file.

    Raises:
        BrokenBody: malformed, or without a file.
        TooManyImages: more than ``max_files``.
    """

    async def stream() -> AsyncGenerator[bytes, None]:
        for at in range(0, len(body), _PIECE):
            if at:
                await asyncio.sleep(0)
            yield bytes(body[at : at + _PIECE])

    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise BrokenBody("not a multipart/form-data body: no boundary, or one of other characters than RFC 2046 has")
    # Without the client's charset, which RFC 7578 does not know: some take hours to decode.
    headers = Headers({"content-type": f'multipart/form-data; boundary="{boundary.decode()}"'})
    parser = _InMemoryParser(headers, stream(), max_files=max_files, max_fields=100)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        message = getattr(error, "message", "") or "no boundary, or parts that contradict it"
        if message.startswith("Too many files"):
            raise TooManyImages(f"more than {max_files} files in one request") from error
        raise BrokenBody(f"not a multipart/form-data body: {message}") from error
    files: list[tuple[str, bytes]] = []
    fields: list[tuple[str, str]] = []
    for field, value in form.multi_items():
        if isinstance(value, str):
            fields.append((field, value))
        elif (data := await value.read()) or value.filename:  # a browser sends an input without a file as neither
            files.append((value.filename or "image", data))
    await form.close()
    if not files and not fields:
        raise BrokenBody("the multipart body has no file")
    return files, fields


def route_path(scope: Mapping[str, Any]) -> str:
    """The path of a request below ``ARN_ROOT_PATH``, which is what the routes are called by."""
    path, root = str(scope["path"]), scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def header(scope: Mapping[str, Any], name: bytes) -> str:
    """The first header of a request with that name in lower case; empty without one."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return ""


def error_body(sentence: str, code: str) -> dict[str, str]:
    """The JSON of every error that the service answers in its own form."""
    return {"error": sentence, "code": code}


class Refusal(JSONResponse):
    """An error as an answer; the log has its code too."""

    def __init__(self, content: Mapping[str, object], status: int, headers: Mapping[str, str], code: str) -> None:
        super().__init__(content, status, headers)
        self._code = code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        scope.setdefault("state", {})["code"] = self._code
        await super().__call__(scope, receive, send)


def refusal(path: str, error: ServiceError, metrics: Metrics) -> Response:
    """An error as an answer, counted, in the form of the protocol that ``path`` belongs to."""
    metrics.rejected.labels(error.code).inc()
    reason = str(error).encode("utf-8", "backslashreplace").decode()  # JSON's half of a surrogate pair has no UTF-8
    if path.startswith(("/predictions", "/ping")):  # TorchServe's
        content: Mapping[str, object] = {"code": error.status, "type": type(error).__name__, "message": reason}
    else:
        content = error_body(reason, error.code)
    return Refusal(content, error.status, error.headers, error.code)


class RequestContext:
    """The outermost middleware, pure ASGI: sets the request id, counts and logs every answer.

    ``scope["state"]["first_byte"]`` is when the request's first byte came, where the server says so, else it is now.
    Every request is answered: with 503 where a shutdown abandons it, with 500 after an internal error. With ``bare``,
    ``root_path`` itself leads to ``/`` below it.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, draining: Callable[[], bool], root_path: str = "", bare: bool = True
    ) -> None:
        self.app, self.metrics, self.draining, self.root_path, self.bare = app, metrics, draining, root_path, bare

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        app = self.app
        if root := self.root_path:
            scope["root_path"] = root
            if self.bare and scope["path"] == root and scope["method"] in ("GET", "HEAD"):
                app = RedirectResponse(f"{root}/", 308)  # from where the page finds its files
            if not scope["path"].startswith(f"{root}/"):  # the proxy has removed what ASGI wants there
                scope["path"] = root + scope["path"]
        request_id = log.request_id(header(scope, b"x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        REQUEST_ID.set(request_id)
        tracing.note(request_id)
        status, begun = 500, False
        started = scope["state"].get("first_byte") or time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                ours = ((b"x-request-id", request_id.encode()), *_SAFE)
                message["headers"] = headers = list(message["headers"])
                named = {name for name, _ in headers}
                headers += (line for line in ours if line[0] not in named)
                if b"x-request-id" in named:  # the model server's
                    MutableHeaders(raw=headers)["X-Request-ID"] = request_id
            await send(message)

        try:
            await app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            if not self.draining():
                raise
            if begun:  # the client does not read its answer
                return
            given_up = Draining("the service is shutting down, and this request took too long")
            await refusal(route_path(scope), given_up, self.metrics)(scope, receive, send_with_id)
        except Exception:
            if not begun:
                fault = ServiceError("an internal error; the log has it")
                await refusal(route_path(scope), fault, self.metrics)(scope, receive, send_with_id)
            raise  # so that the traceback reaches the log, and only the log
        finally:
            # The template, never the path: a scanner must not be able to create new series.
            route = getattr(scope.get("route"), "path", "unmatched")
            seconds = time.perf_counter() - started
            self.metrics.answered(route, status, seconds)
            level = logging.DEBUG if route in QUIET else logging.INFO
            client, code = (scope.get("client") or ("-",))[0], scope["state"].get("code", "")
            access(level, request_id, scope["method"], route, status, seconds, client, code)
