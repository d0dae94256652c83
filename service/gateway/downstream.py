"""The model server: one pooled client that passes on what concerns it and brings answers back verbatim."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import time
from collections.abc import Mapping
from typing import Self, cast

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from ..errors import DownstreamOpen, DownstreamTimeout, DownstreamUnreachable, shown

logger = logging.getLogger("service.gateway")

# RFC 9110 section 7.6.1: these belong to one connection. A body's length is its sender's own business.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# Ours, or of this connection; the rest of a client's headers concern the server.
_KEPT_HERE = frozenset({"host", "expect", "x-admin-token", "x-api-key", "x-arn-compare"}) | HOP_BY_HOP
# How long the client still waits: the header that Envoy reads, in milliseconds.
DEADLINE = "x-envoy-expected-rq-timeout-ms"

# No header has one (RFC 9110, section 5.5), and what would send it on ends the connection instead.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

# Of a line or header of an answer, and how many headers. A redirect may repeat a client's query, of 64 KiB at most,
# with three bytes for one; aiohttp's own 8,190 bytes would make that a failure.
_MOST_LINE_BYTES, _MOST_HEADERS = 256 * 2**10, 1024

_NOT_CONNECTED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_FAILURES_TO_OPEN = 5
_SLOW_PATHS = 64  # of which timeouts are remembered: clients choose the names of models
_FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0
_RETRY_SHARE = 0.1  # of the requests; what a failing server gets on top of its load
_RETRIES_AT_MOST = 10.0


@dataclasses.dataclass(frozen=True)
class DownstreamAnswer:
    """The server's answer as it came: status, end-to-end headers, body.

    ``sent`` is False where it stands for that of a server that certainly got nothing of the request.
    """

    status: int
    headers: CIMultiDict[str]
    body: bytes
    sent: bool = dataclasses.field(default=True, kw_only=True)


class Breaker:
    """Stops asking a server that does not answer; lets one request through after each pause, which doubles.

    An answer of any status is no failure, nor is one that cannot be read: the server is there.

    Args:
        what: does not answer; for the log and the client.
    """

    def __init__(self, what: str = "the model server") -> None:
        self._what = what
        self._failures = 0
        self._pause = _FIRST_PAUSE_SECONDS
        self._until = 0.0
        self._probing = False

    def admit(self) -> None:
        """Raises ``DownstreamOpen``, with the seconds left, while the pause lasts."""
        now = time.monotonic()
        if self._failures >= _FAILURES_TO_OPEN:
            if now < self._until:
                left = max(1, round(self._until - now))
                raise DownstreamOpen(f"{self._what} failed {self._failures} times in a row", left)
            self._probing, self._until = True, now + self._pause  # what goes through now is the probe

    def succeeded(self) -> None:
        """The server answered."""
        if self._failures >= _FAILURES_TO_OPEN:
            logger.warning("%s answers again, after %d failures in a row", self._what, self._failures)
        self._failures, self._pause, self._probing = 0, _FIRST_PAUSE_SECONDS, False

    def unsettled(self) -> None:
        """Whoever asked gave up before that was known: where that was the probe, the next one may be it."""
        if self._probing:
            self._probing, self._until = False, time.monotonic()

    def failed(self) -> None:
        """The server did not."""
        self._failures += 1
        if self._failures == _FAILURES_TO_OPEN:
            text = "%s failed %d times in a row: it is tried again now and then"
            logger.warning(text, self._what, self._failures)
        if self._failures == _FAILURES_TO_OPEN or self._probing:  # of those under way by then one alone doubles it
            self._probing = False
            self._until = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)


class _Answer(aiohttp.ClientResponse):
    """Ends its connection where its head is no HTTP: one whose body is complete is back in the pool by then."""

    async def start(self, connection: aiohttp.connector.Connection) -> Self:
        """See aiohttp."""
        transport = connection.transport
        await super().start(connection)
        if transport is not None and not self.is_http:
            transport.close()
        return self

    @property
    def is_http(self) -> bool:
        """Whether status and headers are such as HTTP has."""
        return 200 <= self.status <= 599 and not any(map(_CONTROL.search, self.headers.values()))


class Downstream:
    """Asks one server. ``url`` is its base, or, where no path is asked for, the one address that takes images.

    One breaker counts the connections that fail, or end before an answer begins. Timeouts have one for each path, so
    that a slow model does not keep requests from the others.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self.url = url
        self._breaker = Breaker()
        self._slow: dict[str, Breaker] = {}  # of the paths that timed out last, the latest at the end
        self._timeout_seconds = timeout_seconds
        self._retries = _RETRIES_AT_MOST
        # Bytes are passed on as they come, so nothing may decode them on the way.
        self._session = aiohttp.ClientSession(
            # Shorter than any server keeps one that is idle (gunicorn: 2 s): what is sent on it then would be lost.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=1.5),
            response_class=_Answer,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),  # or one client's cookies would go out with another's requests
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            max_line_size=_MOST_LINE_BYTES,
            max_field_size=_MOST_LINE_BYTES,
            max_headers=_MOST_HEADERS,
        )
        # Or aiohttp sends PUT and GET once more where a kept connection breaks, though the server may have read them.
        # It has no public switch (a test sees that this one works).
        self._session._retry_connection = False

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | bytearray = b"",
        seconds: float | None = None,
    ) -> DownstreamAnswer:
        """Send a request; of ``headers`` those that are not the server's are left out.

        A connection that could not be made is tried once more, as nothing was sent; nothing else is, because only the
        client knows whether its request may be sent twice.

        Raises:
            DownstreamOpen: it failed repeatedly and is left alone for a moment.
            DownstreamUnreachable: no connection, it broke before the answer was complete, or the answer is no HTTP.
            DownstreamTimeout: no complete answer in time.
        """
        asked = path.partition("?")[0]
        self._admit(asked)
        limit = min(self._timeout_seconds, seconds if seconds is not None else self._timeout_seconds)
        passed_on = {name: value for name, value in headers.items() if name.lower() not in _KEPT_HERE}
        passed_on[DEADLINE] = str(max(1, round(1000 * limit)))
        self._retries = min(_RETRIES_AT_MOST, self._retries + _RETRY_SHARE)
        try:
            async with asyncio.timeout(limit):
                try:
                    answer = await self._once(method, path, passed_on, body)
                except _NOT_CONNECTED:
                    if self._retries < 1:
                        raise
                    self._retries -= 1
                    await asyncio.sleep(0.05)
                    answer = await self._once(method, path, passed_on, body)
        except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as error:
            self._answered(asked)
            raise DownstreamUnreachable(f"the model server's answer is not read: {type(error).__name__}") from error
        except aiohttp.ClientError as error:  # before TimeoutError, which aiohttp's of a connection is too
            self._breaker.failed()
            self._unsettled(asked)
            unreachable = DownstreamUnreachable(f"the model server cannot be reached: {type(error).__name__}")
            unreachable.sent = not isinstance(error, _NOT_CONNECTED)
            raise unreachable from error
        except TimeoutError as error:
            if limit == self._timeout_seconds:  # and not the client's deadline, which is no failure of the server
                self._timed_out(asked)
            self._unsettled(asked)
            raise DownstreamTimeout(f"the model server did not answer within {limit:.3g} s") from error
        except asyncio.CancelledError:
            self._unsettled(asked)
            raise
        self._answered(asked)
        return answer

    def _admit(self, path: str) -> None:
        """Raises ``DownstreamOpen`` while the server, or the path, is left alone."""
        self._breaker.admit()
        if slow := self._slow.get(path):
            try:
                slow.admit()
            except DownstreamOpen:
                self._breaker.unsettled()
                raise

    def _answered(self, path: str) -> None:
        self._breaker.succeeded()
        if slow := self._slow.pop(path, None):
            slow.succeeded()

    def _unsettled(self, path: str) -> None:
        """What has neither failed nor answered now."""
        self._breaker.unsettled()
        if slow := self._slow.get(path):
            slow.unsettled()

    def _timed_out(self, path: str) -> None:
        what = f"the model server at {shown(path)}" if path else "the model server"
        self._slow[path] = slow = self._slow.pop(path, None) or Breaker(what)
        slow.failed()
        if len(self._slow) > _SLOW_PATHS:
            del self._slow[next(iter(self._slow))]

    async def _once(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | bytearray
    ) -> DownstreamAnswer:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=min(2.0, self._timeout_seconds))
        async with self._session.request(
            method,
            URL(self.url.rstrip("/") + path if path else self.url, encoded=True),
            data=body or None,
            headers={name: _as_sent(value) for name, value in headers.items()},
            allow_redirects=False,
            timeout=timeout,
        ) as answer:
            dropped = HOP_BY_HOP | named_by_connection(",".join(answer.headers.getall("connection", [])))
            if method == "HEAD":  # of the body that a GET would bring
                dropped -= {"content-length"}
            kept = CIMultiDict((k, v) for k, v in answer.headers.items() if k.lower() not in dropped)
            if not cast(_Answer, answer).is_http:
                raise aiohttp.ClientResponseError(answer.request_info, answer.history)
            return DownstreamAnswer(answer.status, kept, await answer.read())

    async def close(self) -> None:
        """Close the pool."""
        await self._session.close()


def named_by_connection(connection: str) -> set[str]:
    """The headers that ``Connection`` names as belonging to it, in lower case."""
    return {name.strip().lower() for name in connection.split(",")}


def _as_sent(value: str) -> str:
    """A header's value, which Starlette reads as Latin-1, such that aiohttp, which writes UTF-8, sends the same bytes.

    One that is no UTF-8 arrives as UTF-8 of what Latin-1 makes of it.
    """
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value
