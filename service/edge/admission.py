"""Admission of requests: the key, the client's share and the memory for a body, decided before a byte is read."""

from __future__ import annotations

import asyncio
import re
from contextlib import AbstractContextManager, nullcontext

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..core.limits import Limits, Reservation
from ..errors import BodyTimeout, ServiceError
from ..settings import Settings
from ..telemetry.metrics import Metrics
from .http import Interruption, header, refusal, route_path

# What probes, scrapers and a browser without a key must reach. Nothing here takes an image.
_OPEN = re.compile(r"/|/metrics|/ping|/(health|static|v2/health)/.*")
_PIECE_BYTES = 64 * 2**10  # as many as uvicorn buffers


class Admission:
    """Pure ASGI, inside :class:`arn_purify.service.edge.http.RequestContext`: holds each request to the limits.

    ``scope["state"]["memory"]`` is a reservation for what the request grows to.
    """

    def __init__(self, app: ASGIApp, limits: Limits, settings: Settings, metrics: Metrics) -> None:
        self.app, self.limits, self.settings, self.metrics = app, limits, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = header(scope, b"content-length")[:20]
        # A body larger than the limit is refused unread and needs no memory.
        size = min(int(declared), self.settings.max_body_bytes) if declared.isdecimal() else 0
        path, memory, admitted = route_path(scope), self.limits.memory, False
        try:
            with self._client(scope, path), memory.reserve(size) as body, memory.reserve() as scope["state"]["memory"]:
                admitted = True
                await self.app(scope, _bounded(receive, body, self.settings.body_seconds), _in_pieces(send, body))
        except ServiceError as error:
            if admitted:
                raise
            await refusal(path, error, self.metrics)(scope, receive, send)

    def _client(self, scope: Scope, path: str) -> AbstractContextManager[None]:
        """The client's share; raises ``Unauthorized`` without a key, where one is needed."""
        if _OPEN.fullmatch(path):
            return nullcontext()
        self.limits.authorise(dict(scope["headers"]).get(b"x-api-key", b""))
        return self.limits.client((scope.get("client") or ("",))[0])


def _bounded(receive: Receive, memory: Reservation, seconds: float) -> Receive:
    """``receive`` that raises ``BodyTimeout`` and ``BodiesFull`` until the body is complete, and later never."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    received, complete = 0, False

    async def bounded() -> Message:
        nonlocal received, complete
        if complete:
            return await receive()
        with Interruption(BodyTimeout(f"the body was not whole within {seconds:g} seconds")) as interrupt:
            timer = loop.call_at(deadline, interrupt)
            try:
                message = await receive()
            finally:
                timer.cancel()
        received += len(message.get("body", b""))
        memory.grow_to(received)
        complete = not message.get("more_body", False)
        return message

    return bounded


def _in_pieces(send: Send, memory: Reservation) -> Send:
    """``send`` that passes on a large answer piece by piece, each once the client has received most of those before.

    In one piece it would stay in the connection's buffer after the request has given back its memory and its place.
    """

    async def in_pieces(message: Message) -> None:
        body = message.get("body", b"")
        if len(body) > _PIECE_BYTES:
            memory.grow_to(len(body), allocated=True)
            last = (len(body) - 1) // _PIECE_BYTES * _PIECE_BYTES
            for start in range(0, last, _PIECE_BYTES):
                await send({**message, "body": body[start : start + _PIECE_BYTES], "more_body": True})
            message = {**message, "body": body[last:]}
        await send(message)

    return in_pieces
