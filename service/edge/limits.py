"""Who may ask, how much at once, and how much of a body is taken for how long: decided before a byte of it is read."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import BodiesFull, BodyTimeout, ClientLimit, ServiceError, Unauthorized
from ..settings import Settings
from ..telemetry.metrics import Metrics
from .http import refusal

# What probes, scrapers and a browser without a key must reach. Nothing here takes an image.
_OPEN = re.compile(r"/|/metrics|/ping|/(health|static|v2/health)/.*")
_PIECE = 64 * 2**10  # what uvicorn lets wait to be taken


class Doors:
    """What all requests share: the keys, who has how many under way, and the bytes of bodies in memory."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._keys = [key.get_secret_value().encode() for key in settings.api_key]
        self._under_way: Counter[str | bytes] = Counter()
        self._bytes = 0
        metrics.body_bytes.set_function(lambda: self._bytes)

    def authorise(self, given: bytes) -> None:
        """Raises ``Unauthorized`` unless ``given`` is one of the keys, or there are none."""
        if self._keys and not any(hmac.compare_digest(given, key) for key in self._keys):
            raise Unauthorized("a key that this service knows is needed in X-API-Key")

    @contextmanager
    def client(self, address: str) -> Iterator[None]:
        """One request of a client's while inside.

        Raises:
            ClientLimit: as many are under way already.
        """
        most = self._settings.client_requests
        if not most:
            yield
            return
        network = _network(address)
        if self._under_way[network] >= most:
            raise ClientLimit(f"{most} requests of this client are under way already")
        self._under_way[network] += 1
        try:
            yield
        finally:
            self._under_way[network] -= 1
            if not self._under_way[network]:
                del self._under_way[network]

    @contextmanager
    def room(self, declared: int) -> Iterator[Callable[..., None]]:
        """Room for a body of ``declared`` bytes; what is yielded makes it room for so many in all, and raises too.

        But not with ``anyway``: for what is in memory already.

        Raises:
            BodiesFull: the bodies in memory leave no such room.
        """
        held = 0

        def hold(size: int, *, anyway: bool = False) -> None:
            nonlocal held
            more = max(0, size - held)
            if more and not anyway and self._bytes + more > self._settings.bodies_bytes:
                raise BodiesFull("the requests under way fill the memory that there is for bodies")
            self._bytes += more
            held += more

        try:
            hold(declared)
            yield hold
        finally:
            self._bytes -= held

    @contextmanager
    def rooms(self) -> Iterator[Callable[[int], None]]:
        """What is yielded finds room for so many bytes more that a request grows to; raises as :meth:`room` does."""
        with ExitStack() as held:

            def keep(size: int) -> None:
                held.enter_context(self.room(size))

            yield keep


def _network(address: str) -> str | bytes:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 one, which is the least that anybody has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if parsed.version == 4 or parsed.ipv4_mapped else parsed.packed[:8]


class Admission:
    """Inside :class:`service.http.RequestContext`, pure ASGI: each request through the doors, and out again."""

    def __init__(self, app: ASGIApp, doors: Doors, settings: Settings, metrics: Metrics) -> None:
        self.app, self.doors, self.settings, self.metrics = app, doors, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")[:20]
        # More than a body may have is refused unread, and needs no room for that.
        size = min(int(declared), self.settings.max_body_bytes) if declared.isdecimal() else 0
        with ExitStack() as held:
            try:
                if not _OPEN.fullmatch(scope["path"]):
                    self.doors.authorise(dict(scope["headers"]).get(b"x-api-key", b""))
                    held.enter_context(self.doors.client((scope.get("client") or ("",))[0]))
                hold = held.enter_context(self.doors.room(size))
            except ServiceError as error:
                await refusal(scope["path"], error, self.metrics)(scope, receive, send)
                return
            scope["state"]["keep"] = held.enter_context(self.doors.rooms())
            await self.app(scope, _bounded(receive, hold, self.settings.body_seconds), _in_pieces(send, hold))


def _bounded(receive: Receive, hold: Callable[[int], None], seconds: float) -> Receive:
    """``receive`` that raises ``BodyTimeout`` and ``BodiesFull`` until the body is whole, and waits for ever after."""
    deadline = asyncio.get_running_loop().time() + seconds
    taken, whole = 0, False

    async def bounded() -> Message:
        nonlocal taken, whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError as error:
            raise BodyTimeout(f"the body was not whole within {seconds:g} seconds") from error
        taken += len(message.get("body", b""))
        hold(taken)
        whole = not message.get("more_body", False)
        return message

    return bounded


def _in_pieces(send: Send, hold: Callable[..., None]) -> Send:
    """``send`` that hands on a large answer piece by piece, each once the client has taken most of those before.

    Whole, it would lie in the connection's buffer when the request has given back its room and the client's turn.
    """

    async def in_pieces(message: Message) -> None:
        body = message.get("body", b"")
        if len(body) > _PIECE:
            hold(len(body), anyway=True)
            last = (len(body) - 1) // _PIECE * _PIECE
            for start in range(0, last, _PIECE):
                await send({**message, "body": body[start : start + _PIECE], "more_body": True})
            message = {**message, "body": body[last:]}
        await send(message)

    return in_pieces
