"""The classifier behind us: one pooled asynchronous client."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import aiohttp

from .errors import DownstreamTimeout, DownstreamUnreachable

# RFC 9110 section 7.6.1: these belong to one connection. The length is the answer's own business.
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
# What of a client's request concerns the classifier; the body and its type are ours.
FORWARDED = ("authorization", "traceparent", "tracestate", "x-request-id")


@dataclasses.dataclass(frozen=True)
class DownstreamAnswer:
    """The classifier's answer as it came: status, end-to-end headers, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Downstream:
    """Forwards bodies to one URL; statuses, bodies and headers come back verbatim."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self.url = url
        # Bytes are passed on as they come, so nothing may decode them on the way.
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=min(5.0, timeout_seconds)),
            connector=aiohttp.TCPConnector(limit=256),
            auto_decompress=False,
        )

    async def forward(self, body: bytes, content_type: str, headers: Mapping[str, str]) -> DownstreamAnswer:
        """POST ``body``.

        Raises:
            DownstreamUnreachable: no connection, or it broke before the answer was complete.
            DownstreamTimeout: no complete answer in time.
        """
        forwarded = {name: headers[name] for name in FORWARDED if name in headers}
        try:
            async with self._session.post(
                self.url, data=body, headers={**forwarded, "Content-Type": content_type}, allow_redirects=False
            ) as answer:
                kept = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP}
                return DownstreamAnswer(answer.status, kept, await answer.read())
        except TimeoutError as error:
            raise DownstreamTimeout("the classifier did not answer in time") from error
        except aiohttp.ClientError as error:
            raise DownstreamUnreachable(f"the classifier could not be reached: {type(error).__name__}") from error

    async def close(self) -> None:
        """Close the pool."""
        await self._session.close()
